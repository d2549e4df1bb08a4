"""The raster sampler: one row pass a row and one pixel pass a pixel (and group) for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.layers.base import Layer, Weights
from pixelmodels.likelihoods import Likelihood
from pixelmodels.likelihoods.base import draw_from_table
from pixelmodels.models import PixelModel
from pixelmodels.models.base import Canvas
from pixelmodels.models.context import Given
from pixelmodels.sampling.noise import noise


def sample(model: PixelModel, n: int, *, seed: int, context: Given = None, guidance: float = 0.0) -> Tensor:
    """Draw `n` images, uint8 levels shaped N C H W; image i is a function of (weights, its context, seed, i).

    Args: `guidance` w draws from p(x | context)^(1+w) / p(x)^w, made to sum to 1 for each sub-pixel (its exact
    table over levels); 0 is the model itself.
    Raises `UserError` where the context does not fit the model, or for a guidance below 0 or without a context.
    """
    return draw(model, noise(model, n, seed), context, guidance)


def draw(model: PixelModel, u_BHWU: Tensor, context: Given = None, guidance: float = 0.0) -> Tensor:
    """Draw one image for each row of uniforms; uint8 levels shaped B C H W.

    Raises `FloatingPointError` where the network gives parameters that are not finite.
    """
    check_guidance(model, guidance)
    batch, (channels, height, width) = u_BHWU.shape[0], model.spec.shape
    x_BCHW = torch.zeros(batch, channels, height, width, dtype=torch.uint8, device=u_BHWU.device)
    known_HW = torch.zeros(height, width, dtype=torch.bool)
    with evaluating(model), torch.inference_mode():
        for stage in model.stages():
            here = (..., slice(None, None, stage.every), slice(None, None, stage.every))
            given = [stage.context(context, x_BCHW)]
            if guidance:
                given.append(stage.context(None, x_BCHW))
            u_sub = u_BHWU[:, :: stage.every, :: stage.every]
            x_BCHW[here] = _draw_stage(stage.model, u_sub, given, x_BCHW[here], known_HW[here], guidance)
            known_HW[here] = True
    return x_BCHW


def _draw_stage(model: PixelModel, u_BHWU: Tensor, given: list[Given], x_BCHW: Tensor, known_HW: Tensor, guidance: float) -> Tensor:
    """One raster pass, with a canvas for each of the contexts; pixels that are known stay as they are."""
    weights = model.prepare()
    canvases = [model.start(u_BHWU.shape[0], context) for context in given]
    for r in range(model.spec.height):
        for canvas in canvases:
            model.row_pass(weights, canvas)
        for c in range(model.spec.width):
            known_BC = x_BCHW[:, :, r, c] if known_HW[r, c] else None
            params = _draw_pixel(model, weights, canvases, c, u_BHWU[:, r, c], known_BC, guidance)
        if not all(torch.isfinite(params_BP).all() for params_BP in params):
            raise FloatingPointError(f"the parameters of row {r} are not finite: the weights are broken")
        for canvas in canvases:
            model.commit_row(weights, canvas)
    return canvases[0].x_BHWC.permute(0, 3, 1, 2)


def _draw_pixel(
    model: PixelModel,
    weights: dict[Layer, Weights],
    canvases: list[Canvas],
    c: int,
    u_BU: Tensor,
    known_BC: Tensor | None,
    guidance: float,
) -> list[Tensor]:
    """Draw every channel of column `c` of the canvases' current row, or take what is known; returns the last parameters used."""
    params = [model.pixel_pass(weights, canvas, c) for canvas in canvases]
    for channel in range(model.spec.channels):
        if channel and model.num_groups > 1:
            params = [model.pixel_pass(weights, canvas, c, channel) for canvas in canvases]
        if known_BC is not None:
            x_B = known_BC[:, channel]
        else:
            x_B = choose(model.likelihood, params, channel, canvases[0].x_BHWC[:, canvases[0].row, c], u_BU, guidance)
        for canvas in canvases:
            model.put(canvas, c, channel, x_B)
    return params


def choose(likelihood: Likelihood, params: list[Tensor], channel: int, x_BC: Tensor, u_BU: Tensor, guidance: float = 0.0) -> Tensor:
    """Levels drawn for one channel (int64, B); with guidance from the parameters with and without context, B P each."""
    if not guidance:
        return likelihood.draw(params[0], channel, x_BC, u_BU)
    given_BL, without_BL = (likelihood.table(params_BP, channel, x_BC) for params_BP in params)
    guided_BL = (given_BL + guidance * (given_BL - without_BL)).masked_fill(given_BL.isneginf(), float("-inf"))
    return draw_from_table(torch.log_softmax(guided_BL, -1), u_BU[:, channel])


def check_guidance(model: PixelModel, guidance: float) -> None:
    """`UserError` for a guidance below 0 or not finite, or of a model without context."""
    if not 0 <= guidance < math.inf:
        raise UserError(f"guidance {guidance} is negative or not finite; give 0 (the model itself) or more")
    if guidance and not model.context_spec:
        raise UserError(f"guidance {guidance} asked of a model without context; leave it out")


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
