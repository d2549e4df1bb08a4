"""The raster sampler: one row pass a row and one pixel pass a pixel (and group) for a whole batch."""

from __future__ import annotations

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
    """Draw one image for each row of uniforms; uint8 levels shaped B C H W."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            weights = model.prepare()
            canvas = model.start(u_BHWU.shape[0], context)
            for r in range(model.spec.height):
                model.row_pass(weights, canvas)
                for c in range(model.spec.width):
                    draw_pixel(model, weights, canvas, c, u_BHWU[:, r, c])
                model.commit_row(weights, canvas)
            return canvas.x_BHWC.permute(0, 3, 1, 2).contiguous()
    finally:
        model.train(was_training)


def draw_pixel(model: PixelModel, weights: dict[Layer, Weights], canvas: Canvas, c: int, u_BU: Tensor) -> None:
    """Draw every channel of column `c` of the canvas's current row."""
    params_BP = model.pixel_pass(weights, canvas, c)
    for channel in range(model.spec.channels):
        if channel and model.num_groups > 1:
            params_BP = model.pixel_pass(weights, canvas, c, channel)
        x_B = model.likelihood.draw(params_BP, channel, canvas.x_BHWC[:, canvas.row, c], u_BU)
        model.put(canvas, c, channel, x_B)
