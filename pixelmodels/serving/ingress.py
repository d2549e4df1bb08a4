"""The HTTP API: what is asked, checked against its schema, answered as PNG, JSON, npz or server-sent events."""

from __future__ import annotations

import asyncio
import io
import json
import math
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import pixelmodels
from pixelmodels.captions import can_write
from pixelmodels.pictures import grid, png_bytes
from pixelmodels.serving import browsing
from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.guard import App, Guard
from pixelmodels.serving.metrics import Metrics
from pixelmodels.serving.pngs import base64_png
from pixelmodels.serving.refusals import Refused, invalid
from pixelmodels.serving.replica import Drawn, Explained, Scored, StreamedRow
from pixelmodels.serving.requests import DrawnBy
from pixelmodels.serving.schemas import (
    ERRORS,
    UNKNOWN,
    CompletionRequest,
    Explanation,
    ExplanationRequest,
    Explanations,
    Models,
    Orders,
    SampleRequest,
    Samples,
    Score,
    ScoreRequest,
    Scores,
)
from pixelmodels.studio import pages

SAMPLES: dict[str, Any] = {
    "response_model": Samples,
    "responses": {
        **ERRORS,
        200: {
            "content": {"image/png": {}, "application/x-npz": {}, "text/event-stream": {}},
            "description": "as `format` and `stream` say",
        },
    },
}
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx and its like would keep events back
LONGEST_SHOWN = 60  # letters of a wrong value that are told
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


def make_app(gateway: Gateway, hashes: tuple[str, ...]) -> FastAPI:
    """The application; `hashes` of the keys that are let in, none: everybody."""
    app = FastAPI(
        title="pixelmodels",
        version=pixelmodels.__version__,
        description="Samples, completions, scores and explanations of pixel models.",
        redoc_url=None,
    )
    metrics = Metrics()
    app.router.redirect_slashes = False
    app.add_middleware(Guard, settings=gateway.settings, hashes=hashes)
    if gateway.settings.cors_origins:  # around the guard: browsers ask without a key first, and read refusals only with these headers
        app.add_middleware(
            CORSMiddleware,
            allow_origins=gateway.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After", "X-Label", "X-Label-Name", "X-Model", "X-Seed"],
        )
    app.add_middleware(_Timed, metrics=metrics)  # the outer one
    _answer_errors(app)
    app.router.routes.extend(pages.routes())
    browsing.add_routes(app, gateway)

    @app.post("/v1/samples", **SAMPLES)
    async def samples(asked: SampleRequest) -> Response:
        """Draw images."""
        return await _answer(gateway, asked)

    @app.post("/v1/completions", **SAMPLES)
    async def completions(asked: CompletionRequest) -> Response:
        """Draw images of which some pixels are known. Known pixels stay; what is drawn after them is conditioned on them."""
        return await _answer(gateway, asked)

    @app.post("/v1/scores", response_model=Scores, responses=ERRORS)
    async def scores(asked: ScoreRequest) -> Response:
        """Exact likelihoods: what the images cost."""
        return await asyncio.to_thread(_encoded_scores, await gateway.score(asked))

    @app.post("/v1/explanations", response_model=Explanations, responses=ERRORS)
    async def explanations(asked: ExplanationRequest) -> Response:
        """What the model expects: bits and entropy of each pixel, the expected image, and on what the prediction of one pixel depends."""
        return await asyncio.to_thread(_encoded_explanations, await gateway.explain(asked))

    @app.get("/v1/models", responses=ERRORS)
    async def models() -> Models:
        """What is served, and what it takes."""
        return await gateway.models()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The ingress is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: ERRORS[503]})
    async def readyz() -> dict[str, str]:
        """A sampler has its model, and requests are taken."""
        if not await gateway.ready():
            raise Refused(503, "not_ready", "no sampler answers, or the service is ending", None, 5.0)
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Figures for Prometheus, of this ingress and of every sampler."""
        return Response(metrics.page(await gateway.states(), gateway.num_retries), media_type=metrics.media_type)

    return app


async def _answer(gateway: Gateway, asked: SampleRequest) -> Response:
    """Images in the form that was asked for."""
    if asked.seed is None:
        asked = asked.model_copy(update={"seed": secrets.randbelow(1 << 31)})
    if asked.stream:
        rows = gateway.stream(asked)
        opened = await anext(rows)  # refusals come before the first event, with their status
        return StreamingResponse(_events(rows, opened[0], asked), media_type="text/event-stream", headers=UNBUFFERED)
    drawn = await gateway.sample(asked)
    if drawn.images_NCHW.size <= 1 << 14:  # a thread costs more than that
        return _encoded(drawn, asked)
    return await asyncio.to_thread(_encoded, drawn, asked)


def _encoded(drawn: Drawn, asked: SampleRequest) -> Response:
    headers = {"X-Model": quote(drawn.model, safe="/ "), "X-Seed": str(asked.seed)}
    headers |= {} if drawn.label is None else {"X-Label": str(drawn.label)}
    headers |= {} if drawn.label_name is None else {"X-Label-Name": quote(drawn.label_name, safe="")}
    if asked.format == "grid":
        name = drawn.label_name or ""
        captions = [name if can_write(name) else f"class {drawn.label}"] * len(drawn.images_NCHW)
        return Response(png_bytes(grid(drawn.images_NCHW, drawn.levels, captions=captions)), media_type="image/png", headers=headers)
    if asked.format == "npz":
        stream = io.BytesIO()
        orders = {} if drawn.orders is None else {"order_N": np.array(drawn.orders.orders), "unused_HW": drawn.orders.unused_HW}
        np.savez_compressed(stream, images_NCHW=drawn.images_NCHW, **orders)  # type: ignore[arg-type]
        return Response(stream.getvalue(), media_type="application/x-npz", headers=headers)
    images = [base64_png(image_CHW, drawn.levels) for image_CHW in drawn.images_NCHW]
    told = {"label": drawn.label, "label_name": drawn.label_name, **_drawn_by(drawn.orders)}
    body = {"model": drawn.model, "seed": asked.seed, "first": asked.first, **told, "images": images}
    return Response(json.dumps(body), media_type="application/json", headers=headers)


def _drawn_by(drawn: DrawnBy | None) -> dict[str, Any]:
    """What an answer says of the orders of a model of several; nothing of any other."""
    if drawn is None:
        return {}
    num_unused = int(drawn.unused_HW.sum())
    png = base64_png(drawn.unused_HW[None].astype(np.uint8), 2) if num_unused else None
    return {"drawn_by": Orders(orders=list(drawn.orders), num_unused=num_unused, unused=png).model_dump()}


def _encoded_scores(scored: Scored) -> Response:
    maps = [None] * len(scored.nats_N) if scored.map_bits_NHW is None else scored.map_bits_NHW.tolist()
    each = zip(scored.nats_N, scored.bits_per_dim_N, maps, strict=True)
    costs = [Score(nats=nats, bits_per_dim=bits, map_bits=map_bits) for nats, bits, map_bits in each]
    answer = Scores(model=scored.model, label=scored.label, label_name=scored.label_name, scores=costs)
    if (found := scored.unlikeness) is not None:
        answer.num_normal = found.num_normal
        for cost, bits, p_value in zip(costs, found.bits_N, found.p_value_N, strict=True):
            cost.arrangement_bits, cost.p_value = bits, p_value
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _encoded_explanations(explained: Explained) -> Response:
    each = zip(explained.maps, explained.bits_per_dim_N, strict=True)
    told = [Explanation(nats=float(maps.surprise_bits.sum()) * math.log(2), bits_per_dim=bits, **maps.plain()) for maps, bits in each]
    answer = Explanations(model=explained.model, label=explained.label, label_name=explained.label_name, explanations=told)
    body = answer.model_dump(exclude_none=True)
    return Response(json.dumps(body), media_type="application/json")


async def _events(rows: AsyncIterator[list[StreamedRow]], opened: StreamedRow, asked: SampleRequest) -> AsyncIterator[str]:
    """Server-sent events: `start`, then `row` or `image`, then `done` or `error`."""
    told = {"label": opened.label, "label_name": opened.label_name, **_drawn_by(opened.orders)}
    yield _event("start", {"model": opened.model, "seed": asked.seed, "first": asked.first, "n": asked.n, **told})
    canvases: dict[int, npt.NDArray[np.uint8]] = {}
    try:
        async for part in rows:
            yield await asyncio.to_thread(_encoded_rows, part, canvases, asked)
        yield _event("done", {"images": asked.n})
    except Refused as refused:
        yield _event("error", {"status": refused.status, **refused.body()})


def _encoded_rows(rows: list[StreamedRow], canvases: dict[int, npt.NDArray[np.uint8]], asked: SampleRequest) -> str:
    """The events of rows; `canvases`, of each image that is not finished: its rows so far."""
    events, is_again = [], asked.most_passes > 1
    for row in rows:
        if row.image_CHW is None:
            picture_CHW = canvases[row.image] = _with_row(canvases.get(row.image), row)
        else:
            picture_CHW = row.image_CHW
            canvases.pop(row.image, None)
            if not row.is_last:  # it is drawn again in part, from now on
                canvases[row.image] = picture_CHW.copy()
        png = base64_png(picture_CHW, row.levels)
        if asked.every == "row":
            place: dict[str, Any] = {"image": row.image, "stage": row.stage, "row": row.row, "every": row.every}
            if is_again:
                place["redraw"] = row.redraw
            if row.place is not None:
                place |= {"order": row.order, "first": row.place.first, "step": row.place.step}
            events.append(_event("row", {**place, "levels": row.levels_CW.tolist(), "png": png}))
        if row.image_CHW is not None and (row.is_last or asked.dream is not None):
            step = {} if asked.dream is None else {"step": row.redraw}
            events.append(_event("image", {"image": row.image, **step, "png": png}))
    return "".join(events)


def _with_row(canvas_CHW: npt.NDArray[np.uint8] | None, row: StreamedRow) -> npt.NDArray[np.uint8]:
    """The rows so far (None: there are none) and one more; of a model of several orders as an image of the whole size."""
    channels, width = row.levels_CW.shape
    if row.place is not None:
        canvas_CHW = np.zeros((channels, *row.place.size_HW), np.uint8) if canvas_CHW is None else canvas_CHW
        rows_W, columns_W = (first + step * np.arange(width) for first, step in zip(row.place.first, row.place.step, strict=True))
        canvas_CHW[:, rows_W, columns_W] = row.levels_CW
        return canvas_CHW
    if canvas_CHW is None:
        canvas_CHW = np.zeros((channels, 0, width * row.every), np.uint8)
    top, right = row.row * row.every, 1 + (width - 1) * row.every
    lower, wider = max(0, top + 1 - canvas_CHW.shape[1]), max(0, right - canvas_CHW.shape[2])
    canvas_CHW = np.pad(canvas_CHW, ((0, 0), (0, lower), (0, wider)))
    canvas_CHW[:, top, : right : row.every] = row.levels_CW
    return canvas_CHW


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def _given(value: object) -> str:
    """A value that is wrong, as it is told behind what it should be; nothing of one that is no single value."""
    if not isinstance(value, str | int | float | None):
        return ""
    shown = json.dumps(value[: LONGEST_SHOWN + 1] if isinstance(value, str) else value)
    return f" (given: {shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + '...'})"


def _answer_errors(app: FastAPI) -> None:
    """Every error as JSON with a code, a sentence and the field."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            return Refused(400, "bad_request", f"the body is no JSON ({message})").response()
        if first["type"] == UNKNOWN:
            place.append(first["ctx"]["name"])
        if first["type"] == "value_error":  # of the whole request: its message begins with the field
            name, _, message = message.partition(": ")
            place = [name]
        elif first["type"] not in (UNKNOWN, "missing"):
            message += _given(first.get("input"))
        return invalid(message[:500], ".".join(place)[:200] or None).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, "http_error")
        return Refused(error.status_code, code, str(error.detail)).response(**(error.headers or {}))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return Refused(500, "internal", "the service failed; its log says more").response()


class _Timed:
    """An ASGI application around another one that counts requests and times them."""

    def __init__(self, app: App, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # a client that went away

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        except Exception:  # what answers it with 500 is around this
            status = 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, time.monotonic() - began)
