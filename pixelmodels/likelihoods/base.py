"""The contract of a likelihood: exact scores, exact draws and exact tables of one discrete distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.shapes import ImageSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LikelihoodConfig:
    """Which output distribution a model has, and its options."""

    name: str = "categorical"  # bernoulli, categorical or discretized_logistic_mixture
    num_mixtures: int = 10  # components of the mixture; other likelihoods do not use it


class Tables:
    """Probabilities that a range coder codes one pixel's sub-pixels by, on the CPU, rounded as sums to 1 of their type are.

    Channels are asked about in their order, each first about its `groups` of levels and then about the `levels` of the one that its
    level is in: level g S + s, of S to a group, is coded as g and s.
    """

    group_size: int  # S

    def __init__(self, head: Likelihood, params_BP: Tensor):
        self._head, self._params_BP = head, params_BP
        self.group_size = head.spec.levels

    def groups(self, channel: int, x_BC: Tensor) -> Array | None:
        """Of each group of S levels, B S (at most so many groups, 0 for those that there are not); None: there is but one.

        Args: `x`, levels of the channels before `channel`.
        """
        return None

    def levels(self, channel: int, x_BC: Tensor, group_B: Array | None) -> Array:
        """Of each level of a group, given that it is this one; B S, and 0 for levels that there are not."""
        probabilities_BS: Array = self._head.table(self._params_BP, channel, x_BC).exp().cpu().numpy()
        return probabilities_BS


class Likelihood:
    """The distribution of one pixel's channels given a network's `params`.

    A likelihood that orders the channels makes channel k depend on channels before k by itself. One that does
    not needs a network that does (for more than one channel); `param_channels` then says which channel each of
    the parameters belongs to, and draws for channel k read only those.

    Draws are functions of uniforms given as an argument, `num_uniforms` for each pixel, in [0, 1).
    """

    orders_channels: bool = False

    def __init__(self, spec: ImageSpec, config: LikelihoodConfig):
        self.spec, self.config = spec, config

    @property
    def num_params(self) -> int:
        """P: parameters of one pixel."""
        raise NotImplementedError

    @property
    def param_channels(self) -> tuple[int, ...]:
        """The channel that each of the P parameters belongs to; all 0 where the likelihood orders the channels."""
        return (0,) * self.num_params

    @property
    def num_uniforms(self) -> int:
        """U: uniforms that the draw of one pixel uses."""
        return self.spec.channels

    def log_prob_map(self, params_BPHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """Log-probability of each pixel (all its channels), nats, shaped B H W."""
        raise NotImplementedError

    def table(self, params_BP: Tensor, channel: int, x_BC: Tensor) -> Tensor:
        """Exact log-probabilities in nats over the levels of one channel, given the channels before it; B L.

        `params_BP` are the pixel's parameters; where the network orders the channels, those of `channel` only.
        """
        raise NotImplementedError

    def tables(self, params_BP: Tensor) -> Tables:
        """What the sub-pixels of one pixel of B images are coded by; parameters as for `table`."""
        return Tables(self, params_BP)

    def draw(self, params_BP: Tensor, channel: int, x_BC: Tensor, u_BU: Tensor) -> Tensor:
        """Levels drawn for one channel (int64, B), given the channels before it; parameters as for `table`."""
        return draw_from_table(self.table(params_BP, channel, x_BC), u_BU[:, channel])


def draw_from_table(log_probs_BL: Tensor, u_B: Tensor) -> Tensor:
    """Inverse of the cumulative distribution at `u_B`: levels, int64, never one of probability zero."""
    cumulative_BL = log_probs_BL.to(u_B.dtype).exp().cumsum(1)
    target_B1 = u_B[:, None] * cumulative_BL[:, -1:]  # the total differs from 1 by rounding
    return torch.searchsorted(cumulative_BL, target_B1, right=True).clamp_(max=log_probs_BL.shape[1] - 1)[:, 0]
