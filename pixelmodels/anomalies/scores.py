"""Scores of images, all of them higher for images that are less like those of the model; and what they are of normal images.

With l the negative log-likelihood of an image in nats, D its sub-pixels, and n normal images of the validation split:

- `nats`: l. Images that are simpler than those the model knows have low ones, so that alone it fails (arXiv:1810.09136).
- `bits_per_dim`: l / (D ln 2): the same order of images.
- `input_complexity`: l / ln 2 - L, where L are the bits of the best codec at hand (arXiv:1909.11480).
- `arrangement`: l / ln 2 - B, where B are the bits of the image's levels by a code that does not know where they are (`level_code`): a
  likelihood ratio to whatever has independent pixels of these levels. The one that is recommended (docs/anomalies.md says why).
- `likelihood_ratio`: l - l_0, where l_0 is of a background model (arXiv:1906.02845).
- `typicality`: |l - mean l of the normal images| (arXiv:1906.02994, for one image).
- `order_spread`: the standard deviation of l over the orders of the pixels that the model has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pixelmodels.anomalies.calibration import p_values
from pixelmodels.anomalies.level_code import arrangement
from pixelmodels.anomalies.measuring import Measured
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.shapes import ImageSpec

Float64 = npt.NDArray[np.float64]
RECOMMENDED = "arrangement"
SAME_ORDER = "bits_per_dim"  # has images in the order of `nats`
NAMES = ("nats", "bits_per_dim", "input_complexity", "arrangement", "likelihood_ratio", "typicality", "order_spread")


@dataclass(frozen=True)
class Calibration:
    """What scores are of normal images."""

    spec: ImageSpec
    mean_nats: float  # of normal images
    normal: dict[str, Float64]  # scores of normal images, by name, as those of others are held against them

    @staticmethod
    def of(measured: Measured, spec: ImageSpec) -> Calibration:
        """Of normal images that the model was not trained on.

        The mean that `typicality` is a distance from is of these n images themselves, so that they are nearer to it than one more is. The
        p-value that keeps its promise compares the distances of all n + 1 images from the mean of all of them (full conformal). With the
        distances of the n times (n + 1) / (n - 1) no p-value is lower than that one, by the triangle inequality. Of n = 1 all are 1.
        """
        mean_nats, num = float(measured.nats_N.mean()), len(measured)
        normal = _scores(measured, spec, mean_nats)
        normal["typicality"] = normal["typicality"] * (num + 1) / (num - 1) if num > 1 else np.full(1, np.inf)
        return Calibration(spec, mean_nats, normal)

    @property
    def num(self) -> int:
        """Normal images."""
        return len(self.normal[RECOMMENDED])

    def scores(self, measured: Measured) -> dict[str, Float64]:
        """All scores of a set, by name, in the order of `NAMES`; those without a background model or orders are left out."""
        return _scores(measured, self.spec, self.mean_nats)

    def p_values(self, scores: dict[str, Float64]) -> dict[str, Float64]:
        """Of each score, by its name."""
        return {name: p_values(values_N, self.normal[name]) for name, values_N in scores.items()}


def _scores(measured: Measured, spec: ImageSpec, mean_nats: float) -> dict[str, Float64]:
    nats_N = measured.nats_N
    found = {
        "nats": nats_N,
        "bits_per_dim": bits_per_dim(torch.from_numpy(nats_N), spec.num_subpixels).numpy(),
        "input_complexity": nats_N / math.log(2) - measured.codec_bits_N,
        "arrangement": arrangement(nats_N, measured.level_bits_N),
    }
    if measured.background_nats_N is not None:
        found["likelihood_ratio"] = nats_N - measured.background_nats_N
    found["typicality"] = np.abs(nats_N - mean_nats)
    if measured.nats_NK.shape[1] > 1:
        found["order_spread"] = measured.nats_NK.std(axis=1)
    return found
