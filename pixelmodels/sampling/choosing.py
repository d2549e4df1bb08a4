"""How a level is chosen from a pixel's parameters: the one implementation that all samplers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import Likelihood
from pixelmodels.likelihoods.base import draw_from_table
from pixelmodels.models import PixelModel


@dataclass(frozen=True)
class Choice:
    """How the levels of each image of a batch are chosen: a function of the image's own options and of nobody else's.

    An image with all options at their defaults is drawn by its likelihood's `draw`; any other one from its exact table
    over levels, with the uniform of the channel.
    """

    guidance_B: Tensor  # w of p(x | context)^(1+w) / p(x)^w; 0: the model itself
    temperature_B: Tensor  # T > 0 of softmax(log p / T), after the guidance
    top_p_B: Tensor  # in (0, 1]: the smallest set of levels whose probability reaches it is left, after the temperature
    plain_B: Tensor  # which images have all options at their defaults
    has_plain: bool  # whether any image has
    has_shaped: bool  # whether any image has not
    cuts: bool  # whether any image's top_p is below 1

    @classmethod
    def of(cls, options: Sequence[tuple[float, float, float]], device: torch.device) -> Choice:
        """From each image's guidance, temperature and top_p."""
        plain = [option == (0.0, 1.0, 1.0) for option in options]
        guidance_B, temperature_B, top_p_B, plain_B = torch.tensor(
            [(*option, one) for option, one in zip(options, plain, strict=True)], dtype=torch.float64, device=device
        ).unbind(1)
        return cls(guidance_B, temperature_B, top_p_B, plain_B > 0, any(plain), not all(plain), any(top_p < 1 for _, _, top_p in options))


def choose(likelihood: Likelihood, params: Sequence[Tensor], channel: int, x_BC: Tensor, u_BU: Tensor, choice: Choice) -> Tensor:
    """Levels drawn for one channel (int64, B), from the parameters with the context and, for guidance, those without; B P each."""
    if not choice.has_shaped:
        return likelihood.draw(params[0], channel, x_BC, u_BU)
    shaped_B = draw_from_table(shaped_table(likelihood, params, channel, x_BC, choice), u_BU[:, channel])
    if not choice.has_plain:
        return shaped_B
    return torch.where(choice.plain_B, likelihood.draw(params[0], channel, x_BC, u_BU), shaped_B)


def shaped_table(likelihood: Likelihood, params: Sequence[Tensor], channel: int, x_BC: Tensor, choice: Choice) -> Tensor:
    """Exact log-probabilities over levels after guidance, temperature and top-p, in that order; float64, B L."""
    log_BL = likelihood.table(params[0], channel, x_BC).double()
    if len(params) > 1:
        guidance_B1 = choice.guidance_B[:, None]
        without_BL = likelihood.table(params[1], channel, x_BC).double()
        guided_BL = (log_BL + guidance_B1 * (log_BL - without_BL)).masked_fill(log_BL.isneginf(), -math.inf)
        log_BL = torch.where(guidance_B1 > 0, guided_BL, log_BL)
    log_BL = log_BL - log_BL.amax(1, keepdim=True)  # no temperature makes the likeliest level impossible
    log_BL = torch.log_softmax(log_BL / choice.temperature_B[:, None], 1)
    return cut(log_BL, choice.top_p_B) if choice.cuts else log_BL


def cut(log_probs_BL: Tensor, top_p_B: Tensor) -> Tensor:
    """The smallest set of levels whose probability reaches `top_p_B`, made to sum to 1; of equal levels the lower ones first."""
    sorted_BL, order_BL = log_probs_BL.exp().sort(stable=True, dim=1, descending=True)
    before_BL = torch.cat([torch.zeros_like(sorted_BL[:, :1]), sorted_BL.cumsum(1)[:, :-1]], 1)  # of the likelier levels
    left_BL = torch.empty_like(order_BL, dtype=torch.bool).scatter_(1, order_BL, before_BL < top_p_B[:, None])
    cut_BL = torch.log_softmax(log_probs_BL.masked_fill(~left_BL, -math.inf), 1)
    return torch.where(top_p_B[:, None] < 1, cut_BL, log_probs_BL)


def check_options(model: PixelModel, guidance: float, temperature: float, top_p: float) -> None:
    """`UserError` for options out of their range, a guidance of a model without context, or options that a likelihood has no table for."""
    if not 0 <= guidance < math.inf:
        raise UserError(f"guidance {guidance} is negative or not finite; give 0 (the model itself) or more")
    if guidance and not model.context_spec:
        raise UserError(f"guidance {guidance} asked of a model without context; leave it out")
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature {temperature} is out of range; give a number above 0, 1 for the model itself")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p} is out of range; give a number above 0 and at most 1, 1 for the model itself")
    if (guidance, temperature, top_p) != (0.0, 1.0, 1.0) and type(model.likelihood).table is Likelihood.table:
        raise UserError(f"likelihood '{model.likelihood.config.name}' has no table over levels; leave guidance, temperature and top_p out")
