"""The HTTP application without Serve and without samplers: what it answers by itself, and where it makes its answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from pydantic import ValidationError

from pixelmodels.serving import ingress
from pixelmodels.serving.keys import hash_of
from pixelmodels.serving.refusals import too_late
from pixelmodels.serving.replica import Drawn, Scored, StreamedRow
from pixelmodels.serving.schemas import CompletionRequest, ExplanationRequest, SampleRequest, ScoreRequest
from pixelmodels.serving.settings import Settings
from tests.serving.test_gateway import DRAWN, row


def ask(
    app: Any, path: str, body: bytes | None = None, method: str | None = None, headers: dict[str, str] | None = None, root_path: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    given = {"content-type": "application/json"} if headers is None else headers
    status, headers, parts, bodies = 0, {}, [], [body or b""]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Event().wait()  # the client stays
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "method": method or ("GET" if body is None else "POST"),
        "path": path,
        "root_path": root_path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    try:
        asyncio.run(app(scope, receive, send))
    except KeyError:  # what broke it is raised once more, after it was answered
        assert status == 500
    return status, headers, b"".join(parts)


def app_of(settings: Settings | None = None, hashes: tuple[str, ...] = (), **methods: Any) -> Any:
    gateway = SimpleNamespace(settings=settings or Settings(), num_retries=0, **methods)
    return ingress.make_app(gateway, hashes)  # type: ignore[arg-type]


async def draws(asked: Any) -> Drawn:
    return DRAWN


async def is_ready() -> bool:
    return True


@pytest.mark.parametrize("asked", [SampleRequest, CompletionRequest, ScoreRequest, ExplanationRequest])
def test_a_body_is_refused_at_the_first_thing_that_is_wrong_with_it(asked: Any) -> None:
    """However much is wrong: an error for each of so many would hold everybody up."""
    paths = {SampleRequest: "samples", CompletionRequest: "completions", ScoreRequest: "scores", ExplanationRequest: "explanations"}
    path = f"/v1/{paths[asked]}"
    unknown = {f"field_{index}": index for index in range(200_000)}
    for body, field in (
        (unknown, "field_0"),
        ({"vector": ["x"] * 60_000}, "vector.0"),
        ({"\ud800: x": 1}, "?: x"),
        ({"x" * 100_000: 1}, "x" * 200),
    ):
        with pytest.raises(ValidationError) as found:
            asked.model_validate(body)
        assert found.value.error_count() <= 3  # of the fields that a request must have, too
        status, _, answer = ask(app_of(), path, json.dumps(body).encode())
        assert (status, json.loads(answer)["code"], json.loads(answer)["field"]) == (422, "invalid", field)
    with pytest.raises(ValidationError) as found:
        ScoreRequest.model_validate({"images": [1] * 4000})
    assert found.value.error_count() == 1


def test_what_breaks_is_answered_and_counted_as_500() -> None:
    async def breaks(asked: Any) -> Drawn:
        raise KeyError("x")

    async def states() -> list[Any]:
        return []

    app = app_of(sample=breaks, states=states)
    status, _, answer = ask(app, "/v1/samples", b"{}")
    assert status == 500 and json.loads(answer)["code"] == "internal"
    page = ask(app, "/metrics")[2].decode()
    assert 'pixelmodels_http_requests_total{route="/v1/samples",status="500"} 1.0' in page and '"499"' not in page


@pytest.mark.parametrize("name", ["数字", "a b", "50%", "tiny"])
def test_any_name_of_a_model_can_be_told_in_a_header(name: str) -> None:
    async def sample(asked: Any) -> Drawn:
        return Drawn(f"{name}/1", DRAWN.levels, DRAWN.images_NCHW)

    status, headers, _ = ask(app_of(sample=sample), "/v1/samples", b'{"format": "npz"}')
    assert status == 200 and unquote(headers["x-model"]) == f"{name}/1"


def test_an_error_in_a_stream_tells_its_status_and_pictures_are_made_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    make = ingress.base64_png

    def noted(*given: Any) -> str:
        threads.append(threading.get_ident())
        return make(*given)

    monkeypatch.setattr(ingress, "base64_png", noted)

    async def rows() -> AsyncIterator[list[StreamedRow]]:
        yield [row(0), row(1)]
        raise too_late(3)

    async def read() -> list[str]:
        return [text async for text in ingress._events(rows(), row(0), SampleRequest(stream=True, seed=1))]

    events = "".join(asyncio.run(read())).split("\n\n")
    assert [event.split("\n")[0] for event in events[:-1]] == ["event: start", "event: row", "event: row", "event: error"]
    error = json.loads(events[-2].partition("data: ")[2])
    assert (error["status"], error["code"], error["field"]) == (504, "deadline", "timeout_s")
    assert len(threads) == 2 and threading.get_ident() not in threads


def test_scores_are_written_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    encode: Callable[[Scored], Any] = ingress._encoded_scores

    def noted(scored: Scored) -> Any:
        threads.append(threading.get_ident())
        return encode(scored)

    async def score(asked: ScoreRequest) -> Scored:
        return Scored("tiny/1", [1.5], [0.25], np.array([[[0.5, 1.0]]]))

    monkeypatch.setattr(ingress, "_encoded_scores", noted)
    app = ingress.make_app(SimpleNamespace(settings=Settings(), score=score), ())  # type: ignore[arg-type]
    (endpoint,) = [route.endpoint for route in app.routes if getattr(route, "path", "") == "/v1/scores"]
    answer = asyncio.run(endpoint(ScoreRequest(images=["x"])))
    assert json.loads(answer.body) == {"model": "tiny/1", "scores": [{"nats": 1.5, "bits_per_dim": 0.25, "map_bits": [[0.5, 1.0]]}]}
    assert len(threads) == 1 and threading.get_ident() not in threads


# --- behind a load balancer, and called from a browser ---


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/docs", "/healthz/"])
def test_head_is_get_without_its_body(path: str) -> None:
    app = app_of(ready=is_ready)
    status, headers, body = ask(app, path, method="HEAD")
    wanted_status, wanted, wanted_body = ask(app, path)
    assert (status, headers, body) == (wanted_status, wanted, b"") and status == 200 and wanted_body
    assert ask(app, "/v1/samples", method="HEAD")[0] == 405


def test_head_tells_that_it_is_not_ready() -> None:
    async def not_ready() -> bool:
        return False

    status, headers, body = ask(app_of(ready=not_ready), "/readyz", method="HEAD")
    assert (status, headers["retry-after"], body) == (503, "5", b"")


@pytest.mark.parametrize("root_path", ["", "/second"])
@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_slash_at_the_end_changes_nothing(slashes: str, root_path: str) -> None:
    """Whoever stands in front has ended TLS: a redirection would lead to plain HTTP, and lose the body with many clients."""
    app = app_of(sample=draws, ready=is_ready)
    for path, body in (("/v1/samples", b'{"seed": 1}'), ("/healthz", None)):
        wanted = ask(app, root_path + path, body, root_path=root_path)
        assert ask(app, root_path + path + slashes, body, root_path=root_path) == wanted and wanted[0] == 200
    for path, status in (("/v1/nothing/", 404), ("/nothing//", 404), ("/", 200), ("//", 200)):  # the last two are the studio
        found, headers, _ = ask(app, root_path + path, root_path=root_path)
        assert found == status and "location" not in headers


def test_a_slash_at_the_end_opens_nothing() -> None:
    app = app_of(hashes=(hash_of("key"),), sample=draws, ready=is_ready)
    assert [ask(app, path, b"{}")[0] for path in ("/v1/samples/", "/v1/samples//", "/docs/../v1/samples/")] == [401] * 3
    assert ask(app, "/healthz/")[0] == 200
    assert ask(app, "/v1/models/", method="HEAD")[0] == 401


def test_a_stream_is_not_kept_back() -> None:
    async def stream(asked: Any) -> AsyncIterator[list[StreamedRow]]:
        yield [row(0)]

    status, headers, body = ask(app_of(stream=stream), "/v1/samples", b'{"stream": true}')
    assert (status, headers["x-accel-buffering"], headers["cache-control"]) == (200, "no", "no-store") and b"event: done" in body


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("application/x-www-form-urlencoded", "'application/x-www-form-urlencoded'"),  # what curl -d sends
        ("text/plain;charset=UTF-8", "'text/plain'"),
        ("multipart/form-data; boundary=x", "'multipart/form-data'"),
        ("image/png", "'image/png'"),
        ("", "''"),
    ],
)
def test_a_wrong_content_type_is_told_by_name(kind: str, named: str) -> None:
    status, _, body = ask(app_of(sample=draws), "/v1/samples", b"{}", headers={"content-type": kind})
    error = json.loads(body)
    assert (status, error["code"]) == (415, "unsupported_media_type")
    assert named in error["message"] and "Content-Type: application/json" in error["message"]


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/problem+json"])
def test_json_is_read_by_any_of_its_names(kind: str) -> None:
    assert ask(app_of(sample=draws), "/v1/samples", b'{"seed": 1}', headers={"content-type": kind})[0] == 200


@pytest.mark.parametrize("length", [{"content-length": "2"}, {"transfer-encoding": "chunked"}])
def test_a_body_of_no_kind_is_told(length: dict[str, str]) -> None:
    """Browsers send one for any page, without asking; they ask before they send JSON."""
    status, _, body = ask(app_of(sample=draws), "/v1/samples", b"{}", headers=length)
    assert status == 415 and "without a Content-Type" in json.loads(body)["message"]


def test_no_body_is_told_as_that() -> None:
    status, _, body = ask(app_of(sample=draws), "/v1/samples", b"", headers={})
    assert (status, json.loads(body)["message"]) == (422, "Field required")


def test_a_packed_body_is_told() -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    status, _, body = ask(app_of(sample=draws), "/v1/samples", b"\x1f\x8b", headers=headers)
    assert status == 415 and "packed with 'gzip'" in json.loads(body)["message"]


PREFLIGHT = {"origin": "https://lab.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def test_browsers_are_let_in_where_it_is_said() -> None:
    app = app_of(Settings(cors_origins=("https://lab.example",)), (hash_of("key"),), sample=draws)
    status, headers, _ = ask(app, "/v1/samples", method="OPTIONS", headers=PREFLIGHT)  # browsers send no key with it
    assert (status, headers["access-control-allow-origin"]) == (200, "https://lab.example")
    assert "Authorization" in headers["access-control-allow-headers"] and "POST" in headers["access-control-allow-methods"]
    sent = {"content-type": "application/json", "origin": "https://lab.example", "authorization": "Bearer key"}
    status, headers, _ = ask(app, "/v1/samples", b"{}", headers=sent)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://lab.example")
    assert "X-Seed" in headers["access-control-expose-headers"] and "access-control-allow-credentials" not in headers
    for changed, wanted in (({"authorization": "Bearer no"}, 401), ({"content-type": "text/plain"}, 415)):  # the page can read why
        status, headers, _ = ask(app, "/v1/samples", b"{}", headers={**sent, **changed})
        assert (status, headers["access-control-allow-origin"]) == (wanted, "https://lab.example")


@pytest.mark.parametrize(
    ("origins", "origin"),
    [((), "https://lab.example"), (("https://lab.example",), "https://evil.example"), (("https://a.b",), "http://a.b")],
)
def test_other_pages_are_not_let_in(origins: tuple[str, ...], origin: str) -> None:
    app = app_of(Settings(cors_origins=origins), sample=draws)
    status, headers, _ = ask(app, "/v1/samples", method="OPTIONS", headers={**PREFLIGHT, "origin": origin})
    assert status == (400 if origins else 405) and "access-control-allow-origin" not in headers  # the first is Starlette's answer
    headers = ask(app, "/v1/samples", b"{}", headers={"content-type": "application/json", "origin": origin})[1]
    assert "access-control-allow-origin" not in headers
    anybody = app_of(Settings(cors_origins=("*",)), sample=draws)
    assert ask(anybody, "/v1/samples", method="OPTIONS", headers=PREFLIGHT)[1]["access-control-allow-origin"] == "*"
