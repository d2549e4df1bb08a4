"""What becomes of requests whose sampler raises, ends, or is late; in place of Serve's handle stands one that does what a test says."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import RayServeException

from pixelmodels.serving import gateway as gateways
from pixelmodels.serving import ingress
from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.refusals import Refused, lost, too_late
from pixelmodels.serving.replica import Drawn, DrawnRow, Scored
from pixelmodels.serving.schemas import SampleRequest, ScoreRequest
from pixelmodels.serving.settings import Settings

DRAWN = Drawn("tiny/1", 7, np.zeros((1, 1, 6, 5), np.uint8))
RAISED = RayTaskError("sample", "a traceback", KeyError("x")).as_instanceof_cause()
LOST_CODE = (503, "sampler_lost")
OUTCOMES = [
    ([DRAWN], None, 0),
    ([RAISED], (500, "internal"), 0),  # the same would come of it again
    ([ActorDiedError(), DRAWN], None, 1),
    ([lost(), DRAWN], None, 1),
    ([RayServeException(), ActorDiedError()], LOST_CODE, 1),
    ([ActorDiedError(), RAISED], (500, "internal"), 1),
    ([RayTaskError("sample", "a traceback", ActorDiedError()), DRAWN], None, 1),
    ([TimeoutError()], (504, "deadline"), 0),
    ([ActorDiedError(), TimeoutError()], LOST_CODE, 1),  # it was not the client who asked for too much
    ([ActorDiedError(), too_late(0.1)], LOST_CODE, 1),
    ([too_late(0.1)], (504, "deadline"), 0),
]


def row(index: int) -> DrawnRow:
    return DrawnRow("tiny/1", 7, 0, 0, index, 1, np.full((1, 5), index, np.uint8), None)


class Samplers:
    """Serve's handle: every call takes the next of the outcomes, and raises it where it is an exception but no `Refused`."""

    def __init__(self, outcomes: list[Any]):
        self.outcomes, self.num_looks = list(outcomes), 0
        self.sample = SimpleNamespace(remote=self._answer)
        self.stream = SimpleNamespace(remote=self._rows)

    async def _answer(self, asked: Any, left_s: float) -> Any:
        return self._next()

    async def _rows(self, asked: Any, left_s: float) -> AsyncIterator[Any]:
        answer = self._next()
        yield [row(0)] if isinstance(answer, Drawn) else answer

    def _next(self) -> Any:
        answer = self.outcomes.pop(0)
        if isinstance(answer, Exception) and not isinstance(answer, Refused):
            raise answer
        return answer

    def options(self, **_: object) -> Samplers:
        return self

    def broadcast(self, name: str) -> Any:
        async def states(**_: object) -> list[dict[str, Any]]:
            self.num_looks += 1
            await asyncio.sleep(0.05)
            return [{"failure": None}, {"failure": "broken"}][self.num_looks - 1 : self.num_looks]

        return SimpleNamespace(results_async=states)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("outcomes", "refused", "retries"), OUTCOMES)
def test_only_what_was_lost_is_given_to_another_sampler(
    outcomes: list[Any], refused: tuple[int, str] | None, retries: int, stream: bool
) -> None:
    samplers = Samplers(outcomes)

    async def ask() -> tuple[Gateway, Any]:
        made = Gateway(samplers, Settings())  # type: ignore[arg-type]
        asked = SampleRequest(timeout_s=7.0)
        try:
            return made, [part async for part in made.stream(asked)] if stream else await made.sample(asked)
        except Refused as error:
            return made, error

    made, answer = asyncio.run(ask())
    assert ((answer.status, answer.code) if isinstance(answer, Refused) else None) == refused
    assert (made.num_retries, made.num_ongoing, samplers.outcomes) == (retries, 0, [])
    if refused == (504, "deadline"):
        assert "7 s" in answer.message  # what was asked for, not what was left


def test_a_stream_ends_at_its_deadline_however_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "GRACE_S", 0.0)
    samplers = Samplers([])

    async def forever(asked: Any, left_s: float) -> AsyncIterator[list[DrawnRow]]:
        while True:
            await asyncio.sleep(0.02)
            yield [row(0)]

    samplers.stream.remote = forever

    async def ask(pause_s: float) -> float:
        began = time.monotonic()
        with pytest.raises(Refused, match="504"):
            async for _ in Gateway(samplers, Settings()).stream(SampleRequest(timeout_s=1.0)):  # type: ignore[arg-type]
                await asyncio.sleep(pause_s)
        return time.monotonic() - began

    async def both() -> list[float]:
        return await asyncio.gather(ask(0.0), ask(1.2))

    assert all(1.0 <= spent_s < 5.0 for spent_s in asyncio.run(both()))


def test_samplers_are_asked_once_a_second_whether_they_are_ready() -> None:
    samplers = Samplers([])

    async def ask() -> list[bool]:
        made = Gateway(samplers, Settings())  # type: ignore[arg-type]
        answers = await asyncio.gather(*(made.ready() for _ in range(5)))
        assert samplers.num_looks == 1
        made._looked_at -= gateways.READY_S
        answers.append(await made.ready())  # it has failed meanwhile
        made._looked_at -= gateways.READY_S
        answers.append(await made.ready())  # it is gone
        return answers

    assert asyncio.run(ask()) == [True] * 5 + [False] * 2
    assert samplers.num_looks == 3


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
