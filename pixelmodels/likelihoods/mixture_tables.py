"""Tables of a discretized mixture of logistics: of its 256 levels those of a group of 16 are looked at, and the edges of 16 groups.

In numpy, whose operations begin sooner than torch's; what is done to each component is done to all images at once, which come last.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from torch import Tensor

from pixelmodels.likelihoods.base import Array, Tables
from pixelmodels.shapes import ImageSpec

MIN_LOG_SCALE = -7.0  # as public implementations have it
MAX_LOG_SCALE = 30.0  # far wider than the levels: beyond, float32 overflows
_ONE_GROUP = 32  # levels that are told apart at once: so few cost little


class MixtureTables(Tables):
    """Of one pixel of B images; parameters as `DiscretizedLogisticMixture` has them."""

    def __init__(self, spec: ImageSpec, num_mixtures: int, params_BP: Tensor):
        self._levels, self._step = spec.levels, spec.step
        self.group_size = spec.levels if spec.levels <= _ONE_GROUP else math.ceil(math.sqrt(spec.levels))
        params_PB = np.array(params_BP.cpu().numpy().T, order="C")
        of_channels = params_PB[num_mixtures:].reshape(spec.channels, -1, params_PB.shape[1])
        self._log_weight_KB = params_PB[:num_mixtures]  # up to a constant
        self._means_CKB, log_scales_CKB = of_channels[:, :num_mixtures], of_channels[:, num_mixtures : 2 * num_mixtures]
        self._coefficients_CKB = np.tanh(of_channels[:, 2 * num_mixtures :])
        self._inverse_CKB = np.exp(-log_scales_CKB.clip(MIN_LOG_SCALE, MAX_LOG_SCALE))
        self._width_CKB = -np.expm1(-self._step * self._inverse_CKB)
        self._scaled: list[Array] = []  # levels of the channels before, B each

    def groups(self, channel: int, x_BC: Tensor) -> Array | None:
        if channel:
            self._add_level(x_BC[:, channel - 1].cpu().numpy(), channel - 1)
        self._mean_KB = self._mean(channel)
        odds_KB = np.exp(self._log_weight_KB - self._log_weight_KB.max(0))
        self._weight_KB = odds_KB / odds_KB.sum(0)
        if self.group_size == self._levels:
            return None
        edge_S = _edges_of_groups(self._levels, self.group_size).astype(odds_KB.dtype)
        _, below_KSB = _around(edge_S, self._mean_KB, self._inverse_CKB[channel])
        below_SB = (self._weight_KB[:, None] * below_KSB).sum(0)
        below_SB[1:] = np.maximum(below_SB[1:] - below_SB[:-1], 0)
        return below_SB.T

    def levels(self, channel: int, x_BC: Tensor, group_B: Array | None) -> Array:
        # sigmoid(upper) sigmoid(-lower) width, which has all its digits as far as odds are not bounded. Beyond, the levels of a group are
        # alike: their group has the least share that there is, and costs less than the likelihood says.
        size, inverse_KB, width_KB = self.group_size, self._inverse_CKB[channel], self._width_CKB[channel]
        group_B = np.zeros(inverse_KB.shape[1], np.uint8) if group_B is None else group_B
        mean_KB = self._mean_KB - (group_B * (size * self._step)).astype(inverse_KB.dtype)
        edge_E = ((np.arange(size + 1) - 0.5) * self._step - 1).astype(inverse_KB.dtype)
        odds_KEB, below_KEB = _around(edge_E, mean_KB, inverse_KB)
        above_KEB = odds_KEB * below_KEB
        last = self._levels - 1
        for is_end_B, end_KB in ((group_B == 0, above_KEB[:, 0]), (group_B == last // size, below_KEB[:, 1 + last % size])):
            end_KB[:, is_end_B] = 1 / width_KB[:, is_end_B]  # these bins are the whole tail
        share_SB = ((self._weight_KB * width_KB)[:, None] * below_KEB[:, 1:] * above_KEB[:, :-1]).sum(0)
        if size * size > self._levels > size:  # the last group may end behind the last level
            share_SB[group_B * size + np.arange(size)[:, None] > last] = 0
        probabilities_BS: Array = (share_SB / share_SB.sum(0)).T
        return probabilities_BS

    def _add_level(self, level_B: Array, channel: int) -> None:
        """A channel's level makes some components likelier: their bins as `DiscretizedLogisticMixture.log_bin` has them."""
        inverse_KB, half = self._inverse_CKB[channel], self._step / 2
        scaled_B = (level_B * self._step - 1).astype(inverse_KB.dtype)
        away_KB = scaled_B - self._mean_KB
        below_KB, above_KB = _log_sigmoid((away_KB + half) * inverse_KB), _log_sigmoid((half - away_KB) * inverse_KB)
        inside_KB = below_KB + above_KB + np.log(self._width_CKB[channel])
        bin_KB = np.where(level_B == 0, below_KB, np.where(level_B == self._levels - 1, above_KB, inside_KB))
        self._log_weight_KB = self._log_weight_KB + bin_KB
        self._scaled.append(scaled_B)

    def _mean(self, channel: int) -> Array:
        """Means of a channel, moved by the channels before as `DiscretizedLogisticMixture.mean` has it; K B."""
        mean_KB = self._means_CKB[channel]
        first = (0, 0, 1)[channel]  # of the coefficients of this channel
        for place, scaled_B in enumerate(self._scaled):
            mean_KB = mean_KB + self._coefficients_CKB[first + place] * scaled_B
        return mean_KB


def _around(edge_E: Array, mean_KB: Array, inverse_KB: Array) -> tuple[Array, Array]:
    """The odds that a logistic has of lying above edges, and its share below them; K E B.

    Bounded, so that nothing overflows, and that a bin of the widest scale and the furthest mean is not 0.
    """
    most = math.log(np.finfo(edge_E.dtype).max) / 2 - 4
    odds_KEB: Array = (mean_KB[:, None] - edge_E[:, None]) * inverse_KB[:, None]
    np.exp(odds_KEB.clip(-most, most, out=odds_KEB), out=odds_KEB)
    return odds_KEB, 1 / (1 + odds_KEB)


def _log_sigmoid(x: Array) -> Array:
    log_sigmoid: Array = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return log_sigmoid


@lru_cache(maxsize=16)
def _edges_of_groups(levels: int, size: int) -> Array:
    """Upper edges of `size` groups of `size` levels on [-1, 1]; infinite for the last group that there is, and behind it."""
    end_S = np.arange(1, size + 1) * size
    return np.where(end_S >= levels, np.inf, (end_S - 0.5) * 2 / (levels - 1) - 1)
