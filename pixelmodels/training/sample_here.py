"""Images of requests drawn by one process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.sampling import Engine, Request
from pixelmodels.sampling.engine import NotFinite
from pixelmodels.training.sample_blocks import UInt8


def draw_requests(model: PixelModel, requests: list[Request], advance: Callable[[float], None] = lambda images: None) -> UInt8:
    """Images of requests, one after the other, drawn in lockstep; `advance` is told of every row, as a share of an image.

    Raises `UserError` where the network's output is not finite.
    """
    n, rows_each = sum(request.n for request in requests), sum(stage.model.spec.height for stage in model.stages())
    engine = Engine(model, num_slots=n, max_waiting=n, reserve=0)
    images_NCHW, first, total = np.empty((n, *model.spec.shape), np.uint8), {}, 0
    for request in requests:
        first[engine.submit(request)] = total
        total += request.n
    while not engine.is_idle:
        try:
            rows = engine.step_row()
        except NotFinite as error:
            raise UserError(f"{error}; give another checkpoint") from error
        for row in rows:
            if row.image_CHW is not None:
                images_NCHW[first[row.request_id] + row.image] = row.image_CHW.numpy()
        advance(len(rows) / rows_each)
    return images_NCHW


def check_gpu(use_gpu: bool) -> None:
    """Raise `UserError` where this process is to use a GPU and has none."""
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu given, and this machine has no GPU that torch can use; leave it out, or join a cluster that has one")
