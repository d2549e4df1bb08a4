"""The service over real HTTP: Ray Serve on a free port of this machine, two samplers, tiny models in float64."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from pixelmodels.data.quantization import dequantize, quantize
from pixelmodels.models import Context
from pixelmodels.pictures import grid
from tests.serving.conftest import FULL, IMAGE, KEY, SMALL, SPEC, Service, small_model
from tests.serving.web import by_sampler, drawn, grey, listening, parents, pids, raw, read, refusal, replica_pids

LEVELS_NCHW = np.random.default_rng(0).integers(0, SPEC.levels, (5, *SPEC.shape)).astype(np.uint8)


def levels_of_png(text: str) -> np.ndarray:
    return quantize(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), SPEC.levels)


def test_samples_are_those_of_the_engine(service: Service) -> None:
    found = service.client.samples(3, seed=5, label=2, temperature=0.8, top_p=0.9, guidance=0.5, first=4)
    context = Context(label_B=torch.tensor([2]))
    wanted = drawn(service, n=3, seed=5, first=4, context=context, temperature=0.8, top_p=0.9, guidance=0.5)
    assert np.array_equal(found.images_NCHW, wanted) and found.model == "tiny/1"


def test_every_form_of_answer_holds_the_same_images(service: Service) -> None:
    wanted = drawn(service, n=4, seed=1)
    status, headers, body = raw(service, "/v1/samples", b'{"n": 4, "seed": 1}')
    answer = json.loads(body)
    assert status == 200 and (answer["model"], answer["seed"], answer["first"]) == ("tiny/1", 1, 0)
    assert np.array_equal([levels_of_png(text) for text in answer["images"]], wanted[:, 0])
    status, headers, body = raw(service, "/v1/samples", b'{"n": 4, "seed": 1, "format": "grid"}')
    assert (status, headers["content-type"], headers["x-model"]) == (200, "image/png", "tiny/1")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), grid(wanted, SPEC.levels))


def test_replicas_listen_where_their_ray_node_does(service: Service) -> None:
    """Beside the port that every process of Ray has, at the node's address only: Serve itself would listen on all interfaces."""

    @ray.remote(num_cpus=0)
    class Plain:
        def pid(self) -> int:
            return os.getpid()

    plain = Plain.remote()
    ports_of_ray = listening(ray.get(plain.pid.remote()))
    node = f"{int.from_bytes(socket.inet_aton(ray.util.get_node_ip_address()), 'little'):08X}"
    replicas = replica_pids("Sampler") + replica_pids("Ingress")
    assert [listening(pid) - ports_of_ray for pid in replicas] == [Counter({node: 1})] * 3


def test_messages_between_its_processes_may_be_long(service: Service) -> None:
    proxies = [pid for pid in pids() if b"ray::ProxyActor" in read(pid, "cmdline") and os.getpid() in parents(pid)]
    found = [read(pid, "environ") for pid in (*replica_pids("Sampler"), *replica_pids("Ingress"), *proxies)]
    assert len(found) == 4
    assert all(f"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH={1 << 30}".encode() in one.split(b"\0") for one in found)


def test_a_large_request_that_comes_alone_is_shared_out(service: Service) -> None:
    before = by_sampler(service, "images_drawn_total")
    assert np.array_equal(service.client.samples(17, seed=3).images_NCHW, drawn(service, n=17, seed=3))
    after = by_sampler(service, "images_drawn_total")
    assert sorted(after[pid] - before[pid] for pid in after) == [8, 9]


def test_a_seed_is_chosen_and_told(service: Service) -> None:
    first, second = service.client.samples(2), service.client.samples(2)
    assert first.seed != second.seed
    assert np.array_equal(service.client.samples(2, seed=first.seed).images_NCHW, first.images_NCHW)


def test_a_seed_gives_the_same_image_on_every_replica_and_in_any_company(service: Service) -> None:
    wanted = drawn(service, n=1, seed=9)
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: service.client.samples(1, seed=9).images_NCHW, range(24)))
    assert all(np.array_equal(images, wanted) for images in found)
    page = raw(service, "/metrics", None)[2].decode()
    lines = [line for line in page.splitlines() if line.startswith("pixelmodels_images_drawn_total{")]
    assert len(lines) == 2 and all(float(line.split()[-1]) > 0 for line in lines)  # both of them have drawn


def test_streamed_rows_assemble_to_the_images(service: Service) -> None:
    wanted = drawn(service, n=2, seed=4)
    events = list(service.client.stream(2, seed=4))
    assert (events[0].kind, events[-1].kind, events[0].data["model"]) == ("start", "done", "tiny/1")
    seen = np.zeros_like(wanted)
    for event in events:
        if event.kind == "row":
            row = event.data["row"]
            seen[event.data["image"], :, row] = event.data["levels"]
            assert np.array_equal(quantize(event.picture, SPEC.levels), seen[event.data["image"], 0, : row + 1])
        elif event.kind == "image":
            assert np.array_equal(quantize(event.picture, SPEC.levels), seen[event.data["image"], 0])
    assert np.array_equal(seen, wanted)
    assert sum(event.kind == "row" for event in events) == 2 * SPEC.height


def test_a_stream_of_images_only(service: Service) -> None:
    events = list(service.client.stream(20, seed=4, every="image"))
    found = {event.data["image"]: quantize(event.picture, SPEC.levels) for event in events if event.kind == "image"}
    assert np.array_equal([found[index] for index in range(20)], drawn(service, n=20, seed=4)[:, 0])
    assert {event.kind for event in events} == {"start", "image", "done"}


def test_completions_keep_what_is_known(service: Service) -> None:
    image = LEVELS_NCHW[0]
    mask = np.random.default_rng(1).random((SPEC.height, SPEC.width)) < 0.5
    found = service.client.completions(grey(image), mask=mask, n=3, seed=2).images_NCHW
    known = {"known_NCHW": torch.from_numpy(image)[None], "known_mask_NHW": torch.from_numpy(mask)[None]}
    assert np.array_equal(found, drawn(service, n=3, seed=2, **known))
    assert np.array_equal(found[:, :, mask], np.repeat(image[None][:, :, mask], 3, axis=0))
    rows = service.client.completions(grey(image), known_rows=2, seed=2).images_NCHW
    assert np.array_equal(rows[0, :, :2], image[:, :2])
    last = list(service.client.stream(1, image=grey(image), known_rows=6))[-2]
    assert np.array_equal(quantize(last.picture, SPEC.levels), image[0])


def test_what_a_model_is_conditioned_on_reaches_the_engine(service: Service) -> None:
    generator = np.random.default_rng(2)
    image = generator.integers(0, IMAGE.levels, IMAGE.shape).astype(np.uint8)
    small = generator.integers(0, SMALL.levels, SMALL.shape).astype(np.uint8)
    options: dict[str, Any] = {
        "label": 1,
        "vector": [0.25, -2.0],
        "context_image": image[0],
        "small_image": dequantize(small, SMALL.levels)[0],
    }
    whole = Context(
        torch.tensor([1]), torch.tensor([[0.25, -2.0]]), torch.from_numpy(image)[None].long(), torch.from_numpy(small)[None].long()
    )
    parts = {
        "label": Context(label_B=whole.label_B),
        "vector": Context(vector_BV=whole.vector_BV),
        "context_image": Context(image_BCHW=whole.image_BCHW),
        "small_image": Context(small_BCHW=whole.small_BCHW),
    }
    for names, context in [((name,), part) for name, part in parts.items()] + [(tuple(options), whole)]:
        given = {name: options[name] for name in names}
        found = service.client.samples(3, seed=5, model=FULL, guidance=0.5, **given)
        wanted = drawn(service, f"{FULL}/1", n=3, seed=5, guidance=0.5, context=context)
        assert found.model == f"{FULL}/1" and np.array_equal(found.images_NCHW, wanted), names
        (score,) = service.client.scores(list(dequantize(found.images_NCHW[:1, 0], SPEC.levels)), model=FULL, **given)
        with torch.no_grad():
            nats_B = -service.registry.models[f"{FULL}/1"].log_prob(torch.from_numpy(found.images_NCHW[:1]).long(), context)
        assert score["nats"] == pytest.approx(nats_B.item(), rel=1e-9), names
    rows = service.client.completions(grey(wanted[0]), known_rows=2, seed=7, model=FULL, **options).images_NCHW
    known = {"known_NCHW": torch.from_numpy(wanted[:1]), "known_mask_NHW": (torch.arange(6) < 2)[None, :, None].expand(1, 6, 5)}
    assert np.array_equal(rows, drawn(service, f"{FULL}/1", n=1, seed=7, context=whole, **known))
    events = list(service.client.stream(2, seed=5, model=FULL, guidance=0.5, every="image", **options))
    found_levels = {event.data["image"]: quantize(event.picture, SPEC.levels) for event in events if event.kind == "image"}
    assert np.array_equal([found_levels[0], found_levels[1]], wanted[:2, 0])


def test_scores_are_those_of_the_model(service: Service) -> None:
    model = service.registry.models["1"]
    context = Context(label_B=torch.tensor([1] * 5))
    with torch.no_grad():
        nats_BHW = -model.log_prob_map(torch.from_numpy(LEVELS_NCHW).long(), context)
    scores = service.client.scores([grey(image) for image in LEVELS_NCHW], label=1, map=True)
    assert [score["nats"] for score in scores] == pytest.approx(nats_BHW.sum((1, 2)).tolist(), rel=1e-9)
    dims = SPEC.num_subpixels * np.log(2)
    assert [score["bits_per_dim"] for score in scores] == pytest.approx((nats_BHW.sum((1, 2)) / dims).tolist(), rel=1e-9)
    assert np.allclose([score["map_bits"] for score in scores], nats_BHW.numpy() / np.log(2), rtol=1e-9)
    assert "map_bits" not in service.client.scores([grey(LEVELS_NCHW[0])])[0]


def test_models_and_pages(service: Service) -> None:
    models = service.client.models()
    assert models["default"] == "tiny" and {"champion", "1", "2", "3"} <= set(models["available"]["tiny"])
    (info,) = [info for info in models["loaded"] if "tiny" in info["names"]]
    assert (info["height"], info["width"], info["levels"], info["num_classes"], info["replicas"]) == (6, 5, 7, 3, 2)
    assert service.client.is_ready()
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert raw(service, path, None, {})[0] == 200
    text = raw(service, "/openapi.json", None)[2].decode()
    assert all(path in text for path in ("/v1/samples", "/v1/completions", "/v1/scores", "/v1/models", "text/event-stream"))
    assert 'pixelmodels_http_requests_total{route="/v1/models",status="200"}' in raw(service, "/metrics", None)[2].decode()


def test_urllib_needs_no_more_than_the_readme_says(service: Service) -> None:
    asked = urllib.request.Request(
        f"{service.client.url}/v1/samples",
        b'{"n": 16, "seed": 1, "format": "grid"}',
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(asked, timeout=60) as response:
        assert response.read()[:4] == b"\x89PNG"


# --- versions ---


def test_versions_are_loaded_on_demand_and_the_least_used_unloaded(service: Service) -> None:
    for asked in ("3", "tiny/3", "tiny@champion", "champion"):
        found = service.client.samples(1, seed=0, model=asked)
        version = "3" if "3" in asked else "1"
        assert found.model == f"tiny/{version}" and np.array_equal(found.images_NCHW, drawn(service, version, n=1, seed=0))
    service.client.samples(1, model="2")
    assert len({info["model"] for info in service.client.models()["loaded"]}) <= 3  # two replicas of two each, one of them the default


@pytest.mark.parametrize("asked", ["nobody", "99", "tiny/99", "tiny@nobody", "other@champion", "other/1"])
def test_a_model_that_is_not_there(service: Service, asked: str) -> None:
    assert refusal(service, "/v1/samples", {"model": asked}) == (404, "unknown_model", "model")


def test_an_alias_moves_without_failing_a_request_and_a_broken_version_changes_nothing(service: Service) -> None:
    registry, failures, versions, ended = service.registry, [], [], threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                found = service.client.samples(2, seed=3)
                versions.append(found.model)
                if not np.array_equal(found.images_NCHW, drawn(service, found.model.split("/")[1], n=2, seed=3)):
                    failures.append("another version's images")
            except Exception as error:
                failures.append(repr(error))

    def moved(version: str) -> bool:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            infos = [info for info in service.client.models()["loaded"] if "tiny" in info["names"]]
            if [(info["model"], info["replicas"]) for info in infos] == [(f"tiny/{version}", 2)]:
                return True
            time.sleep(0.1)
        return False

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        registry.point("champion", "2")
        assert moved("2")
        broken = small_model(7)
        with torch.no_grad():
            next(iter(broken.parameters())).fill_(float("nan"))
        version = registry.add(broken)
        registry.point("champion", version)
        until = time.monotonic() + 120
        while f"tiny/{version}" not in service.client.models()["refused"] and time.monotonic() < until:
            time.sleep(0.1)
        assert "not finite" in service.client.models()["refused"][f"tiny/{version}"]
        assert moved("2")
        registry.point("champion", "1")
        assert moved("1")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert set(versions) == {"tiny/1", "tiny/2"}
