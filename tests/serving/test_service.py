"""The service over real HTTP: Ray Serve on a free port of this machine, two samplers, a tiny model in float64."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import socket
import struct
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelmodels.data.quantization import dequantize, quantize
from pixelmodels.models import Context
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from pixelmodels.serving import running
from pixelmodels.serving.client import Client, ServiceError
from pixelmodels.tracking.grids import grid
from tests.serving.conftest import KEY, SPEC, Service, small_model

LEVELS_NCHW = np.random.default_rng(0).integers(0, SPEC.levels, (5, *SPEC.shape)).astype(np.uint8)


def grey(levels_CHW: np.ndarray) -> np.ndarray:
    return dequantize(levels_CHW, SPEC.levels)[0]


def levels_of_png(text: str) -> np.ndarray:
    return quantize(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), SPEC.levels)


def drawn(service: Service, version: str = "1", **options: Any) -> np.ndarray:
    return draw_all(service.registry.models[version], Request(**options)).numpy()


def raw(service: Service, path: str, body: bytes | None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
    default = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("GET" if body is None else "POST", path, body, default if headers is None else headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.headers.items()}, answer


def refusal(service: Service, path: str, body: Any) -> tuple[int, str, str | None]:
    status, _, answer = raw(service, path, body if isinstance(body, bytes) else json.dumps(body).encode())
    error = json.loads(answer)
    assert set(error) == {"code", "message", "field"} and error["message"]
    return status, error["code"], error["field"]


# --- answers ---


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
        until = time.monotonic() + 30
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
        until = time.monotonic() + 30
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


# --- what is refused ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, data: bytes = b"") -> str:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")).decode()


BOMB = png(50_000, 50_000, zlib.compress(bytes(1000)))
WRONG_SIZE = png(5, 6, zlib.compress(bytes(35)))
CORRUPT = png(6, 5, b"not zlib")
LONG = base64.b64encode(bytes(5000)).decode()


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("samples", {"n": 0}, 422, "n"),
        ("samples", {"n": 65}, 422, "n"),
        ("samples", {"n": "3"}, 422, "n"),
        ("samples", {"n": 9, "stream": True}, 422, "n"),
        ("samples", {"m": 1}, 422, "m"),
        ("samples", {"label": 3}, 422, "label"),
        ("samples", {"vector": [1.0]}, 422, "vector"),
        ("samples", {"context_image": BOMB}, 422, "context_image"),
        ("samples", {"temperature": 0}, 422, "temperature"),
        ("samples", {"top_p": 1.5}, 422, "top_p"),
        ("samples", {"seed": -1}, 422, "seed"),
        ("samples", {"seed": 1 << 63}, 422, "seed"),
        ("samples", {"stream": True, "format": "npz"}, 422, "stream"),
        ("samples", {"timeout_s": 5000}, 422, "timeout_s"),
        ("samples", {"model": "../../etc"}, 422, "model"),
        ("samples", [1], 422, None),
        ("samples", b"{", 400, None),
        ("samples", b"\xff\xfe", 400, None),
        ("samples", b"[" * 100_000, 400, None),
        ("completions", {"image": WRONG_SIZE, "known_rows": 1}, 422, "image"),
        ("completions", {"image": BOMB, "known_rows": 1}, 422, "image"),
        ("completions", {"image": CORRUPT, "known_rows": 1}, 422, "image"),
        ("completions", {"image": "%%%%", "known_rows": 1}, 422, "image"),
        ("completions", {"image": LONG[:4000], "known_rows": 1}, 422, "image"),
        ("completions", {"image": LONG, "known_rows": 1}, 413, "image"),
        ("completions", {"image": WRONG_SIZE}, 422, "mask"),
        ("scores", {"images": []}, 422, "images"),
        ("scores", {"images": [BOMB]}, 422, "images.0"),
        ("scores", {"images": [CORRUPT] * 65}, 422, "images"),
        ("nothing", {}, 404, None),
        ("models", {}, 405, None),
    ],
)
def test_what_cannot_be_used_is_named(service: Service, path: str, body: Any, status: int, field: str | None) -> None:
    began = time.monotonic()
    found = refusal(service, f"/v1/{path}", body)
    assert (found[0], found[2]) == (status, field)
    assert time.monotonic() - began < 10


def test_a_body_that_is_too_large_is_refused_by_its_length(service: Service) -> None:
    assert refusal(service, "/v1/samples", b" " * 300_000)[:2] == (413, "too_large")


def test_an_endless_upload_is_refused_while_it_is_read(service: Service) -> None:
    with socket.create_connection((service.host, service.port), timeout=60) as connection:
        head = f"POST /v1/samples HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        sent = 0
        connection.settimeout(0.01)
        answer = b""
        while not answer and sent < 500 << 20:
            try:
                connection.settimeout(10)
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
                connection.settimeout(0.01)
                answer = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
    assert sent < 100 << 20
    assert b"413" in answer.split(b"\r\n")[0] or not answer


def test_a_slow_upload_is_given_up(service: Service) -> None:
    with socket.create_connection((service.host, service.port), timeout=60) as connection:
        head = f"POST /v1/samples HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        assert b"408" in connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "wrong"}])
@pytest.mark.parametrize("path", ["/v1/samples", "/v1/models", "/metrics"])
def test_no_key_no_answer(service: Service, headers: dict[str, str], path: str) -> None:
    status, answered, body = raw(service, path, b"{}" if path == "/v1/samples" else None, headers)
    assert status == 401 and json.loads(body)["code"] == "unauthorized" and answered["www-authenticate"] == "Bearer"


def test_the_key_may_come_in_either_header(service: Service) -> None:
    assert raw(service, "/v1/models", None, {"X-API-Key": KEY})[0] == 200


# --- load, and losses ---


def state(service: Service, name: str) -> float:
    page = raw(service, "/metrics", None)[2].decode()
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"pixelmodels_{name}{{"))


def settles(service: Service, name: str, value: float, within_s: float = 30) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if state(service, name) == value:
            return True
        time.sleep(0.1)
    return False


def test_overload_is_answered_at_once_and_the_rest_is_right(service: Service) -> None:
    def ask(seed: int) -> tuple[int, np.ndarray | ServiceError]:
        try:
            return seed, service.client.samples(40, seed=seed).images_NCHW
        except ServiceError as error:
            return seed, error

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    refused = [answer for _, answer in answers if isinstance(answer, ServiceError)]
    assert refused and all(error.status == 429 and error.retry_after_s >= 1 for error in refused)
    images = [(seed, answer) for seed, answer in answers if not isinstance(answer, ServiceError)]
    assert images and all(np.array_equal(answer, drawn(service, n=40, seed=seed)) for seed, answer in images)
    assert settles(service, "unfinished_images", 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slots(service: Service, stream: bool) -> None:
    service.client.samples(8, model="3")  # loads it, on one of the samplers at least
    before = state(service, "images_drawn_total")
    body = json.dumps({"n": 64, "model": "3", "stream": stream, "every": "image"}).encode()
    connections = []
    for _ in range(4):
        connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
        connection.request("POST", "/v1/samples", body, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
        connections.append(connection)
    until = time.monotonic() + 30
    while not state(service, "unfinished_images") and time.monotonic() < until:
        time.sleep(0.01)
    for connection in connections:
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
    assert settles(service, "unfinished_images", 0)
    assert settles(service, "unfinished_requests", 0)
    assert state(service, "images_drawn_total") - before < 128  # of 256


def test_a_sampler_that_is_killed_loses_no_request(service: Service) -> None:
    page = raw(service, "/metrics", None)[2].decode()
    pids = {int(line.split('replica="')[1].split('"')[0].rsplit("-", 1)[1]) for line in page.splitlines() if "images_drawn_total{" in line}
    assert len(pids) == 2
    answers: list[Any] = []

    def ask(seed: int) -> None:
        client = Client(service.client.url, KEY, timeout_s=120)
        for index in range(4):
            try:
                found = client.samples(4, seed=10 * seed + index)
                right = np.array_equal(found.images_NCHW, drawn(service, n=4, seed=10 * seed + index))
                answers.append("right" if right else "wrong")
            except ServiceError as error:
                answers.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    os.kill(min(pids), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(answers) == 24
    assert all(answer == "right" or answer.code in ("sampler_lost", "overloaded") for answer in answers)
    assert answers.count("right") >= 12
    until = time.monotonic() + 60
    while time.monotonic() < until:  # whole again
        page = raw(service, "/metrics", None)[2].decode()
        if "pixelmodels_samplers 2.0" in page and str(min(pids)) not in page:
            break
        time.sleep(0.5)
    assert "pixelmodels_samplers 2.0" in page


def test_urllib_needs_no_more_than_the_readme_says(service: Service) -> None:
    asked = urllib.request.Request(
        f"{service.client.url}/v1/samples",
        b'{"n": 16, "seed": 1, "format": "grid"}',
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(asked, timeout=60) as response:
        assert response.read()[:4] == b"\x89PNG"


def test_the_end_finishes_what_was_begun(service: Service) -> None:
    """The last test: nothing is served after it."""
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(service.client.samples, 64, seed=6, model="3")
        until = time.monotonic() + 30
        while not state(service, "unfinished_images") and time.monotonic() < until:
            time.sleep(0.01)
        ended = pool.submit(running.stop, service.handle, 30.0)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                service.client.samples(1)
            except ServiceError as error:
                assert (error.status, error.code) == (503, "draining")
                break
        assert np.array_equal(begun.result().images_NCHW, drawn(service, "3", n=64, seed=6))
        assert ended.result() is True
