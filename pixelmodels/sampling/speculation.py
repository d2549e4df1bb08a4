"""Exact speculation: the columns of a row are guessed, taken in at once and drawn, until what is drawn is what was guessed.

An image's noise is fixed, so what is drawn at a column is a function of the sub-pixels before it: all up to the first one that was guessed
wrong are those of the sequential sampler, and so is this one as it was drawn. Each round settles one sub-pixel at least, and only what is
behind the settled ones is computed again (arXiv:2002.09928, 2002.03629). The first guess is the row above.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pixelmodels.layers.base import Layer, Place, State, Weights
from pixelmodels.layers.wiring import TakeRow
from pixelmodels.models import PixelModel
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.shapes import ImageSpec


def no_guesses(model: PixelModel, batch: int) -> State:
    """What a canvas keeps of guessed rows, before the first one: noise, known levels and their mask, sub-pixels settled, all finite."""
    channels, _, width = model.spec.shape
    guesses = {
        "u": torch.zeros(batch, width, model.likelihood.num_uniforms, dtype=torch.float64, device=model.device),
        "known": torch.zeros(batch, width, channels, dtype=torch.uint8, device=model.device),
        "mask": torch.zeros(batch, width, dtype=torch.bool, device=model.device),
        "settled": torch.zeros(batch, dtype=torch.long, device=model.device),  # steps of the row: see `num_steps`
        "finite": torch.ones(batch, dtype=torch.bool, device=model.device),  # the parameters of what is settled
    }
    if model.direct is not None:  # what the parameters take of the context
        guesses["direct"] = torch.zeros(batch, model.padded(width), model.likelihood.num_params, dtype=model.dtype, device=model.device)
    return guesses


def guess_row(canvas: Canvas, spec: ImageSpec, u_BWU: Tensor, known_BWC: Tensor, mask_BW: Tensor) -> None:
    """Begin a row whose row pass was made: nothing is settled, and what is not known is guessed to be as it is in the row above."""
    guesses = canvas.guesses
    guesses["u"].copy_(u_BWU)
    guesses["known"].copy_(known_BWC)
    guesses["mask"].copy_(mask_BW)
    guesses["settled"].zero_()
    guesses["finite"].fill_(True)
    if canvas.direct_BWP is not None:
        guesses["direct"].copy_(canvas.direct_BWP.expand_as(guesses["direct"]))
    canvas.x_BWC.copy_(torch.where(guesses["mask"][..., None], guesses["known"], canvas.x_BWC))
    canvas.image_BWC[:, : spec.width, :-1] = spec.scaled(canvas.x_BWC, canvas.shifted_BWC.dtype)


def num_steps(model: PixelModel) -> int:
    """Steps in which a row can be settled at most: its pixels, or its sub-pixels where the network orders the channels."""
    return model.spec.width * model.num_groups


def first_open(model: PixelModel, settled: int) -> int:
    """The first column that the next round has to take in: what was drawn to its left was not there yet in the round before."""
    column = max(0, settled // model.num_groups - 1)
    return column // model.period * model.period


def settle(
    model: PixelModel,
    weights: Mapping[Layer, Weights],
    states: Mapping[Layer, State],
    at: Place,
    count: int,
    x_BWC: Tensor,
    guesses: State,
) -> None:
    """One round: take in `count` columns from `at.column` on, draw them, and settle what is right; all in place.

    Every image has settled all columns but one before these. The last columns of a padded row are taken in with what pads it.
    """
    first, end, shifted_BWC, spec, groups = at.column, at.column + count, at.shifted_BWC, model.spec, model.num_groups
    until = 1 + end if model.padded(spec.width) == spec.width else shifted_BWC.shape[1]
    params_BKP = model.here(TakeRow(weights, states, at), shifted_BWC[:, 1 + first : until])[:, :count]
    if "direct" in guesses:
        params_BKP = params_BKP + guesses["direct"][:, first:end]
    x_BKC, u_RU = x_BWC[:, first:end], guesses["u"][:, first:end].flatten(0, 1)
    known_BKC, mask_BK = guesses["known"][:, first:end], guesses["mask"][:, first:end]
    drawn: list[Tensor] = []  # channels, B K each
    for channel in range(spec.channels):
        mine_BKP = params_BKP if groups == 1 else params_BKP[..., model.params_of_group[channel]]
        before_BKC = torch.stack([*drawn, *x_BKC[..., channel:].unbind(-1)], -1)
        drawn_R = model.likelihood.draw(mine_BKP.flatten(0, 1), channel, before_BKC.flatten(0, 1), u_RU)
        drawn.append(torch.where(mask_BK, known_BKC[..., channel], drawn_R.unflatten(0, (-1, count)).to(torch.uint8)))
    drawn_BKC = torch.stack(drawn, -1)
    settled_B1 = guesses["settled"][:, None]
    step_N = first * groups + torch.arange(count * groups, device=x_BWC.device)
    wrong_BN = (drawn_BKC != x_BKC).any(-1) if groups == 1 else (drawn_BKC != x_BKC).flatten(1)
    is_open_BN = step_N >= settled_B1
    reached_B = torch.where(wrong_BN & is_open_BN, 1 + step_N, end * groups).amin(1)
    settled_B = torch.maximum(reached_B, guesses["settled"])
    x_BKC = torch.where(is_open_BN.unflatten(1, (count, groups)), drawn_BKC, x_BKC)
    x_BWC[:, first:end] = x_BKC
    shifted_BWC[:, 1 + first : 1 + end, :-1] = spec.scaled(x_BKC, shifted_BWC.dtype)
    finite_BN = params_BKP.isfinite().all(-1) if groups == 1 else _finite_in_groups(model, params_BKP)
    guesses["finite"] &= (finite_BN | (step_N >= settled_B[:, None])).all(1)  # those that come of a wrong guess do not count
    guesses["settled"].copy_(settled_B)


def _finite_in_groups(model: PixelModel, params_BKP: Tensor) -> Tensor:
    """Whether the parameters of each step are finite, where the network orders the channels; B N."""
    return torch.stack([params_BKP[..., mine].isfinite().all(-1) for mine in model.params_of_group], -1).flatten(1)
