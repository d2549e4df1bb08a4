"""An order drawn, in blocks: by this process where that is soon done, else over the Ray cluster. Both give the same images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.storage import Storage
from pixelmodels.training.progress import Say, counting
from pixelmodels.training.sample_blocks import Block, Blocks, UInt8
from pixelmodels.training.sample_here import check_gpu, draw_requests
from pixelmodels.training.sample_order import Order
from pixelmodels.training.sample_workers import PackedModel, draw_on_ray

RAY_PAYS_S = 20.0  # a local Ray is not started for less drawing than this


def draw_order(
    model: PixelModel, order: Order, storage: Storage, *, batch_size: int, num_workers: int | None, use_gpu: bool, say: Say
) -> tuple[UInt8, Callable[[], None]]:
    """The images of an order, N C H W, and what to call when they are safe elsewhere: it removes the blocks that are on disk.

    Raises `UserError` for what the machine or the cluster does not have.
    """
    try:
        images_NCHW = np.empty((order.n, *model.spec.shape), np.uint8)
    except MemoryError as error:
        raise UserError(f"--n {order.n}: so many images do not fit in memory; give fewer") from error
    packed = PackedModel.of(model)
    blocks = Blocks(storage, packed.key, order, model.spec.shape, batch_size, "cuda" if use_gpu else "cpu")
    left: list[Block] = []
    for block in blocks.all:
        found_NCHW = blocks.find(block)
        if found_NCHW is None:
            left.append(block)
        else:
            images_NCHW[slice(*block)] = found_NCHW
    num_done = order.n - sum(stop - start for start, stop in left)
    if num_done:
        say(f"{num_done:,} of {order.n:,} images found in {blocks.uri}")
    try:
        with counting("drawing", order.n, "images", done=num_done) as advance:
            for block, drawn_NCHW in _draw(model, packed, order, left, num_workers, use_gpu, advance):
                blocks.save(block, drawn_NCHW)
                images_NCHW[slice(*block)] = drawn_NCHW
                num_done += len(drawn_NCHW)
    except BaseException:
        if num_done:
            say(f"{num_done:,} of {order.n:,} images are kept in {blocks.uri}; the same command goes on from there")
        raise
    return images_NCHW, blocks.clear


def _draw(
    model: PixelModel,
    packed: PackedModel,
    order: Order,
    left: list[Block],
    num_workers: int | None,
    use_gpu: bool,
    advance: Callable[[float], None],
) -> Iterator[tuple[Block, UInt8]]:
    """Blocks as they are finished. Without a cluster or a number of workers, by this process, as long as Ray would take longer to start.

    A single one is drawn by this process in any case, unless it is for a GPU that only the cluster has.
    """
    alone = num_workers is None and os.environ.get("RAY_ADDRESS") in (None, "", "local")
    can_draw = alone or not use_gpu or torch.cuda.is_available()
    while left and (alone or (len(left) == 1 and can_draw)):
        started = time.monotonic()
        check_gpu(use_gpu)
        block, *left = left
        yield block, draw_requests(model.to("cuda") if use_gpu else model, order.requests(*block), advance)
        alone = (time.monotonic() - started) * len(left) < RAY_PAYS_S
    if left:
        for block, drawn_NCHW in draw_on_ray(packed, order, left, num_workers, use_gpu):
            advance(len(drawn_NCHW))
            yield block, drawn_NCHW
