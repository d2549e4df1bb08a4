"""From the HTTP API to the samplers: deadlines, one retry where a replica dies, and no new requests while draining."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import grpc
import numpy as np
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from pixelmodels.serving.refusals import LOST, Refused, lost, overloaded, too_late
from pixelmodels.serving.replica import Drawn, DrawnRow, Scored
from pixelmodels.serving.schemas import ModelInfo, Models, SampleRequest, ScoreRequest
from pixelmodels.serving.settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")
# What gRPC says of a call whose process ended.
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
NO_ANSWER = (RayError, RayServeException, grpc.RpcError, RuntimeError, TimeoutError)  # of a sampler asked about itself
GRACE_S = 2.0  # beyond a request's deadline, which its sampler keeps; then the sampler is taken to be gone
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
        timeout_s = self._timeout(asked.timeout_s)
        deadline = time.monotonic() + timeout_s
        with self._ongoing():  # from now on, as its parts begin a moment later
            try:
                return await self._draw_in_parts(_shared_out(asked, num_parts), deadline)
            except Refused as refused:
                if refused.status == 429:  # a sampler is gone, or not idle after all: one may still take the whole
                    return await self._draw(asked.model_copy(update={"timeout_s": _left_s(deadline)}), is_begun=True)
                raise too_late(timeout_s) if refused.code == "deadline" else refused from None

    async def _draw_in_parts(self, parts: list[SampleRequest], deadline: float) -> Drawn:
        """What comes of a request that is shared out, all of it by one version."""
        drawn = await self._draw_all(parts)
        others = [index for index, part in enumerate(drawn) if part.model != drawn[0].model]
        if others:  # the alias moved between them
            same = {"model": drawn[0].model, "timeout_s": _left_s(deadline)}
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
        answer: Drawn = await self._call(lambda left_s: self._samplers.sample.remote(asked, left_s), asked.timeout_s, is_begun=is_begun)
        return answer

    async def score(self, asked: ScoreRequest) -> Scored:
        """The scores of a request's images; raises `Refused`."""
        self._check_n(len(asked.images), "images")
        answer: Scored = await self._call(lambda left_s: self._samplers.score.remote(asked, left_s), asked.timeout_s)
        return answer

    async def stream(self, asked: SampleRequest) -> AsyncIterator[list[DrawnRow]]:
        """Rows as they are drawn; first one that tells the model only. Raises `Refused`; a stream that has begun is not begun again."""
        self._check_n(asked.n, "n")
        if asked.every == "row" and asked.n > self.settings.max_stream_rows_n:
            most = self.settings.max_stream_rows_n
            raise Refused(422, "invalid", f"{asked.n} images asked for with an event for each row; at most {most}, or every=image", "n")
        timeout_s = self._timeout(asked.timeout_s)
        deadline = time.monotonic() + timeout_s
        end = asyncio.get_running_loop().time() + timeout_s + GRACE_S  # whether the client reads or not
        with self._ongoing(is_stream=True):
            for attempt in range(ATTEMPTS):
                begun = False
                self.num_retries += attempt > 0
                rows = aiter(self._samplers.options(stream=True).stream.remote(asked, _left_s(deadline)))
                try:
                    while True:
                        async with asyncio.timeout_at(end):
                            part = await anext(rows)
                        if isinstance(part, Refused):
                            if part.code == LOST and not begun and attempt + 1 < ATTEMPTS:
                                break
                            raise _final(part, timeout_s, attempt)
                        begun = True
                        yield part
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise _final(too_late(timeout_s), timeout_s, attempt) from None
                except BackPressureError:
                    raise overloaded("too many requests wait", 1.0) from None
                except Refused:
                    raise
                except Exception as error:  # over gRPC it is what the sampler raised
                    refused = _refusal(error)
                    if begun or attempt + 1 == ATTEMPTS or refused.code != LOST:
                        raise refused from None

    async def models(self) -> Models:
        """What the samplers hold and what may be asked for; raises `Refused`."""
        lists, states, available = await self._control(
            asyncio.gather(
                self._of_all("infos"),
                self.states(),
                self._samplers.available.remote(),
            )
        )
        merged: dict[str, ModelInfo] = {}
        for info in (info for infos in lists if isinstance(infos, list) for info in infos):
            held = merged.get(info.model)
            merged[info.model] = (
                info
                if held is None
                else info.model_copy(update={"replicas": held.replicas + 1, "names": sorted({*held.names, *info.names})})
            )
        refused = {key: why for state in states for key, why in state["refused"].items()}
        default = states[0]["default"] if states else self.settings.model
        return Models(default=default, loaded=list(merged.values()), available=available, refused=refused)

    async def states(self) -> list[dict[str, Any]]:
        """Figures of every sampler; where not all of them answer in time, of one that does, if there is one."""
        try:
            return [state for state in await self._of_all("state") if isinstance(state, dict)]
        except NO_ANSWER:
            return []

    async def _of_all(self, name: str) -> list[Any]:
        """What a method of every sampler gives, or raised; of the one that a request would be given to where not all answer in time.

        One that hangs would hide the others, as their answers come together or not at all.
        """
        try:
            answers: list[Any] = await self._samplers.broadcast(name).results_async(timeout_s=CONTROL_S, return_exceptions=True)
        except TimeoutError:
            async with asyncio.timeout(CONTROL_S):
                answers = [await getattr(self._samplers, name).remote()]
        return answers

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
        if self.num_ongoing:
            try:
                await asyncio.wait_for(self._drained.wait(), timeout_s)
            except TimeoutError:
                self._ended = True
                for task in self._tasks:
                    task.cancel()
                return False
        return True

    async def _call(self, send: Callable[[float], Awaitable[T | Refused]], asked_s: float | None, *, is_begun: bool = False) -> T:
        """One request to a sampler; to another one where that dies. Raises `Refused`."""
        timeout_s = self._timeout(asked_s)
        deadline = time.monotonic() + timeout_s
        with self._ongoing(is_begun=is_begun):
            for attempt in range(ATTEMPTS):
                self.num_retries += attempt > 0
                left_s = _left_s(deadline)
                try:
                    async with asyncio.timeout(left_s + GRACE_S):
                        answer = await send(left_s)
                except TimeoutError:
                    raise _final(too_late(timeout_s), timeout_s, attempt) from None
                except BackPressureError:
                    raise overloaded("too many requests wait", 1.0) from None
                except Exception as error:  # over gRPC it is what the sampler raised
                    answer = _refusal(error)
                if not isinstance(answer, Refused):
                    return answer
                if answer.code != LOST:
                    raise _final(answer, timeout_s, attempt)
            raise lost()

    async def _control(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(3 * CONTROL_S):
                return await answer
        except NO_ANSWER:
            raise Refused(503, "not_ready", "no sampler answers", None, 5.0) from None

    def _timeout(self, asked_s: float | None) -> float:
        timeout_s = self.settings.timeout_s if asked_s is None else asked_s
        if timeout_s > self.settings.max_timeout_s:
            raise Refused(422, "invalid", f"{timeout_s:g} s asked for; at most {self.settings.max_timeout_s:g}", "timeout_s")
        return timeout_s

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
            self._leave()

    def _leave(self) -> None:
        self.num_ongoing -= 1
        if self.draining and not self.num_ongoing:
            self._drained.set()


def _draining() -> Refused:
    return Refused(503, "draining", "the service is ending", None, 10.0)


def _left_s(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _shared_out(asked: SampleRequest, num_parts: int) -> list[SampleRequest]:
    """Requests for the images of one, in their order."""
    bounds = [asked.n * part // num_parts for part in range(num_parts + 1)]
    return [asked.model_copy(update={"first": asked.first + begin, "n": end - begin}) for begin, end in pairwise(bounds)]


def _refusal(error: Exception) -> Refused:
    """What becomes of a request whose sampler ended, or raised: only where it ended another one may try."""
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


def _final(refused: Refused, timeout_s: float, attempt: int) -> Refused:
    """An answer that is no, in terms of the request: a sampler knows the time that is left of it only, and not that one was lost before."""
    if refused.code != "deadline":
        return refused
    return lost() if attempt else too_late(timeout_s)
