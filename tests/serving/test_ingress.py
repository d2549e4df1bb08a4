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
from pixelmodels.serving.refusals import too_late
from pixelmodels.serving.replica import Drawn, DrawnRow, Scored
from pixelmodels.serving.schemas import CompletionRequest, SampleRequest, ScoreRequest
from pixelmodels.serving.settings import Settings
from tests.serving.test_gateway import DRAWN, row


def ask(app: Any, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    status, headers, parts = 0, {}, []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        parts.append(message.get("body", b""))

    kinds = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "GET" if body is None else "POST", "path": path, "query_string": b"", "headers": kinds}
    try:
        asyncio.run(app(scope, receive, send))
    except KeyError:  # what broke it is raised once more, after it was answered
        assert status == 500
    return status, headers, b"".join(parts)


def app_of(**methods: Any) -> Any:
    return ingress.make_app(SimpleNamespace(settings=Settings(), num_retries=0, **methods), ())  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [SampleRequest, CompletionRequest, ScoreRequest])
def test_a_body_is_refused_at_the_first_thing_that_is_wrong_with_it(asked: Any) -> None:
    """However much is wrong: an error for each of so many would hold everybody up."""
    path = {SampleRequest: "/v1/samples", CompletionRequest: "/v1/completions", ScoreRequest: "/v1/scores"}[asked]
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

    async def rows() -> AsyncIterator[list[DrawnRow]]:
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
