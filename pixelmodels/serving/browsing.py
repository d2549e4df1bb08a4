"""What is asked of the service besides samples and scores: which versions there are, how an image is fitted, images of the data set."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi.responses import Response, StreamingResponse

from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.schemas import (
    ERRORS,
    FitRequest,
    Fitted,
    ModelInfo,
    Neighbours,
    NeighboursRequest,
    Shown,
    TestScores,
    Versions,
)

UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx and its like would keep events back
MOST_SHOWN = 256  # images of a data set in one answer


def add_routes(app: FastAPI, gateway: Gateway) -> None:
    """Add them to an application."""

    @app.get("/v1/versions", responses=ERRORS)
    async def versions() -> Versions:
        """All versions of the names that are served, their figures, and the decisions on them: the leaderboard."""
        return await gateway.versions()

    @app.get("/v1/models/{address:path}", responses=ERRORS)
    async def model(address: str) -> ModelInfo:
        """What one version takes; it is loaded where no sampler holds it."""
        return await gateway.model(address)

    @app.post("/v1/fits", responses=ERRORS)
    async def fits(asked: FitRequest) -> Fitted:
        """Images of any size and format as a model sees them: cropped, resized and quantized as data are prepared."""
        return await gateway.fit(asked)

    @app.get("/v1/test_scores/{address:path}", responses=ERRORS)
    async def test_scores(address: str) -> TestScores:
        """What the test images cost a version, as its training measured it: a histogram and percentiles, bits/dim."""
        return await gateway.test_scores(address)

    @app.get("/v1/data/{address:path}", responses=ERRORS)
    async def data(
        address: str,
        split: Literal["train", "validation", "test"] = "test",
        first: Annotated[int, Query(ge=0, lt=1 << 31)] = 0,
        n: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 24,
    ) -> Shown:
        """Images of the data set that a version was trained on, where the service shows them (--show-data)."""
        return await gateway.shown(address, split, first, n)

    events: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {}}, "description": "`progress`, again and again, then `done` or `error`"}
    }

    @app.post("/v1/neighbours", response_model=Neighbours, responses={**ERRORS, **events})
    async def neighbours(asked: NeighboursRequest) -> Response:
        """The nearest training images by a layer of the model, where the service shows images of data sets (--show-data)."""
        found = gateway.neighbours(asked)
        first = await anext(found)  # refusals come before the first event, with their status
        return StreamingResponse(_events(first, found), media_type="text/event-stream", headers=UNBUFFERED)


async def _events(first: tuple[int, int] | Neighbours, found: AsyncIterator[tuple[int, int] | Neighbours]) -> AsyncIterator[str]:
    try:
        yield _event(first)
        async for part in found:
            yield _event(part)
    except Refused as refused:
        yield f"event: error\ndata: {json.dumps({'status': refused.status, **refused.body()})}\n\n"


def _event(part: tuple[int, int] | Neighbours) -> str:
    if isinstance(part, Neighbours):
        return f"event: done\ndata: {part.model_dump_json()}\n\n"
    return f"event: progress\ndata: {json.dumps({'done': part[0], 'total': part[1]})}\n\n"
