"""What the service refuses over real HTTP, and what it costs it."""

from __future__ import annotations

import base64
import json
import select
import socket
import struct
import time
import zlib
from typing import Any

import pytest

from pixelmodels.serving import serve
from pixelmodels.serving.client import Client
from tests.serving.conftest import KEY, Service, settings_of
from tests.serving.web import Peak, by_sampler, raw, refusal, replica_pids


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, data: bytes = b"") -> str:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")).decode()


BOMB = png(50_000, 50_000, zlib.compress(bytes(1000)))
WRONG_SIZE = png(5, 6, zlib.compress(bytes(35)))
CORRUPT = png(6, 5, b"not zlib")
LONG = base64.b64encode(bytes(160_000)).decode()
ROWS = zlib.compress(bytes(6 * 6))  # of the right size
HUGE = zlib.compress(bytes(100 << 20))  # 100 KB


HEAD = f"POST /v1/samples HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"


def png_with(*chunks: bytes) -> str:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 8, 0, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")).decode()


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


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ({"n": "3"}, '"3"'),
        ({"n": 0}, "0"),
        ({"n": None}, "null"),
        ({"n": 1.5}, "1.5"),
        ({"temperature": "x" * 5000}, '"' + "x" * 59 + "..."),
        ({"n": [7]}, None),
    ],
)
def test_a_wrong_value_is_told(service: Service, body: dict[str, Any], given: str | None) -> None:
    message = json.loads(raw(service, "/v1/samples", json.dumps(body).encode())[2])["message"]
    assert message.endswith(f" (given: {given})") if given else "given" not in message


def test_what_unpacks_to_very_much_takes_no_memory(service: Service) -> None:
    peak = Peak(*by_sampler(service, "unfinished_images"))
    for text in (png_with(chunk(b"IDAT", HUGE)), png_with(chunk(b"zTXt", b"a\0\0" + HUGE), chunk(b"IDAT", ROWS))):
        assert len(service.client.scores([base64.b64decode(text)] * 2)) == 2  # the pixels there are
    for _ in range(20):
        assert refusal(service, "/v1/scores", {"images": [BOMB]}) == (422, "invalid", "images.0")
    assert peak.grown_mb < 64


def test_a_body_that_is_too_large_is_refused_by_its_length(service: Service) -> None:
    assert refusal(service, "/v1/samples", b" " * 600_000)[:2] == (413, "too_large")


def test_a_body_within_the_limit_reaches_a_sampler(service: Service) -> None:
    """Whatever the limit: between processes other ones hold, of 4 MB."""
    name = "large"
    padded = base64.b64decode(png_with(chunk(b"prIv", bytes(700_000)), chunk(b"IDAT", ROWS)))
    handle = serve.start(
        settings_of(service.registry, max_image_bytes=1 << 20, max_body_bytes=16 << 20), service.host, service.port, name=name
    )
    try:
        scores = Client(f"{service.client.url}/{name}", KEY, timeout_s=60).scores([padded] * 8)
        assert len(scores) == 8 and len({score["nats"] for score in scores}) == 1
    finally:
        serve.stop(handle, 10.0, name)


def test_an_endless_upload_is_refused_while_it_is_read(service: Service) -> None:
    peak, answer, sent = Peak(*replica_pids("Ingress")), b"", 0
    with socket.create_connection((service.host, service.port), timeout=60) as connection:
        head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        while not answer and sent < 256 << 20:
            try:
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
                waits_s = 0.0 if sent < 1 << 20 else 0.05  # it was told long ago, and the answer is on its way
                answer = connection.recv(4096) if select.select([connection], [], [], waits_s)[0] else b""
            except OSError:  # it takes no more
                answer = connection.recv(4096)
    assert answer.split(b"\r\n")[0] == b"HTTP/1.1 413 Request Entity Too Large" or b" 413 " in answer.split(b"\r\n")[0]
    assert sent < 64 << 20 and peak.grown_mb < 64


def test_a_slow_upload_is_given_up(service: Service) -> None:
    with socket.create_connection((service.host, service.port), timeout=60) as connection:
        head = f"{HEAD}Content-Length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        assert b"408" in connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "wrong"}])
@pytest.mark.parametrize("path", ["/v1/samples", "/v1/models", "/metrics"])
def test_no_key_no_answer(service: Service, headers: dict[str, str], path: str) -> None:
    status, answered, body = raw(service, path, b"{}" if path == "/v1/samples" else None, headers)
    assert status == 401 and json.loads(body)["code"] == "unauthorized" and answered["www-authenticate"] == "Bearer"


def test_the_key_may_come_in_either_header(service: Service) -> None:
    assert raw(service, "/v1/models", None, {"X-API-Key": KEY})[0] == 200
