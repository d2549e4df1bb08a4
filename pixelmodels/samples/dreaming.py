"""Dreams: images that are drawn again a square at a time, every step kept, so that they can be watched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.drawing import Means, check_gpu
from pixelmodels.sampling import Engine
from pixelmodels.sampling.engine import NotFinite

MOST_KEPT = 1 << 29  # sub-pixels of all steps, bytes


def check_dream(commission: Commission, model: PixelModel) -> None:
    """Raise `UserError` for a dream whose steps are too many to be kept."""
    assert commission.dream is not None
    size = commission.n * model.spec.num_subpixels
    num_steps, most = commission.dream.num_steps, MOST_KEPT // size - 1
    if num_steps > most:
        remedy = f"give {most} steps or fewer, or a smaller --n" if most > 0 else "give a smaller --n"
        raise UserError(f"--dream {num_steps}: every step of {commission.n} images is kept, and they do not fit in memory; {remedy}")


def dream_frames(
    model: PixelModel, commission: Commission, batch_size: int, means: Means, advance: Callable[[float], None] = lambda images: None
) -> UInt8:
    """The images before the first step of their dream and after each one, S + 1 N C H W; a dream without steps stays as it is.

    Drawn by this process, `batch_size` images at a time; `advance` is told of every step, as a share of an image.
    Raises `UserError` where the network's output is not finite, or there is no GPU to be used.
    """
    assert commission.dream is not None
    check_gpu(means.use_gpu)
    model = model.to("cuda") if means.use_gpu else model
    n, num_steps = commission.n, commission.dream.num_steps
    frames_SNCHW = np.zeros((num_steps + 1, n, *model.spec.shape), np.uint8)
    engine = Engine(model, num_slots=min(n, batch_size), max_waiting=n, reserve=0, make_passes=means.make_passes)
    first, total = {}, 0
    for request in commission.requests(0, n):
        first[engine.submit(request)] = total
        total += request.n
    while not engine.is_idle:
        try:
            rows = engine.step_row()
        except NotFinite as error:
            raise UserError(f"{error}; give another checkpoint") from error
        for row in rows:
            if row.image_CHW is not None:
                steps = slice(row.redraw, None if row.is_last else row.redraw + 1)  # an image without anything to draw has no steps
                frames_SNCHW[steps, first[row.request_id] + row.image] = row.image_CHW.numpy()
                advance(1 / (num_steps + 1))
    return frames_SNCHW
