"""The raster sampler: one row pass a row and one pixel pass a pixel (and group) for a whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pixelmodels.layers.base import Layer, Weights
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.base import Canvas
from pixelmodels.sampling.noise import noise


def sample(model: PixelModel, n: int, *, seed: int, context: Context | None = None) -> Tensor:
    """Draw `n` images, uint8 levels shaped N C H W; image i is a function of (weights, its context, seed, i).

    Raises `UserError` where the model's context is missing or out of range.
    """
    return draw(model, noise(model, n, seed), context)


def draw(model: PixelModel, u_BHWU: Tensor, context: Context | None = None) -> Tensor:
    """Draw one image for each row of uniforms; uint8 levels shaped B C H W.

    Raises `FloatingPointError` where the network gives parameters that are not finite.
    """
    with evaluating(model), torch.inference_mode():
        weights = model.prepare()
        canvas = model.start(u_BHWU.shape[0], context)
        for r in range(model.spec.height):
            model.row_pass(weights, canvas)
            for c in range(model.spec.width):
                params_BP = draw_pixel(model, weights, canvas, c, u_BHWU[:, r, c])
            if not torch.isfinite(params_BP).all():
                raise FloatingPointError(f"the parameters of row {r} are not finite: the weights are broken")
            model.commit_row(weights, canvas)
        x_BCHW = canvas.x_BHWC.permute(0, 3, 1, 2)
    return x_BCHW.clone(memory_format=torch.contiguous_format)  # outside: a tensor that may be changed


def draw_pixel(model: PixelModel, weights: dict[Layer, Weights], canvas: Canvas, c: int, u_BU: Tensor) -> Tensor:
    """Draw every channel of column `c` of the canvas's current row; returns the last parameters used."""
    params_BP = model.pixel_pass(weights, canvas, c)
    for channel in range(model.spec.channels):
        if channel and model.num_groups > 1:
            params_BP = model.pixel_pass(weights, canvas, c, channel)
        x_B = model.likelihood.draw(params_BP, channel, canvas.x_BHWC[:, canvas.row, c], u_BU)
        model.put(canvas, c, channel, x_B)
    return params_BP


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
