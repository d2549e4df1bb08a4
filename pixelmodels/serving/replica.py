"""A sampler: a replica of Ray Serve that owns the engine's thread and the versions it draws from."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.anomalies.calibration import p_values
from pixelmodels.anomalies.level_code import arrangement, level_bits
from pixelmodels.errors import UserError
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import Context, PixelModel, architecture_of
from pixelmodels.models.class_names import told
from pixelmodels.models.orders import ensemble_log_prob, log_prob_map_of_order
from pixelmodels.models.turns import row_in_image
from pixelmodels.products import products
from pixelmodels.sampling.engine import RowDone
from pixelmodels.serving import pngs
from pixelmodels.serving.archive import Archive
from pixelmodels.serving.engine_thread import EngineThread
from pixelmodels.serving.explaining import Explaining, Maps, is_finite, units_of
from pixelmodels.serving.fitting import fitted
from pixelmodels.serving.neighbours import Index, features, known_of, layer_of, nearest, read_images
from pixelmodels.serving.ray_serve import METRIC, listen_on_the_nodes_address
from pixelmodels.serving.refusals import NOT_FINITE, Refused, invalid
from pixelmodels.serving.requests import (
    Asked,
    DrawnBy,
    check_explained,
    check_map,
    check_p_value,
    check_pictures,
    class_of,
    drawn_by,
    engine_request,
    images_of,
    order_of_scores,
    passes_of,
)
from pixelmodels.serving.schemas import (
    ExplanationRequest,
    FitRequest,
    Fitted,
    ModelInfo,
    Neighbours,
    NeighboursRequest,
    SampleRequest,
    ScoreRequest,
    Shown,
    TestScores,
    Versions,
)
from pixelmodels.serving.settings import Settings
from pixelmodels.serving.shelf import Loaded, Shelf
from pixelmodels.serving.work import Progress

logger = logging.getLogger(__name__)
T = TypeVar("T")
STALLED_S = 120.0  # a thread that does not come round for so long is taken to be lost


@dataclass(frozen=True)
class Drawn:
    """All images of a request."""

    model: str  # name/version
    levels: int
    images_NCHW: npt.NDArray[np.uint8]
    label: int | None = None  # of their class, where one was asked for
    label_name: str | None = None  # where the model knows it
    orders: DrawnBy | None = None  # of a model of several orders


@dataclass(frozen=True)
class RowPlace:
    """Where a row is that a model of several orders has drawn: its pixel j is at `first` + j * `step` (row, column) of the image."""

    first: tuple[int, int]
    step: tuple[int, int]
    size_HW: tuple[int, int]  # of the image


@dataclass(frozen=True)
class StreamedRow:
    """One row of one image; the first of a stream tells the model, the class and the orders, and nothing else (`image` -1)."""

    model: str
    levels: int
    image: int
    stage: int
    row: int
    every: int  # the row's pixels are those of every k-th column, in row k * row of the image
    levels_CW: npt.NDArray[np.uint8]
    image_CHW: npt.NDArray[np.uint8] | None  # the whole image once it is finished
    label: int | None = None  # as of `Drawn`, told by the first of a stream
    label_name: str | None = None
    orders: DrawnBy | None = None
    redraw: int = 0  # how often some of the image was drawn again, this time included
    is_last: bool = False  # the image is finished
    order: int | None = None  # by which the image is drawn; None for a model of one, whose row is at row `every` * `row` from the left
    place: RowPlace | None = None  # where it is then


@dataclass(frozen=True)
class Unlikeness:
    """How unlike test images some images are, by the score `arrangement` (docs/anomalies.md)."""

    bits_N: list[float]  # the score
    p_value_N: list[float]
    num_normal: int  # test images that they are held against


@dataclass(frozen=True)
class Scored:
    """What images cost."""

    model: str
    nats_N: list[float]
    bits_per_dim_N: list[float]
    map_bits_NHW: npt.NDArray[np.float64] | None
    label: int | None = None  # as of `Drawn`
    label_name: str | None = None
    unlikeness: Unlikeness | None = None  # where it was asked for


@dataclass(frozen=True)
class Explained:
    """What is expected of images."""

    model: str
    bits_per_dim_N: list[float]
    maps: list[Maps]
    label: int | None = None  # as of `Drawn`
    label_name: str | None = None


class Sampler:
    """What a replica does; every method that answers gives a result or a `Refused`, as values."""

    def __init__(self, settings: Settings):
        listen_on_the_nodes_address()
        self.settings = settings
        self.started = time.time()
        device = device_of(settings.gpus)
        torch.set_num_threads(1)  # the cores are the engine's thread's
        self.shelf = Shelf(settings, device)
        self.shelf.open()
        self.archive, self.index = Archive(settings.storage, self.shelf.tracker, show_data=settings.show_data), Index()
        # A replica whose thread has failed answers nothing any more: Serve starts another one, and its requests go there.
        self.thread = EngineThread(
            slots=settings.slots, max_waiting=settings.max_waiting, num_threads=settings.cpus, on_failure=partial(os._exit, 1)
        ).start()
        self._loader = ThreadPoolExecutor(1, "loader")
        self._asker = ThreadPoolExecutor(1, "asker")  # of the registry
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._reader = ThreadPoolExecutor(2, "reader")  # of what takes long and nobody draws from: data sets, results of runs
        self._indexing = asyncio.Lock()  # features of training images are found for one request at a time
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="follow", daemon=True)
        self._follower.start()

    async def sample(self, asked: SampleRequest, timeout_s: float) -> Drawn | Refused:
        """Draw the images of a request."""
        try:
            async with aclosing(self._draw(asked, timeout_s, wants_rows=False)) as told:
                async for events, loaded, orders in told:
                    if isinstance(events[-1], np.ndarray):
                        label = class_of(asked, loaded.model.context_spec)
                        return Drawn(loaded.address, loaded.model.spec.levels, events[-1], *label, orders)
        except Refused as refused:
            return refused
        return Refused(500, "internal", "the request ended without a result")

    async def stream(self, asked: SampleRequest, timeout_s: float) -> AsyncIterator[list[StreamedRow] | Refused]:
        """Rows of the images of a request as they are drawn; only those that finish an image where the request says so."""
        try:
            async with aclosing(self._draw(asked, timeout_s, wants_rows=True)) as told:
                async for events, loaded, orders in told:
                    every = [stage.every for stage in loaded.model.stages()]
                    rows = [_streamed(loaded, event, every[event.stage]) for event in events if isinstance(event, RowDone)]
                    if rows or not events:
                        yield rows or [_opening(loaded, asked, orders)]
        except Refused as refused:
            yield refused

    async def _draw(
        self, asked: SampleRequest, timeout_s: float, *, wants_rows: bool
    ) -> AsyncGenerator[tuple[list[Progress], Loaded, DrawnBy | None], None]:
        """What the engine tells of a request, to the end; nothing first, once it is let in. Whoever stops listening cancels it.

        With it the version, and by which orders its images are drawn.
        """
        deadline = time.monotonic() + timeout_s
        with self.thread.reserved(asked.n):
            loaded = await self._loaded(asked.model)
            if wants_rows:
                check_pictures(loaded.model, asked, self.settings.max_stream_bytes)
            request = await self._decoded(partial(engine_request, loaded.model, asked, self.settings.max_image_bytes), has_images(asked))
        orders = drawn_by(loaded.model, request)
        inbox, put = _inbox()

        def listen(events: list[Progress]) -> None:
            if asked.every == "image":  # rows that nobody wants are not kept
                events = [event for event in events if not isinstance(event, RowDone) or _is_image(event, asked)]
            if events:
                put(events)

        ticket = self.thread.submit(loaded.engine, request, deadline - time.monotonic(), listen, wants_rows=wants_rows)
        try:
            if wants_rows:
                yield [], loaded, orders
            while True:
                events = await inbox.get()
                if isinstance(events[-1], Refused):
                    raise _blamed(events[-1], asked)
                yield events, loaded, orders
                if isinstance(events[-1], np.ndarray):
                    return
        finally:
            self.thread.cancel(ticket)

    async def score(self, asked: ScoreRequest, timeout_s: float) -> Scored | Refused:
        """Score the images of a request, between the rows of what is being drawn."""
        deadline = time.monotonic() + timeout_s
        try:
            with self.thread.reserved(len(asked.images)):
                loaded = await self._loaded(asked.model)
                model, limit = loaded.model, self.settings.max_image_bytes
                if asked.map:
                    check_map(model, len(asked.images), self.settings.max_map_pixels)
                order = order_of_scores(model, asked)
                check_p_value(model, asked)
                normal_M = await self._normal(loaded.address) if asked.p_value else None
                x_NCHW, context = await self._decoded(lambda: images_of(model, asked, limit), True)
            answer = await self._worked(loaded, partial(_score, model, x_NCHW, context, order), len(x_NCHW), deadline)
        except Refused as refused:
            return refused
        nats_NHW = np.concatenate(answer)  # of a mixture N 1 1
        nats_N = nats_NHW.sum((1, 2))
        if not np.isfinite(nats_N).all():
            return _blamed(Refused(500, NOT_FINITE, "the likelihood is not finite"), asked)
        bits_N = [float(bits_per_dim(nats, model.spec.num_subpixels)) for nats in nats_N]
        map_bits_NHW = nats_NHW / np.log(2) if asked.map else None
        unlikeness = None
        if normal_M is not None:
            unlikeness = await self._decoded(partial(_unlikeness, x_NCHW, nats_N, model.spec.levels, normal_M), True)
        return Scored(loaded.address, nats_N.tolist(), bits_N, map_bits_NHW, *class_of(asked, model.context_spec), unlikeness)

    async def explain(self, asked: ExplanationRequest, timeout_s: float) -> Explained | Refused:
        """Explain the images of a request, between the rows of what is being drawn."""
        deadline = time.monotonic() + timeout_s
        try:
            with self.thread.reserved(len(asked.images)):
                loaded = await self._loaded(asked.model)
                model = loaded.model
                check_explained(model, asked, self.settings.max_map_pixels, self.settings.max_n)
                explaining = await self._decoded(lambda: self._explaining(model, asked), True)
            answer = await self._worked(loaded, explaining.work, explaining.num_units, deadline)
        except Refused as refused:
            return refused
        maps = await self._decoded(lambda: explaining.finished(units_of(answer)), True)
        if not is_finite(maps):
            return _blamed(Refused(500, NOT_FINITE, "the likelihood is not finite"), asked)
        bits_N = [float(one.surprise_bits.sum()) / model.spec.num_subpixels for one in maps]
        return Explained(loaded.address, bits_N, maps, *class_of(asked, model.context_spec))

    async def _worked(self, loaded: Loaded, work: Callable[[int, int], object], num_units: int, deadline: float) -> list[Any]:
        """All parts of a piece of work between rows, see `EngineThread.run`; raises `Refused`. Whoever goes away takes it along."""
        inbox, put = _inbox()
        job = self.thread.run(loaded.engine, work, num_units, deadline - time.monotonic(), put)
        try:
            answer: list[Any] = await inbox.get()
        finally:
            self.thread.cancel(job)
        if isinstance(answer[-1], Refused):
            raise answer[-1]
        return answer

    def _explaining(self, model: PixelModel, asked: ExplanationRequest) -> Explaining:
        x_NCHW, context = images_of(model, asked, self.settings.max_image_bytes)
        pixel = None if asked.pixel is None else (asked.pixel[0], asked.pixel[1])
        return Explaining(model, x_NCHW, context, asked.order, pixel, passes_of(model, asked, self.settings.max_n))

    async def _loaded(self, asked: str | None) -> Loaded:
        """The version that is asked for; others, also those held under another name, are not kept waiting while it is loaded."""
        held = self.shelf.held(asked)
        if held is not None:
            return held
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._asker, self.shelf.found, asked)
        return found if found is not None else await loop.run_in_executor(self._loader, self.shelf.find, asked)

    async def _normal(self, address: str) -> npt.NDArray[np.float64]:
        """What test images score; raises `Refused` where nobody kept it."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self.archive.normal, address)

    async def _decoded(self, make: Callable[[], T], has_images: bool) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoder, make) if has_images else make()

    # --- about versions and images ---

    async def versions(self) -> Versions | Refused:
        """All versions of the names that are served, out of the registry."""
        return await self._read(None, lambda _: self.shelf.catalogue())

    async def info(self, address: str) -> ModelInfo | Refused:
        """What one version takes; it is loaded."""
        try:
            loaded = await self._loaded(address)
            return _info(loaded, self.shelf.loaded().get(loaded, []))
        except Refused as refused:
            return refused

    async def fit(self, asked: FitRequest) -> Fitted | Refused:
        """Images as a version sees them."""
        limit = self.settings.max_body_bytes
        return await self._read(asked.model, lambda one: Fitted(model=one.address, images=fitted(one.model, asked, limit)))

    async def test_scores(self, address: str) -> TestScores | Refused:
        """What the test images cost a version."""
        return await self._read(address, lambda loaded: self.archive.test_scores(loaded.address))

    async def shown(self, address: str, split: str, first: int, n: int) -> Shown | Refused:
        """Images of the data set of a version, where they may be shown."""
        try:
            self.archive.check_shows()
        except Refused as refused:
            return refused
        return await self._read(address, lambda loaded: self.archive.shown(loaded.address, split, first, n))

    async def neighbours(self, asked: NeighboursRequest, timeout_s: float) -> AsyncIterator[tuple[int, int] | Neighbours | Refused]:
        """How many images of how many were looked at, and then the nearest training images."""
        job, deadline, alone = None, time.monotonic() + timeout_s, AsyncExitStack()
        loop = asyncio.get_running_loop()
        try:
            self.archive.check_shows()
            with self.thread.reserved(1):
                loaded = await self._loaded(asked.model)
                model, limit = loaded.model, self.settings.max_image_bytes
                dataset = await loop.run_in_executor(self._reader, self.archive.dataset, loaded.address)
                image_CHW = await self._decoded(lambda: pngs.image_of(asked.image, "image", model.spec, limit, asked.scale), True)
            layer, layers = layer_of(model, asked.layer)
            x_NCHW, known = torch.from_numpy(image_CHW)[None], self.index.find(loaded.address, layer)
            places_M, num_test = np.zeros(0, np.int64), 0
            if known is None:  # all the images are in memory of one request at a time; who waited for it has what it found
                await alone.enter_async_context(self._indexing)
                known = self.index.find(loaded.address, layer)
            if known is None:
                others_NCHW, places_M, num_test = await loop.run_in_executor(self._reader, read_images, model, dataset, loaded.address)
                x_NCHW = torch.cat([x_NCHW, others_NCHW])
            inbox, put = _inbox()

            def work(first: int, last: int) -> npt.NDArray[np.float32]:
                h_BD = features(model, x_NCHW[first:last], layer)
                put([(last, len(x_NCHW))])
                return h_BD

            # a piece after the other, however many images those are: it is one request
            job = self.thread.run(loaded.engine, work, len(x_NCHW), deadline - time.monotonic(), put, weight=1)
            while isinstance((answer := await inbox.get())[-1], tuple):
                yield answer[-1]
            if isinstance(answer[-1], Refused):
                raise answer[-1]
            h_ND = np.concatenate(answer)
            if known is None:
                known = await loop.run_in_executor(self._reader, known_of, h_ND[1:], places_M, num_test)
                self.index.keep(loaded.address, layer, known)
            await alone.aclose()
            told = (loaded.address, layer, layers)
            yield await loop.run_in_executor(self._reader, nearest, known, h_ND[0], asked.n, dataset, told)
        except Refused as refused:
            yield refused
        finally:
            if job is not None:
                self.thread.cancel(job)
            await alone.aclose()

    async def _read(self, address: str | None, read: Callable[[Loaded], T]) -> T | Refused:
        """What is read of a version, beside everything else."""
        try:
            loaded = await self._loaded(address)
            return await asyncio.get_running_loop().run_in_executor(self._reader, read, loaded)
        except Refused as refused:
            return refused

    # --- about the replica ---

    async def state(self) -> dict[str, Any]:
        """Figures for the metrics page, what it holds and what it refuses."""
        held, loaded = self.shelf.held(None), self.shelf.loaded()
        return {
            "replica": f"{os.uname().nodename}-{os.getpid()}",
            "waiting_images": self.thread.num_waiting,
            "unfinished_images": self.thread.num_unfinished,
            "unfinished_requests": self.thread.num_requests,
            "images_drawn": self.thread.num_images_drawn,
            "images_per_second": self.thread.images_per_s(held.engine) if held else 0.0,
            "loaded_models": len(loaded),
            "models": [_info(one, names) for one, names in loaded.items()],
            "failure": self._failure(),
            "default": self.shelf.default,
            "refused": dict(self.shelf.refused),
        }

    async def available(self) -> dict[str, list[str]]:
        """What may be asked for, out of the registry."""
        return await asyncio.get_running_loop().run_in_executor(self._asker, self.shelf.available)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve scales by."""
        return {METRIC: float(self.thread.num_unfinished)}

    async def check_health(self) -> None:
        """Serve replaces the replica where this raises."""
        failure = self._failure()
        if failure is not None:
            raise RuntimeError(failure)

    def _failure(self) -> str | None:
        """Why the replica is of no use, where it is not."""
        if self.thread.failure is not None:
            return f"the engine's thread has failed: {self.thread.failure}"
        if time.monotonic() - self.thread.beat > STALLED_S:
            return f"the engine's thread has not come round for {STALLED_S:.0f} s"
        return None if self._follower.is_alive() else "the thread that follows the aliases has ended"

    def __del__(self) -> None:
        if hasattr(self, "_ended"):
            self._ended.set()
            self.thread.stop()

    def _follow(self) -> None:
        while not self._ended.wait(self.settings.poll_s):
            try:
                self.shelf.follow()
            except Exception:
                logger.exception("following the aliases failed")


def device_of(gpus: float) -> torch.device:
    """Where a sampler draws: on the GPU that it was given, and never on the CPU in place of it; raises `UserError`."""
    if gpus and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = "has no CUDA" if torch.version.cuda is None else f"sees none (CUDA_VISIBLE_DEVICES={visible!r}; nvidia-smi tells more)"
        raise UserError(f"gpus {gpus:g} is asked for, and torch {torch.__version__} {seen}; mend that, or serve on the CPU with gpus 0")
    return torch.device("cuda" if gpus else "cpu")


def _inbox() -> tuple[asyncio.Queue[list[Any]], Callable[[list[Any]], object]]:
    """A queue for this event loop, and what another thread calls to put something into it."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[list[Any]]()
    return inbox, lambda told: loop.call_soon_threadsafe(inbox.put_nowait, told)


def _is_image(row: RowDone, asked: SampleRequest) -> bool:
    """Whether a row ends an image that is told: a finished one, or one of a dream."""
    return row.is_last or (asked.dream is not None and row.image_CHW is not None)


def has_images(asked: SampleRequest | ScoreRequest) -> bool:
    """Whether images are to be decoded, other than those to score."""
    return any(getattr(asked, name, None) is not None for name in ("image", "context_image", "small_image"))


def _opening(loaded: Loaded, asked: SampleRequest, orders: DrawnBy | None) -> StreamedRow:
    """The first of a stream."""
    label, name = class_of(asked, loaded.model.context_spec)
    return StreamedRow(loaded.address, loaded.model.spec.levels, -1, 0, 0, 1, np.zeros((0, 0), np.uint8), None, label, name, orders)


def _streamed(loaded: Loaded, row: RowDone, every: int) -> StreamedRow:
    image_CHW = None if row.image_CHW is None else row.image_CHW.numpy()
    spec = loaded.model.spec
    told = StreamedRow(
        loaded.address, spec.levels, row.image, row.stage, row.row, every, row.levels_CW, image_CHW, redraw=row.redraw, is_last=row.is_last
    )
    if loaded.model.context_spec.num_orders == 1:
        return told
    place = RowPlace(*row_in_image(row.order, row.row, every, spec.height, spec.width), (spec.height, spec.width))
    return replace(told, order=row.order, place=place)


def _blamed(refused: Refused, asked: Asked) -> Refused:
    """What is not finite though the weights are: numbers of the request that are too large for the network."""
    toward = getattr(asked, "toward", None)
    if refused.code != NOT_FINITE or (asked.vector is None and getattr(toward, "vector", None) is None):
        return refused
    return invalid("the network's numbers overflow with this vector; give smaller ones", "vector" if asked.vector else "toward.vector")


@torch.inference_mode()
def _score(model: PixelModel, x_NCHW: Tensor, context: Context | None, order: int | None, first: int, last: int) -> npt.NDArray[np.float64]:
    """Nats of each pixel of images first..last - 1 by an order, B H W; under the mixture of all orders (None) of each image, B 1 1."""
    x_BCHW = x_NCHW[first:last].to(model.device)
    if context is not None:
        context = context.to(model.device).rows(torch.zeros(len(x_BCHW), dtype=torch.long, device=model.device))
    with products("ieee", model.device):
        if order is None:
            log_prob_BHW = ensemble_log_prob(model, x_BCHW, context)[:, None, None]
        else:
            log_prob_BHW = log_prob_map_of_order(model, x_BCHW, context, order=order)
        nats_BHW: npt.NDArray[np.float64] = (0.0 - log_prob_BHW).double().cpu().numpy()
    return nats_BHW


def _unlikeness(x_NCHW: Tensor, nats_N: npt.NDArray[np.float64], levels: int, normal_M: npt.NDArray[np.float64]) -> Unlikeness:
    """Images held against what test images score."""
    bits_N = arrangement(nats_N, level_bits(x_NCHW.numpy(), levels))
    return Unlikeness(bits_N.tolist(), p_values(bits_N, normal_M).tolist(), len(normal_M))


def _info(loaded: Loaded, names: list[str]) -> ModelInfo:
    spec, given = loaded.model.spec, loaded.model.context_spec

    def shape(image: Any) -> list[int] | None:
        return None if image is None else [*image.shape, image.levels]

    return ModelInfo(
        model=loaded.address,
        names=sorted(names),
        **asdict(spec),
        num_classes=given.num_classes,
        class_names=[told(name) for name in given.class_names],
        vector_size=given.vector_size,
        context_image=shape(given.image),
        small_image=shape(given.small),
        num_orders=given.num_orders,
        architecture=architecture_of(loaded.model.config),
        likelihood=loaded.model.likelihood.config.name,
        num_parameters=loaded.model.num_parameters,
    )
