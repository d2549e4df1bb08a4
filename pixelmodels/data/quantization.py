"""From 256 grey values to fewer levels and back, and dynamic binarization; no image leaves `[0, levels)`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]

FIXED_EPOCH = -1  # the epoch of draws that never change: those of validation and test images


def quantize(values: UInt8, levels: int) -> UInt8:
    """Uniform quantization: 256 grey values cut into `levels` bins of equal width (to within one value).

    Args: `values` 0..255, any shape. Returns the bin of each, in `[0, levels)`. Monotone, and every level is reached. With
    two levels it is the threshold at 128.
    """
    bins = np.arange(256) * levels // 256
    return bins.astype(np.uint8)[values]


def dequantize(values: UInt8, levels: int) -> UInt8:
    """A grey value 0..255 that stands for each level: 0 for the first, 255 for the last, and `quantize` brings it back.

    Args: `values` in `[0, levels)`, any shape.
    """
    level = np.arange(levels)
    first = -(-256 * level // levels)  # smallest grey value of each bin
    grey = np.maximum(np.round(level * 255 / (levels - 1)).astype(np.int64), first)
    return grey.astype(np.uint8)[values]


def binarize_dynamic(images_NCHW: UInt8, *, seed: int, epoch: int, indices_N: npt.ArrayLike) -> UInt8:
    """Draw each sub-pixel as a Bernoulli variable whose probability is its grey value / 255.

    Args: `images_NCHW` grey values 0..255; `epoch` 0 or more, or `FIXED_EPOCH`; `indices_N` names each image (64 bits).
    Returns 0 or 1. An image's draws depend on (seed, epoch, index) alone, not on the batch it is in.
    """
    indices = np.asarray(indices_N, dtype=np.int64).astype(np.uint64)
    if indices.shape != images_NCHW.shape[:1]:
        raise ValueError(f"{indices.shape} indices for {images_NCHW.shape[0]} images")
    # A counter-based generator, so that no image waits for another: SplitMix64 (Steele et al., OOPSLA 2014).
    run = _mix(np.uint64(seed % 2**64) ^ _mix(np.asarray(epoch % 2**64, dtype=np.uint64)))
    start_N = _mix(indices ^ run)
    count = np.arange(1, math.prod(images_NCHW.shape[1:]) + 1).astype(np.uint64)
    words = _mix(start_N[:, None] + count[None, :] * np.uint64(0x9E3779B97F4A7C15))
    # Uniform in 0..254, so that black is never drawn as 1 and white always is.
    uniform = ((words >> np.uint64(32)) * np.uint64(255)) >> np.uint64(32)
    return (uniform.reshape(images_NCHW.shape) < images_NCHW).astype(np.uint8)


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer: a bijection of 64-bit words in which every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        words = words + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))
