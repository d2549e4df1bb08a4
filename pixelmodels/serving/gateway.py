"""From the HTTP API to the samplers: deadlines, one retry where a replica dies, and no new requests while draining."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import Context
from dataclasses import replace
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from pixelmodels.serving.deadlines import GRACE_S, left_s, time_allowed
from pixelmodels.serving.refusals import DEADLINE, LOST, NOT_LOADED, Refused, lost, overloaded, too_late
from pixelmodels.serving.replica import Drawn, Explained, Scored, StreamedRow
from pixelmodels.serving.schemas import (
    ADDRESS,
    ExplanationRequest,
    FitRequest,
    Fitted,
    ModelInfo,
    Models,
    Neighbours,
    NeighboursRequest,
    SampleRequest,
    ScoreRequest,
    Shown,
    TestScores,
    Versions,
)
from pixelmodels.serving.settings import Settings

logger = logging.getLogger(__name__)
# What gRPC says of a call whose process ended.
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
NO_ANSWER = (RayError, RayServeException, grpc.RpcError, RuntimeError, TimeoutError)  # of a sampler asked about itself
CONTROL_S = 5.0  # for an answer about the service itself
ATTEMPTS = 2  # that a request is given to samplers which die
READY_S = 1.0  # for which the answer whether samplers are ready is kept: anybody may ask


class Gateway:
    """What the HTTP application calls."""

    def __init__(self, samplers: DeploymentHandle[Any], settings: Settings):
        self.settings = settings
        self.draining = False
        self.num_ongoing = 0
        self.num_retries = 0
        self._samplers = samplers
        self._drained = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()  # of ongoing requests
        self._ended = False  # the time to finish is over
        self._looking = asyncio.Lock()
        self._looked_at, self._is_ready = -READY_S, False

    async def sample(self, asked: SampleRequest) -> Drawn:
        """All images of a request; raises `Refused`. One that fills several samplers is shared out where nothing else is going on."""
        self._check_n(asked.n, "n")
        num_parts = min(self.settings.replicas, asked.n // self.settings.slots)
        if num_parts < 2 or self.num_ongoing:
            return await self._draw(asked)
        timeout_s = time_allowed(self.settings, asked.timeout_s)
        deadline = time.monotonic() + timeout_s
        with self._ongoing():  # from now on, as its parts begin a moment later
            try:
                return await self._draw_in_parts(_shared_out(asked, num_parts), deadline)
            except Refused as refused:
                # a sampler is gone, not idle after all, or has not this version yet: one may still take the whole
                if refused.status == 429 or refused.code == NOT_LOADED:
                    return await self._draw(asked.model_copy(update={"timeout_s": left_s(deadline)}), is_begun=True)
                raise too_late(timeout_s) if refused.code == DEADLINE else refused from None

    async def _draw_in_parts(self, parts: list[SampleRequest], deadline: float) -> Drawn:
        """What comes of a request that is shared out, all of it by one version."""
        drawn = await self._draw_all(parts)
        others = [index for index, part in enumerate(drawn) if part.model != drawn[0].model]
        if others:  # the alias moved between them
            same = {"model": drawn[0].model, "timeout_s": left_s(deadline)}
            again = await self._draw_all([parts[index].model_copy(update=same) for index in others])
            for index, part in zip(others, again, strict=True):
                drawn[index] = part
        return replace(drawn[0], images_NCHW=np.concatenate([part.images_NCHW for part in drawn]))

    async def _draw_all(self, parts: list[SampleRequest]) -> list[Drawn]:
        """What comes of the parts of a request; where one is refused the others are given up."""
        try:
            async with asyncio.TaskGroup() as group:  # each in a context of its own: Serve knows a call by the request that it finds there
                tasks = [group.create_task(self._draw(part, is_begun=True), context=Context()) for part in parts]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _draw(self, asked: SampleRequest, *, is_begun: bool = False) -> Drawn:
        """All images of a request, by one sampler; `is_begun`, that it belongs to one which goes on while draining."""
        return await self._answer(lambda left_s: self._samplers.sample.remote(asked, left_s), asked.timeout_s, is_begun=is_begun)

    async def score(self, asked: ScoreRequest) -> Scored:
        """The scores of a request's images; raises `Refused`."""
        self._check_n(len(asked.images), "images")
        return await self._answer(lambda left_s: self._samplers.score.remote(asked, left_s), asked.timeout_s)

    async def explain(self, asked: ExplanationRequest) -> Explained:
        """What is expected of a request's images; raises `Refused`."""
        self._check_n(len(asked.images), "images")
        return await self._answer(lambda left_s: self._samplers.explain.remote(asked, left_s), asked.timeout_s)

    async def stream(self, asked: SampleRequest) -> AsyncIterator[list[StreamedRow]]:
        """Rows as they are drawn; first one that tells the model only. Raises `Refused`; a stream that has begun is not begun again."""
        self._check_n(asked.n, "n")
        if asked.every == "row" and asked.n > self.settings.max_stream_rows_n:
            most = self.settings.max_stream_rows_n
            raise Refused(422, "invalid", f"{asked.n} images asked for with an event for each row; at most {most}, or every=image", "n")
        with self._ongoing(is_stream=True):
            rows = self._samplers.options(stream=True).stream
            async with aclosing(self._parts(lambda left_s: rows.remote(asked, left_s), asked.timeout_s)) as parts:
                async for part in parts:
                    yield part

    async def _answer(self, ask: Callable[[float], Awaitable[Any]], asked_s: float | None, *, is_begun: bool = False) -> Any:
        """The answer of a sampler that gives one; raises `Refused`."""

        async def once(left_s: float) -> AsyncIterator[Any]:
            yield await ask(left_s)

        with self._ongoing(is_begun=is_begun):
            async with aclosing(self._parts(once, asked_s)) as parts:
                return await anext(parts)

    async def _parts(self, ask: Callable[[float], AsyncIterator[Any]], asked_s: float | None) -> AsyncGenerator[Any]:
        """What a sampler answers, part by part; another one where it dies before the first of them. Raises `Refused`.

        Args: `ask`, of the seconds that are left. The deadline is kept whether the client reads or not.
        """
        timeout_s = time_allowed(self.settings, asked_s)
        deadline, end = time.monotonic() + timeout_s, asyncio.get_running_loop().time() + timeout_s + GRACE_S
        for attempt in range(ATTEMPTS):
            self.num_retries += attempt > 0
            has_begun = False
            try:
                parts = aiter(ask(left_s(deadline)))
                while True:
                    async with asyncio.timeout_at(end):
                        part = await anext(parts)
                    if isinstance(part, Refused):
                        raise part
                    has_begun = True
                    yield part
            except StopAsyncIteration:
                return
            except Exception as error:  # over gRPC it is what the sampler raised
                refused = _refusal(error, timeout_s)
                if refused.code == LOST and not has_begun and attempt + 1 < ATTEMPTS:
                    continue
                # it was not the client who asked for too much where one was lost before
                raise (lost() if refused.code == DEADLINE and attempt else refused) from None

    async def models(self) -> Models:
        """What the samplers hold and what may be asked for; raises `Refused`."""
        try:
            async with asyncio.timeout(3 * CONTROL_S):
                states, available = await asyncio.gather(self.states(), self._samplers.available.remote())
        except NO_ANSWER:
            raise Refused(503, "not_ready", "no sampler answers", None, 5.0) from None
        merged: dict[str, ModelInfo] = {}
        for info in (info for state in states for info in state["models"]):
            if (held := merged.get(info.model)) is not None:
                info = info.model_copy(update={"replicas": held.replicas + 1, "names": sorted({*held.names, *info.names})})
            merged[info.model] = info
        refused = {key: why for state in states for key, why in state["refused"].items()}
        default = states[0]["default"] if states else self.settings.model
        return Models(default=default, loaded=list(merged.values()), available=available, refused=refused)

    async def versions(self) -> Versions:
        """All versions of the names that are served, and the decisions on them; raises `Refused`."""
        found: Versions = await self._answer(lambda _: self._samplers.versions.remote(), None)
        return found

    async def model(self, address: str) -> ModelInfo:
        """What one version takes, loaded if need be; raises `Refused`."""
        found: ModelInfo = await self._answer(lambda _: self._samplers.info.remote(_checked(address)), None)
        return found

    async def fit(self, asked: FitRequest) -> Fitted:
        """Images as a model sees them; raises `Refused`."""
        found: Fitted = await self._answer(lambda _: self._samplers.fit.remote(asked), None)
        return found

    async def test_scores(self, address: str) -> TestScores:
        """What the test images cost a version; raises `Refused`."""
        found: TestScores = await self._answer(lambda _: self._samplers.test_scores.remote(_checked(address)), None)
        return found

    async def shown(self, address: str, split: str, first: int, n: int) -> Shown:
        """Images of the data set of a version; raises `Refused`."""
        found: Shown = await self._answer(lambda _: self._samplers.shown.remote(_checked(address), split, first, n), None)
        return found

    async def neighbours(self, asked: NeighboursRequest) -> AsyncIterator[tuple[int, int] | Neighbours]:
        """How many images of how many were looked at, again and again, and then the nearest ones; raises `Refused`."""
        with self._ongoing(is_stream=True):
            found = self._samplers.options(stream=True).neighbours
            async with aclosing(self._parts(lambda left_s: found.remote(asked, left_s), asked.timeout_s)) as parts:
                async for part in parts:
                    yield part

    async def states(self) -> list[dict[str, Any]]:
        """Figures of every sampler; where not all of them answer in time, of the one that a request would be given to, if it does.

        One that hangs would hide the others, as their answers come together or not at all.
        """
        try:
            try:
                answers = await self._samplers.broadcast("state").results_async(timeout_s=CONTROL_S, return_exceptions=True)
            except TimeoutError:
                async with asyncio.timeout(CONTROL_S):
                    answers = [await self._samplers.state.remote()]
        except NO_ANSWER:
            return []
        return [state for state in answers if isinstance(state, dict)]

    async def ready(self) -> bool:
        """Whether a sampler answers that has not failed, and new requests are taken."""
        async with self._looking:
            if not self.draining and time.monotonic() - self._looked_at >= READY_S:
                self._is_ready = any(state["failure"] is None for state in await self.states())
                self._looked_at = time.monotonic()
        return self._is_ready and not self.draining

    async def drain(self, timeout_s: float) -> bool:
        """Take no more requests, wait for those there are; whether all were finished."""
        self.draining = True
        if not self.num_ongoing:
            return True
        try:
            return await asyncio.wait_for(self._drained.wait(), timeout_s)
        except TimeoutError:
            self._ended = True
            for task in self._tasks:
                task.cancel()
            return False

    def _check_n(self, n: int, field: str) -> None:
        if n > self.settings.max_n:
            raise Refused(422, "invalid", f"{n} images given or asked for; at most {self.settings.max_n}", field)

    @contextmanager
    def _ongoing(self, *, is_stream: bool = False, is_begun: bool = False) -> Iterator[None]:
        """Around a request: it is counted, not begun while draining, and answered when the time to finish is over (a stream just ends)."""
        if self.draining and not is_begun:
            raise _draining()
        task = asyncio.current_task()
        assert task is not None
        self.num_ongoing += 1
        if not is_stream:  # what goes on with a stream may be another task
            self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._ended:
                raise
            task.uncancel()
            raise _draining() from None
        finally:
            self._tasks.discard(task)
            self.num_ongoing -= 1
            if self.draining and not self.num_ongoing:
                self._drained.set()


def _checked(address: str) -> str:
    if not re.fullmatch(ADDRESS, address) or len(address) > 256:
        raise Refused(404, "unknown_model", "no such version; give one of /v1/versions, such as digits/3 or digits@champion", "model")
    return address


def _draining() -> Refused:
    return Refused(503, "draining", "the service is ending", None, 10.0)


def _shared_out(asked: SampleRequest, num_parts: int) -> list[SampleRequest]:
    """Requests for the images of one, in their order."""
    bounds = [asked.n * part // num_parts for part in range(num_parts + 1)]
    return [asked.model_copy(update={"first": asked.first + begin, "n": end - begin}) for begin, end in pairwise(bounds)]


def _refusal(error: Exception, timeout_s: float) -> Refused:
    """What becomes of a request whose sampler refused, ended, or raised: only where it ended another one may try.

    Args: `timeout_s`, that the request asked for: its sampler knows the time that was left of it only.
    """
    if isinstance(error, TimeoutError) or (isinstance(error, Refused) and error.code == DEADLINE):
        return too_late(timeout_s)
    if isinstance(error, Refused):
        return error
    if isinstance(error, BackPressureError):
        return overloaded("too many requests wait", 1.0)
    if _is_lost(error):
        return lost()
    logger.error("a sampler failed: %s: %s", type(error).__name__, error)
    return Refused(500, "internal", "the service failed; its log says more")


def _is_lost(error: Exception) -> bool:
    if isinstance(error, RayTaskError):
        return isinstance(error.cause, (RayError, RayServeException))
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in GONE
    # the last one is Serve's where a sampler ended before it said that it has the request
    return isinstance(error, (RayError, RayServeException)) or (
        isinstance(error, RuntimeError) and str(error).startswith("Unexpected error (")
    )
