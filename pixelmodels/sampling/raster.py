"""One row of a batch of images: one row pass, and one pixel pass for each pixel (and group)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.models import PixelModel
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.choosing import Choice, choose
from pixelmodels.sampling.passes import Passes


@dataclass(frozen=True)
class KnownRow:
    """What is known of the row that each image is at."""

    x_BWC: Tensor  # levels, where they are known
    mask_BW: Tensor  # which pixels are known
    is_whole: bool  # whether every image knows all of it

    @classmethod
    def of(
        cls, x_BWC: npt.NDArray[np.uint8], mask_BW: npt.NDArray[np.bool_], device: torch.device, counts_B: npt.NDArray[np.bool_]
    ) -> KnownRow | None:
        """From levels and mask; None where nothing is known. Args: `counts_B`, which images matter."""
        if not mask_BW.any():
            return None
        is_whole = bool(mask_BW[counts_B].all())
        return cls(torch.from_numpy(x_BWC).to(device), torch.from_numpy(mask_BW).to(device), is_whole)


def draw_row(passes: Passes, canvases: Sequence[Canvas], u_BWU: Tensor, choice: Choice, known: KnownRow | None = None) -> Tensor:
    """Draw each image's current row and commit it; returns whether all of its parameters were finite, B.

    Args: `canvases`, of the same images with their context and, for guidance, without; `known` pixels stay as they are, and a row
    that every image knows is taken at once.
    """
    for canvas in canvases:
        passes.row(canvas)
    if known is not None and known.is_whole:
        finite_B = torch.stack([passes.take_row(canvas, known.x_BWC).isfinite().all(2).all(1) for canvas in canvases]).all(0)
    else:
        first, finite_B = 0, torch.ones(len(u_BWU), dtype=torch.bool, device=u_BWU.device)
        if passes.num_columns and not choice.has_shaped:
            (canvas,), first = canvases, passes.num_columns
            finite_B = passes.draw(canvas, u_BWU, *((known.x_BWC, known.mask_BW) if known is not None else ()))
        used: list[Tensor] = []
        for c, u_BU in enumerate(u_BWU.unbind(1)[first:], first):
            _draw_pixel(passes, canvases, c, u_BU, choice, known, used)
        if used:
            finite_B = finite_B & torch.cat(used, 1).isfinite().all(1)
    for canvas in canvases:
        passes.commit(canvas)
    return finite_B


def _draw_pixel(
    passes: Passes, canvases: Sequence[Canvas], c: int, u_BU: Tensor, choice: Choice, known: KnownRow | None, used: list[Tensor]
) -> None:
    """Draw every channel of column `c` of the canvases' current rows where it is not known; the parameters are added to `used`."""
    model = passes.model
    params = [passes.pixel(canvas, c) for canvas in canvases]
    used += params
    for channel in range(model.spec.channels):
        if channel and model.num_groups > 1:
            params = [passes.pixel(canvas, c, channel) for canvas in canvases]
            used += params
        x_B = choose(model.likelihood, params, channel, canvases[0].x_BWC[:, c], u_BU, choice)
        if known is not None:  # for all columns of a row, or for none
            x_B = torch.where(known.mask_BW[:, c], known.x_BWC[:, c, channel], x_B)
        for canvas in canvases:
            passes.put(canvas, c, channel, x_B)


@contextmanager
def evaluating(model: PixelModel) -> Iterator[None]:
    """Every module of the model in evaluation mode, and afterwards as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
