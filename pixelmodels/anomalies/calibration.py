"""Scores held against those of normal images: p-values, so that a threshold is a false-alarm rate.

The p-value of an image is the share of normal images, itself counted among them, that score at least as high:
p = (1 + #{normal >= score}) / (n + 1) for n normal images (split-conformal; Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
World, section 2.2; as a test of single images Bates et al., arXiv:2104.08279). If an image is one more normal one, drawn as those were,
P(p <= rate) <= rate, whatever the model is and however the scores are distributed. No p-value is below 1 / (n + 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def p_values(scores_N: Float64, normal_M: Float64) -> Float64:
    """Of each score: (1 + normal scores that are no lower) / (normal scores + 1). Raises `ValueError` without any, or where one is NaN."""
    if not len(normal_M) or np.isnan(normal_M).any() or np.isnan(scores_N).any():
        raise ValueError("p-values need normal scores, and none of them may be NaN")
    no_lower_N = len(normal_M) - np.searchsorted(np.sort(normal_M), scores_N, side="left")
    found: Float64 = (1 + no_lower_N) / (len(normal_M) + 1)
    return found


def threshold(normal_M: Float64, rate: float) -> float | None:
    """The lowest score whose p-value is above a false-alarm rate: higher ones are told. None where there are too few normal images for it.

    At most floor(rate (n + 1)) - 1 of n normal images are above it.
    """
    num = int(np.floor(rate * (len(normal_M) + 1) + 1e-9))  # images that may have such a p-value, the new one among them
    return float(np.sort(normal_M)[len(normal_M) - num]) if num >= 1 else None


Side = Literal["both", "high"]  # on which values of a score are unusual
TAIL = 0.025  # share of normal images beyond either end of a band
LEAST = 1e-6  # half a band's width at least, of its middle


@dataclass(frozen=True)
class Band:
    """Where most of one score's normal values lie: from one tail to the other, around their median."""

    low: float  # of normal values a share of `TAIL` is below
    middle: float  # half of them
    high: float  # and `TAIL` above
    side: Side  # on which other values are unusual

    @staticmethod
    def of(normal_M: Float64, side: Side) -> Band:
        """Of normal values; of values that are all the same it has no width."""
        low, middle, high = (float(value) for value in np.quantile(normal_M, (TAIL, 0.5, 1 - TAIL)))
        return Band(low, middle, high, side)

    def deviation(self, values_N: Float64) -> Float64:
        """How far values are from the middle: 1 at an end of the band; below the middle negative where only high ones are unusual."""
        least = LEAST * max(1.0, abs(self.middle))
        up, down = max(self.high - self.middle, least), max(self.middle - self.low, least)
        off_N = values_N - self.middle
        found: Float64 = off_N / up if self.side == "high" else np.where(off_N > 0, off_N / up, -off_N / down)
        return found


@dataclass(frozen=True)
class Combined:
    """The largest deviation of several scores from what they are of normal images."""

    bands: Mapping[str, Band]  # by the name of a score

    @staticmethod
    def of(normal: Mapping[str, Float64], parts: Mapping[str, Side]) -> Combined:
        """Args: `normal`, scores of normal images by name; `parts`, of those that are taken, and on which side they are unusual."""
        return Combined({name: Band.of(normal[name], side) for name, side in parts.items()})

    def __call__(self, scores: Mapping[str, Float64]) -> Float64:
        """Of images, by their scores."""
        found: Float64 = np.max([band.deviation(scores[name]) for name, band in self.bands.items()], axis=0)
        return found
