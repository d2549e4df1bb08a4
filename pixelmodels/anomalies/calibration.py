"""Scores held against those of normal images: p-values, so that a threshold is a false-alarm rate.

The p-value of an image is the share of normal images, itself counted among them, that score at least as high:
p = (1 + #{normal >= score}) / (n + 1) for n normal images (split-conformal; Vovk, Gammerman and Shafer, Algorithmic Learning in a Random
World, section 2.2; as a test of single images Bates et al., arXiv:2104.08279). If an image is one more normal one, drawn as those were,
P(p <= rate) <= rate, whatever the model is and however the scores are distributed. No p-value is below 1 / (n + 1).
"""

from __future__ import annotations

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
    least = float(np.sort(normal_M)[len(normal_M) - num]) if num >= 1 else np.inf
    return least if np.isfinite(least) else None
