"""Bits of images whose levels are known to repeat, and nothing of where they are: an adaptive code of each channel's levels.

A channel's levels are coded one after the other, each with probability (its count so far + a) / (all so far + a L): the code of a
Dirichlet prior of weight a for each of L levels (Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27, 1981, for a = 1/2). Its length does
not depend on their order. Which of a few weights is best (few levels that repeat, or many) is told first, and counted.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from pixelmodels.data.quantization import UInt8

AT_ONCE = 1 << 22  # levels that are counted at once, which takes 8 bytes for each
WEIGHTS = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)


def level_bits(images_NCHW: UInt8, levels: int) -> npt.NDArray[np.float64]:
    """Bits of each image, N: the same for all images with these levels in each channel, wherever they are."""
    parts = max(1, images_NCHW.size // AT_ONCE)
    return np.concatenate([_bits(part_NCHW, levels) for part_NCHW in np.array_split(images_NCHW, parts)])


def _bits(images_NCHW: UInt8, levels: int) -> npt.NDArray[np.float64]:
    num, channels, height, width = images_NCHW.shape
    cells = images_NCHW.reshape(num * channels, -1) + levels * np.arange(num * channels)[:, None]
    counts_ML = torch.from_numpy(np.bincount(cells.ravel(), minlength=num * channels * levels).reshape(-1, levels)).double()
    nats_MA = torch.stack([_nats(counts_ML, height * width, weight) for weight in WEIGHTS], 1)
    nats_N = nats_MA.amin(1).view(num, channels).sum(1) + channels * math.log(len(WEIGHTS))
    found: npt.NDArray[np.float64] = nats_N.numpy() / math.log(2)
    return found


def arrangement(nats_N: npt.NDArray[np.float64], level_bits_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The score of this name, N, bits, of images' negative log-likelihoods, nats, and of `level_bits`."""
    return nats_N / math.log(2) - level_bits_N


def _nats(counts_ML: torch.Tensor, total: int, weight: float) -> torch.Tensor:
    """Lengths of the code of a prior with this weight for each level, of channels with so many pixels each."""
    all_levels = weight * counts_ML.shape[1]
    of_levels_M = (torch.lgamma(counts_ML + weight) - math.lgamma(weight)).sum(1)
    return math.lgamma(total + all_levels) - math.lgamma(all_levels) - of_levels_M
