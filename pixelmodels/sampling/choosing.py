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
    plain_N: Tensor | None  # which images have all options at their defaults; None: all of them
    shaped_N: Tensor | None  # which images have not; None: all of them
    cuts: bool  # whether any image's top_p is below 1

    @classmethod
    def of(cls, options: Sequence[tuple[float, float, float]], device: torch.device) -> Choice:
        """From each image's guidance, temperature and top_p."""
        plain = [option == (0.0, 1.0, 1.0) for option in options]
        if all(plain):
            ones_B = torch.ones(len(options), dtype=torch.float64, device=device)
            return cls(ones_B - 1, ones_B, ones_B, None, ones_B[:0].long(), False)
        guidance_B, temperature_B, top_p_B = torch.tensor(options, dtype=torch.float64, device=device).unbind(1)
        plain_N, shaped_N = (
            torch.tensor([i for i, one in enumerate(plain) if one is wanted], dtype=torch.long, device=device) for wanted in (True, False)
        )
        return cls(guidance_B, temperature_B, top_p_B, plain_N, shaped_N if any(plain) else None, any(top_p < 1 for _, _, top_p in options))


def choose(likelihood: Likelihood, params: Sequence[Tensor], channel: int, x_BC: Tensor, u_BU: Tensor, choice: Choice) -> Tensor:
    """Levels drawn for one channel (int64, B), from the parameters with the context and, for guidance, those without; B P each."""
    if choice.plain_N is None:
        return likelihood.draw(params[0], channel, x_BC, u_BU)
    if choice.shaped_N is None:
        return draw_from_table(shaped_table(likelihood, params, channel, x_BC, choice), u_BU[:, channel])
    plain_N, shaped_N = choice.plain_N, choice.shaped_N
    x_B = torch.empty(len(u_BU), dtype=torch.long, device=u_BU.device)
    x_B[plain_N] = likelihood.draw(params[0][plain_N], channel, x_BC[plain_N], u_BU[plain_N])
    of_shaped = Choice(
        choice.guidance_B[shaped_N], choice.temperature_B[shaped_N], choice.top_p_B[shaped_N], choice.plain_N, None, choice.cuts
    )
    table_NL = shaped_table(likelihood, [params_BP[shaped_N] for params_BP in params], channel, x_BC[shaped_N], of_shaped)
    x_B[shaped_N] = draw_from_table(table_NL, u_BU[shaped_N, channel])
    return x_B


def shaped_table(likelihood: Likelihood, params: Sequence[Tensor], channel: int, x_BC: Tensor, choice: Choice) -> Tensor:
    """Exact log-probabilities over levels after guidance, temperature and top-p, in that order; float64, B L."""
    log_BL = likelihood.table(params[0], channel, x_BC).double()
    if len(params) > 1:
        without_BL = likelihood.table(params[1], channel, x_BC).double()
        impossible_BL = log_BL.isneginf()
        log_BL = (log_BL + choice.guidance_B[:, None] * (log_BL - without_BL)).masked_fill(impossible_BL, -math.inf)
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
