"""Keys, PNGs, options, the autoscaling policy and the cluster's configuration, without a service."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from pixelmodels import rayctx
from pixelmodels.data.decoding import decode
from pixelmodels.data.quantization import dequantize
from pixelmodels.errors import UserError
from pixelmodels.serving import keys, pngs, running
from pixelmodels.serving.autoscaling import METRIC, ImagesPolicy
from pixelmodels.serving.client import Client, ServiceError
from pixelmodels.serving.pngs import image_of, mask_of, png_of
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.settings import Settings
from pixelmodels.serving.versions import is_folder
from pixelmodels.shapes import ImageSpec

CONFIGURATION = Path(__file__).parents[2] / "cluster" / "serve.yaml"


@pytest.mark.parametrize("levels", [2, 3, 17, 100, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_come_back_out_of_their_png(levels: int, channels: int) -> None:
    spec = ImageSpec(channels, 9, 4, levels)
    image_CHW = np.random.default_rng(0).integers(0, levels, spec.shape).astype(np.uint8)
    text = base64.b64encode(png_of(image_CHW, levels)).decode()
    assert np.array_equal(image_of(text, "image", spec, 10_000), image_CHW)
    if channels == 1:
        assert np.array_equal(mask_of(text, "mask", spec, 10_000), dequantize(image_CHW, levels)[0] > 0)


def test_an_image_that_is_too_large_is_not_decoded() -> None:
    spec = ImageSpec(1, 9, 4, 2)
    with pytest.raises(Refused) as refused:
        image_of("!" * 1000, "image", spec, 100)
    assert (refused.value.status, refused.value.field) == (413, "image")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("kind", "head"), [(b"IDAT", b""), (b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")], ids=lambda value: str(value)
)
def test_what_unpacks_to_very_much_is_not_unpacked(kind: bytes, head: bytes) -> None:
    """Files of the right size, of 100 KB, with 100 MB in one of their parts: the pixels there are come out, and no more of them."""
    spec = ImageSpec(1, 9, 4, 2)
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * 5)))
    bomb = chunk(kind, head + HUGE)
    parts = (bomb,) if kind == b"IDAT" else (bomb, pixels)
    data = b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 9, 8, 0, 0, 0, 0)), *parts, chunk(b"IEND", b"")))
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before_kb = peak_kb()
    began = time.monotonic()
    assert not image_of(base64.b64encode(data).decode(), "image", spec, 1 << 20).any()
    assert peak_kb() - before_kb < 20_000 and time.monotonic() - began < 5


def test_only_what_says_what_the_pixels_are_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles and texts in thousands, a picture's orientation, a checksum that is wrong in one of them: as if they were not there."""
    spec = ImageSpec(3, 4, 9, 256)
    palette = chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\xff\x00")
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes([1] * 9) for _ in range(4))))
    small = zlib.compress(bytes(1000))
    more = b"".join(chunk(kind, b"a\0\0" + small) for kind in (b"iCCP", b"zTXt") for _ in range(5000))
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 4, 8, 3, 0, 0, 0))
    signature, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    seen: list[bytes] = []

    def decoded(data: bytes, *options: Any) -> Any:
        seen.append(data)
        return decode(data, *options)

    monkeypatch.setattr(pngs, "decode", decoded)
    data = b"".join((signature, header, more, turned, palette, chunk(b"tEXt", b"a\0b")[:-1] + b"?", pixels, more, end, b"after the end"))
    image_CHW = image_of(base64.b64encode(data).decode(), "image", spec, 1 << 20)
    assert seen == [signature + header + palette + pixels + end]
    assert (image_CHW == 255).all()  # the second colour, which is transparent: over white


HUGE = zlib.compress(bytes(100 << 20))


def peak_kb() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def test_keys_are_known_by_their_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = keys.new_key(), keys.new_key()
    file = tmp_path / "keys"
    file.write_text(f"# those who may ask\n{keys.hash_of(first)} of the first\n\n")
    hashes = keys.read_hashes(file)
    assert keys.is_known(first, hashes) and not keys.is_known(second, hashes) and not keys.is_known("", hashes)
    monkeypatch.setenv(keys.VARIABLE, f"{keys.hash_of(first)}, {keys.hash_of(second)}")
    assert keys.is_known(second, keys.hashes_of_environment())
    file.write_text(first)
    with pytest.raises(UserError, match="no SHA-256 hash") as error:
        keys.read_hashes(file)
    assert first not in str(error.value)  # a key that was put there by mistake is not shown
    with pytest.raises(UserError, match="cannot be read"):
        keys.read_hashes(tmp_path / "none")


def test_other_machines_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--api-keys"):
        running.Serve(host="0.0.0.0").settings()
    file = tmp_path / "keys"
    file.write_text(keys.hash_of("key"))
    assert running.Serve(host="0.0.0.0", api_keys=file).settings().key_hashes == (keys.hash_of("key"),)
    assert running.Serve(host="0.0.0.0", api_keys=file).settings().require_key and Settings().require_key
    assert running.Serve().settings().key_hashes == () and not running.Serve().settings().require_key
    file.write_text("")
    with pytest.raises(UserError, match="holds no hash"):
        running.Serve(host="0.0.0.0", api_keys=file).settings()
    for host, loopback in (
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("::", False),
        ("10.0.0.1", False),
    ):
        assert running.is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"slots": 0}, "--slots 0"),
        ({"port": 70_000}, "--port 70000"),
        ({"timeout": 0.5}, "--timeout 0.5"),
        ({"max_n": 9999}, "--max-n 9999"),
        ({"replicas": 3, "max_replicas": 2}, "--max-replicas 2 cannot be used .* 3"),
        ({"max_n": 200, "max_waiting": 100, "slots": 64}, "--max-n 200 cannot be used .* 164 images"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        running.Serve(**options).settings()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "num_cores", "samplers", "cores", "slots"),
    [
        ({}, 1, 1, 1, 32),
        ({}, 2, 2, 1, 32),
        ({}, 15, 7, 2, 64),
        ({}, 64, 8, 8, 64),
        ({"cpus": 2}, 8, 4, 2, 64),
        ({"cpus": 4}, 2, 1, 4, 64),
        ({"slots": 7}, 2, 2, 1, 7),
        ({"replicas": 1}, 2, 1, 2, 64),
        ({"max_replicas": 4}, 8, 1, 2, 64),
        ({"replicas": 2, "max_replicas": 4}, 2, 2, 1, 32),
        ({"gpus": 1.0}, 1, 1, 1, 64),
    ],
)
def test_cores_are_shared_out(
    options: dict[str, Any], num_cores: int, samplers: int, cores: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rayctx, "num_cores", lambda: num_cores)
    found = running.Serve(**options).settings()
    assert (found.replicas, found.cpus, found.slots, found.max_replicas) == (samplers, cores, slots, options.get("max_replicas"))


def test_a_request_without_numbers_of_its_own_can_be_answered(tmp_path: Path) -> None:
    found = running.Serve(max_waiting=100, cpus=1).settings()
    assert (found.max_n, found.slots + found.max_waiting) == (132, 132) and running.Serve().settings().max_n == 1024
    found = running.Serve(timeout=900.0).settings()
    assert found.timeout_s == found.max_timeout_s == 900
    with pytest.raises(ValidationError, match="max_n: at most slots"):
        Settings(max_waiting=100)
    with pytest.raises(ValidationError, match="timeout_s: a request may ask for max_timeout_s = 30"):
        Settings(max_timeout_s=30)
    with pytest.raises(UserError, match="entry 2 of key_hashes is no SHA-256 hash"):
        Settings(key_hashes=(keys.hash_of("one"), "pm_another"))
    assert Settings(key_hashes=(keys.hash_of("one").upper(),)).key_hashes == (keys.hash_of("one"),)


def test_a_port_that_is_taken_is_named() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(UserError, match="cannot be listened on"):
            running.free_port("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("digits", False),
        ("digits@champion", False),
        ("digits/3", False),
        ("digits/latest", False),
        ("storage/runs/a", True),
        ("/a/b", True),
    ],
)
def test_folders_are_told_from_addresses(model: str, folder: bool) -> None:
    assert is_folder(Settings(model=model)) is folder


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for model in ("nobody", str(tmp_path / "none")):
        with pytest.raises(UserError, match="none"):
            running.check_model(Settings(model=model, storage=str(tmp_path / "storage")))


@pytest.mark.parametrize(("images", "wanted"), [((), 1), ((0, 0), 1), ((10, 20), 1), ((100, 29), 2), ((400, 100), 4), ((9999,), 5)])
def test_samplers_are_added_by_images(images: tuple[float, ...], wanted: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics={METRIC: dict(enumerate(images))}, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=5
    )
    assert ImagesPolicy(images_per_replica=128)(context) == (wanted, {})


def test_the_clusters_configuration_is_that_of_the_application() -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built_by_serve
    from ray.serve.schema import ServeDeploySchema

    from pixelmodels.serving.app import INGRESS, SAMPLER, build
    from pixelmodels.serving.routing import FewestImages

    text = yaml.safe_load(CONFIGURATION.read_text())
    schema = ServeDeploySchema.model_validate(text)
    (application,) = schema.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    settings = Settings(**text["applications"][0]["args"])
    assert settings.require_key
    ingress = built_by_serve(build, application.args)._bound_deployment
    assert ingress.init_args[1] == settings == build(settings)._bound_deployment.init_args[1]
    (sampler,) = [arg._bound_deployment for arg in ingress.init_args if hasattr(arg, "_bound_deployment")]
    assert (ingress.name, sampler.name) == (INGRESS, SAMPLER)
    scaling = sampler._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (settings.replicas, settings.max_replicas)
    policy = scaling.policy.get_policy()
    assert policy.__name__ == "ImagesPolicy"
    assert sampler._deployment_config.request_router_config.get_request_router_class() is FewestImages
    with pytest.raises(ValidationError, match="nobody"):
        built_by_serve(build, {"nobody": 1})


def test_the_program_makes_keys_and_refuses_what_is_unsafe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from pipelines.serve import main

    assert main(["--new-key"]) == 0
    key, one_hash = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    assert keys.hash_of(key) == one_hash
    for flags, named in ((["--host", "0.0.0.0"], "--api-keys"), (["--port", "-1"], "--port -1"), (["--ports", "1"], "--port")):
        with pytest.raises(UserError, match=named):
            main([*flags, "--storage", str(tmp_path)])


def test_a_serve_that_runs_elsewhere_is_told() -> None:
    from ray.serve.config import HTTPOptions

    running.check_address(HTTPOptions(host="127.0.0.1", port=81), "127.0.0.1", 81)
    for host, port in (("127.0.0.1", 82), ("0.0.0.0", 81)):
        with pytest.raises(UserError, match=r"listens on 127\.0\.0\.1:81, not"):
            running.check_address(HTTPOptions(host="127.0.0.1", port=81), host, port)


@pytest.mark.parametrize(("address", "ended"), [(None, "everything"), ("local", "everything"), ("10.0.0.1:6379", "pixelmodels")])
def test_the_end_leaves_other_applications_of_a_ray_that_was_joined(
    monkeypatch: pytest.MonkeyPatch, address: str | None, ended: str
) -> None:
    from ray import serve

    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    found: list[str] = []
    monkeypatch.setattr(serve, "shutdown", lambda: found.append("everything"))
    monkeypatch.setattr(serve, "delete", found.append)
    drained = SimpleNamespace(result=lambda timeout_s: True)
    assert running.stop(SimpleNamespace(drain=SimpleNamespace(remote=lambda drain_s: drained)), 0.0)  # type: ignore[arg-type]
    assert found == [ended]


def test_a_registry_that_does_not_answer_is_not_one_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="digits", storage=str(tmp_path / "storage"))
    assert not running.has_model(settings) and running.has_model(Settings(model=str(tmp_path)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        running.has_model(settings)


def test_a_client_is_told_the_status_of_an_error_in_a_stream() -> None:
    error = {"status": 504, "code": "deadline", "message": "not finished within 3 s", "field": "timeout_s"}

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'event: start\ndata: {{"n": 1}}\n\nevent: error\ndata: {json.dumps(error)}\n\n'.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        events = Client(f"http://127.0.0.1:{server.server_port}", timeout_s=60).stream(1)
        assert next(events).kind == "start"
        with pytest.raises(ServiceError) as refused:
            next(events)
    assert (refused.value.status, refused.value.code, refused.value.field) == (504, "deadline", "timeout_s")


def test_the_line_for_a_shell_is_of_the_address() -> None:
    assert "http://127.0.0.1:81/v1/samples -H" in running.greeting("0.0.0.0", 81, needs_key=False)
    assert "http://[::1]:81/v1/samples" in running.greeting("::1", 81, needs_key=False)
    assert "Bearer $KEY" in running.greeting("127.0.0.1", 81, needs_key=True)
