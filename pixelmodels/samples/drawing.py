"""A commission drawn, in blocks: by this process where that is soon done, else over the Ray cluster. Both give the same images."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

import pixelmodels
from pixelmodels import ray_cluster
from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError, first_line
from pixelmodels.models import PixelModel, describe, from_description
from pixelmodels.progress import Say, counting
from pixelmodels.ray_cluster import WorkerNeeds, runs_at_once
from pixelmodels.samples.blocks import Block, Blocks
from pixelmodels.samples.commission import Commission
from pixelmodels.sampling import Engine, Request
from pixelmodels.sampling.engine import NotFinite
from pixelmodels.sampling.passes import Passes
from pixelmodels.storage import Storage

RAY_PAYS_S = 20.0  # a local Ray is not started for less drawing than this
MAX_RETRIES = 3  # of a block whose worker died


@dataclass(frozen=True)
class Means:
    """With what images are drawn; each rounds in its own way."""

    use_gpu: bool = False  # one GPU a worker
    compiled: bool = False  # by compiled passes, where there can be any
    speculation: bool = False  # whether rows are guessed

    def __str__(self) -> str:
        """What tells blocks drawn by one from those drawn by another."""
        return ", ".join(["cuda" if self.use_gpu else "cpu", *["compiled"] * self.compiled, *["speculation"] * self.speculation])

    @property
    def make_passes(self) -> Callable[[PixelModel], Passes]:
        """The passes of a model, once for all blocks."""
        if not self.compiled:
            return Passes
        from pixelmodels.sampling.compiled import compiled_or_not

        return cache(partial(compiled_or_not, speculates=self.speculation))


@dataclass(frozen=True)
class DrawnCommission:
    """What is drawn, in blocks of how many images, and by whom."""

    model: PixelModel
    commission: Commission
    batch_size: int  # images of a block
    num_workers: int | None = None  # of the cluster: blocks at a time; None: this process, or as many as there is room for
    means: Means = Means()

    def images(self, storage: Storage, say: Say) -> tuple[UInt8, Callable[[], None]]:
        """The images, N C H W, and what to call when they are safe elsewhere: it removes the blocks that are on disk.

        Raises `UserError` for what the machine or the cluster does not have.
        """
        n = self.commission.n
        try:
            images_NCHW = np.empty((n, *self.model.spec.shape), np.uint8)
        except MemoryError as error:
            raise UserError(f"--n {n}: so many images do not fit in memory; give fewer") from error
        packed = PackedModel.of(self.model)
        blocks = Blocks(storage, packed.key, self.commission, self.batch_size, str(self.means))
        left = [block for block in blocks.all if not blocks.read(block, images_NCHW)]
        num_done = n - sum(stop - start for start, stop in left)
        if num_done:
            say(f"{num_done:,} of {n:,} images found in {blocks.uri}")
        try:
            with counting("drawing", n, "images", done=num_done) as advance:
                for block, drawn_NCHW in self._drawn(packed, left, advance):
                    blocks.save(block, drawn_NCHW)
                    images_NCHW[slice(*block)] = drawn_NCHW
                    num_done += len(drawn_NCHW)
        except BaseException:
            if num_done:
                say(f"{num_done:,} of {n:,} images are kept in {blocks.uri}; the same command goes on from there")
            raise
        return images_NCHW, blocks.clear

    def _drawn(self, packed: PackedModel, left: list[Block], advance: Callable[[float], None]) -> Iterator[tuple[Block, UInt8]]:
        """Blocks as they are finished. Without a cluster or a number of workers, by this process as long as Ray takes longer to start.

        A single one is drawn by this process in any case, unless it is for a GPU that only the cluster has.
        """
        alone = self.num_workers is None and os.environ.get("RAY_ADDRESS") in (None, "", "local")
        use_gpu, make_passes = self.means.use_gpu, self.means.make_passes
        can_draw = alone or not use_gpu or torch.cuda.is_available()
        while left and (alone or (len(left) == 1 and can_draw)):
            check_gpu(use_gpu)
            block, *left = left
            model = self.model.to("cuda") if use_gpu else self.model
            for stage in model.stages() if self.means.compiled else ():
                make_passes(stage.model)  # which may take minutes once, and says nothing of how long the drawing takes
            started = time.monotonic()
            yield block, draw_requests(model, self.commission.requests(*block), advance, make_passes, self.means.speculation)
            alone = (time.monotonic() - started) * len(left) < RAY_PAYS_S
        if left:
            for block, drawn_NCHW in draw_on_ray(packed, self.commission, left, self.num_workers, self.means):
                advance(len(drawn_NCHW))
                yield block, drawn_NCHW


def draw_requests(
    model: PixelModel,
    requests: list[Request],
    advance: Callable[[float], None] = lambda images: None,
    make_passes: Callable[[PixelModel], Passes] = Passes,
    speculation: bool = False,
) -> UInt8:
    """Images of requests, one after the other, drawn in lockstep; `advance` is told of every row, as a share of an image.

    Args: `speculation`, whether rows are guessed.

    Raises `UserError` where the network's output is not finite.
    """
    n, rows_each = sum(request.n for request in requests), sum(stage.model.spec.height for stage in model.stages())
    engine = Engine(model, num_slots=n, max_waiting=n, reserve=0, make_passes=make_passes, speculates=lambda width: speculation)
    images_NCHW, first, total = np.empty((n, *model.spec.shape), np.uint8), {}, 0
    rows_of_N: list[int] = []  # of each image: how many it takes, with what is drawn again of it
    for request in requests:
        first[engine.submit(request)] = total
        total += request.n
        rows_of_N += [rows_each * (1 + len(request.redraws_of(model, image))) for image in range(request.n)]
    while not engine.is_idle:
        try:
            rows = engine.step_row()
        except NotFinite as error:
            raise UserError(f"{error}; give another checkpoint") from error
        for row in rows:
            if row.image_CHW is not None:
                images_NCHW[first[row.request_id] + row.image] = row.image_CHW.numpy()
        advance(sum(1 / rows_of_N[first[row.request_id] + row.image] for row in rows))
    return images_NCHW


def check_gpu(use_gpu: bool) -> None:
    """Raise `UserError` where this process is to use a GPU and has none."""
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu given, and this machine has no GPU that torch can use; leave it out, or join a cluster that has one")


@dataclass(frozen=True)
class PackedModel:
    """A model as it travels to workers: no files that they would have to see, no pickled modules."""

    description: dict[str, Any]  # as `models.describe` gives it
    weights: bytes  # safetensors

    @classmethod
    def of(cls, model: PixelModel) -> PackedModel:
        """From a model on any device."""
        return cls(describe(model), save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}))

    @property
    def key(self) -> str:
        """16 hexadecimal digits of a hash of all that it is, and of the version of the code that draws."""
        text = json.dumps([pixelmodels.__version__, self.description], sort_keys=True)
        return hashlib.sha256(text.encode() + self.weights).hexdigest()[:16]

    def unpack(self, device: torch.device) -> PixelModel:
        """The model, in evaluation mode."""
        state = load(self.weights)
        dtype = next(value.dtype for value in state.values() if value.is_floating_point())
        model = from_description(self.description).to(dtype)
        model.load_state_dict(state)
        return model.to(device).eval()


def draw_on_ray(
    packed: PackedModel, commission: Commission, blocks: list[Block], num_workers: int | None, means: Means
) -> Iterator[tuple[Block, UInt8]]:
    """Blocks as they are finished, in any order: `num_workers` at a time, each with a CPU (and a GPU) of its own.

    Joins Ray or starts it. A block whose worker dies is drawn again. Raises `UserError` for workers that the cluster can never have, or
    where workers die again and again.
    """
    ray_cluster.connect(ray_cluster.num_cores())  # nothing here needs the CPU that a local Ray has for Ray Data
    import ray

    room = runs_at_once(WorkerNeeds(num_workers or 1, use_gpu=means.use_gpu), spare_cpus=0)
    at_once = num_workers or room
    task = ray.remote(_draw_block).options(num_cpus=1, num_gpus=1 if means.use_gpu else 0, max_retries=MAX_RETRIES)
    model, waiting = ray.put(packed), deque(blocks)
    running: dict[Any, Block] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                block = waiting.popleft()
                running[task.remote(model, commission.requests(*block), means)] = block
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        remedy = "run the same command again, with a smaller --batch-size if memory ran out"
        raise UserError(f"a worker was lost ({first_line(error)}); {remedy}") from error


def _draw_block(packed: PackedModel, requests: list[Request], means: Means) -> UInt8:
    check_gpu(means.use_gpu)
    model = packed.unpack(torch.device("cuda" if means.use_gpu else "cpu"))
    return draw_requests(model, requests, make_passes=means.make_passes, speculation=means.speculation)
