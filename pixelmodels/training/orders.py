"""By which order each training image is turned: a function of (seed, step, its place in the step), like its dropout."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pixelmodels.data.rows import Rows
from pixelmodels.layers.dropout import image_keys
from pixelmodels.models.turns import turned_arrays

_STREAM = 0x6F7264657273  # makes the words others than those that dropout and augmentation go by
_BITS = np.uint64(61)  # all but the upper three, which choose one of up to eight


def drawn_orders(num_orders: int, seed: int, step: int, places_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """An order for each image of a step, each of `num_orders` (1, 2, 4, 8) with the same probability.

    Args: `places_N`, of the images among all of the step.
    """
    words_N = image_keys(seed ^ _STREAM, step, places_N).numpy().view(np.uint64)
    return (words_N >> _BITS).astype(np.int64) % num_orders


def turned_rows(rows: Rows, order_N: npt.NDArray[np.int64]) -> Rows:
    """Rows whose images are turned, each as its order has it."""
    return dataclasses.replace(rows, images_NCHW=turned_arrays(rows.images_NCHW, order_N))
