"""What becomes of requests whose sampler raises, ends, or is late; in place of Serve's handle stands one that does what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import RayServeException

from pixelmodels.serving import gateway as gateways
from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.refusals import NOT_LOADED, Refused, lost, overloaded, too_late
from pixelmodels.serving.replica import Drawn, StreamedRow
from pixelmodels.serving.schemas import SampleRequest
from pixelmodels.serving.settings import Settings

DRAWN = Drawn("tiny/1", 7, np.zeros((1, 1, 6, 5), np.uint8))
RAISED = RayTaskError("sample", "a traceback", KeyError("x")).as_instanceof_cause()


def broken(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


LOST_CODE = (503, "sampler_lost")
OUTCOMES = [
    ([DRAWN], None, 0),
    ([RAISED], (500, "internal"), 0),  # the same would come of it again
    ([ActorDiedError(), DRAWN], None, 1),
    ([lost(), DRAWN], None, 1),
    ([RayServeException(), ActorDiedError()], LOST_CODE, 1),
    ([ActorDiedError(), RAISED], (500, "internal"), 1),
    ([broken(grpc.StatusCode.INTERNAL), DRAWN], None, 1),  # the stream of a process that was killed may end so
    ([KeyError("x")], (500, "internal"), 0),
    ([RuntimeError("Unexpected error (StatusCode.UNAVAILABLE): x"), DRAWN], None, 1),
    ([broken(grpc.StatusCode.RESOURCE_EXHAUSTED)], (500, "internal"), 0),
    ([RayTaskError("sample", "a traceback", ActorDiedError()), DRAWN], None, 1),
    ([TimeoutError()], (504, "deadline"), 0),
    ([ActorDiedError(), TimeoutError()], LOST_CODE, 1),  # it was not the client who asked for too much
    ([ActorDiedError(), too_late(0.1)], LOST_CODE, 1),
    ([too_late(0.1)], (504, "deadline"), 0),
]


def row(index: int) -> StreamedRow:
    return StreamedRow("tiny/1", 7, 0, 0, index, 1, np.full((1, 5), index, np.uint8), None)


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


class Shared(Samplers):
    """Draws images whose pixels are their index, by the next of the versions; keeps what was asked for."""

    def __init__(self, versions: list[str | Refused], wait_s: float = 0.0):
        super().__init__(versions)
        self.asked: list[tuple[int, int, str | None]] = []
        self.wait_s, self.num_cancelled = wait_s, 0

    async def _answer(self, asked: Any, left_s: float) -> Any:
        self.asked.append((asked.first, asked.n, asked.model))
        model = self._next()
        if isinstance(model, Refused):
            return model
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        index_N = np.arange(asked.first, asked.first + asked.n, dtype=np.uint8)
        return Drawn(model, 256, np.broadcast_to(index_N[:, None, None, None], (asked.n, 1, 6, 5)))


@pytest.mark.parametrize(
    ("n", "versions", "asked"),
    [
        (7, ["a/1"], [(2, 7, None)]),
        (8, ["a/1"] * 2, [(2, 4, None), (6, 4, None)]),
        (50, ["a/1"] * 3, [(2, 16, None), (18, 17, None), (35, 17, None)]),
        (12, ["a/1", "a/2", "a/1", "a/1"], [(2, 4, None), (6, 4, None), (10, 4, None), (6, 4, "a/1")]),  # the champion moved
    ],
)
def test_a_large_request_is_shared_out(n: int, versions: list[str | Refused], asked: list[tuple[int, int, str | None]]) -> None:
    samplers = Shared(versions)
    made = Gateway(samplers, Settings(replicas=3, slots=4))  # type: ignore[arg-type]
    drawn = asyncio.run(made.sample(SampleRequest(n=n, first=2)))
    assert samplers.asked == asked and made.num_ongoing == 0
    assert (drawn.model, drawn.images_NCHW[:, 0, 0, 0].tolist()) == ("a/1", list(range(2, 2 + n)))


def test_a_large_request_is_not_shared_out_beside_others() -> None:
    samplers = Shared(["a/1"] * 2, wait_s=0.05)
    made = Gateway(samplers, Settings(replicas=3, slots=4))  # type: ignore[arg-type]

    async def ask() -> None:
        await asyncio.gather(made.sample(SampleRequest(n=1)), made.sample(SampleRequest(n=12)))

    asyncio.run(ask())
    assert samplers.asked == [(0, 1, None), (0, 12, None)]


def test_where_a_part_is_refused_the_others_are_given_up() -> None:
    samplers = Shared(["a/1", too_late(0.1), "a/1"], wait_s=60.0)
    made = Gateway(samplers, Settings(replicas=3, slots=4))  # type: ignore[arg-type]
    with pytest.raises(Refused, match="504"):
        asyncio.run(made.sample(SampleRequest(n=12)))
    assert (samplers.num_cancelled, made.num_ongoing) == (2, 0)


@pytest.mark.parametrize("refused", [overloaded("busy", 1.0), Refused(503, NOT_LOADED, "a/2 is being made ready", "model", 5.0)])
def test_one_sampler_takes_the_whole_where_several_would_not(refused: Refused) -> None:
    samplers = Shared([refused, "a/1", "a/1", "a/1"])
    made = Gateway(samplers, Settings(replicas=3, slots=4))  # type: ignore[arg-type]
    drawn = asyncio.run(made.sample(SampleRequest(n=12)))
    assert samplers.asked[-1] == (0, 12, None) and len(drawn.images_NCHW) == 12 and made.num_ongoing == 0


def test_what_was_begun_is_finished_while_draining() -> None:
    """The second round too, of a request whose parts were drawn by two versions."""
    samplers = Shared(["a/1", "a/2", "a/1"], wait_s=0.05)
    made = Gateway(samplers, Settings(replicas=2, slots=4))  # type: ignore[arg-type]

    async def ask() -> tuple[Drawn, bool]:
        asking = asyncio.create_task(made.sample(SampleRequest(n=8)))
        await asyncio.sleep(0.02)
        finished = await made.drain(10.0)
        return await asking, finished

    drawn, finished = asyncio.run(ask())
    assert finished and len(drawn.images_NCHW) == 8 and samplers.asked[-1] == (4, 4, "a/1")


def test_a_stream_ends_at_its_deadline_however_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "GRACE_S", 0.0)
    samplers = Samplers([])

    async def forever(asked: Any, left_s: float) -> AsyncIterator[list[StreamedRow]]:
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


@pytest.mark.parametrize(("alone", "ready"), [({"failure": None}, True), ({"failure": "broken"}, False), (None, False)])
def test_a_sampler_that_hangs_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, alone: dict[str, Any] | None, ready: bool) -> None:
    monkeypatch.setattr(gateways, "CONTROL_S", 0.05)
    samplers = Samplers([])

    async def late(**_: object) -> list[Any]:
        raise TimeoutError  # as Serve does where one answer of all is missing

    async def one() -> Any:
        return alone if alone is not None else await asyncio.sleep(60)

    samplers.broadcast = lambda name: SimpleNamespace(results_async=late)  # type: ignore[method-assign]
    samplers.state = SimpleNamespace(remote=one)  # type: ignore[attr-defined]
    made = Gateway(samplers, Settings())  # type: ignore[arg-type]
    assert asyncio.run(made.ready()) is ready
