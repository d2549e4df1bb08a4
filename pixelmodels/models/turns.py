"""Eight orders of an image's pixels, as turns of the image: which there are, images turned and back, and which one fits what is known.

An order is one of the eight ways to turn or mirror a square (the dihedral group of the grid). By order o a model draws the turned image
row by row, each from the left: so every order is as exact as the raster one, and costs as much. Orders that exchange rows with columns
are there for images as high as wide. A model of K orders has the first K, for K = 1, 2, 4, 8.

Everything here is numpy on whole numbers, so that threads beside torch's own may use it; `orders` has the same for tensors.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pixelmodels.errors import UserError, unknown
from pixelmodels.shapes import ImageSpec

NUMBERS = (1, 2, 4, 8)  # of orders that a model may have
ORDERS = (  # in words: how the pixels of the image follow each other
    "rows from the top, each from the left",
    "rows from the bottom, each from the right",
    "rows from the top, each from the right",
    "rows from the bottom, each from the left",
    "columns from the left, each from the top",
    "columns from the right, each from the bottom",
    "columns from the right, each from the top",
    "columns from the left, each from the bottom",
)
_FLIPS = ((1, 1), (-1, -1), (1, -1), (-1, 1))  # steps through rows and columns; rows and columns are exchanged after it in the last four

Side = Literal["top", "bottom", "left", "right"]  # of an image
Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def check_num_orders(num_orders: int, spec: ImageSpec, remedy: str = "give 4, 2 or 1") -> None:
    """Raise `UserError` for a number of orders that there is not, or that images of this shape do not have."""
    if num_orders not in NUMBERS:
        raise unknown("number of orders", str(num_orders), map(str, NUMBERS))
    if num_orders > 4 and spec.height != spec.width:
        size = f"{spec.height}x{spec.width}"
        raise UserError(f"{num_orders} orders exchange rows with columns, which images of {size} do not allow; {remedy}")


def check_order(order: int, num_orders: int) -> None:
    """Raise `UserError` for an order that a model does not have."""
    if not 0 <= order < num_orders:
        have = f"0..{num_orders - 1}" if num_orders > 1 else "0 only, the raster order"
        raise UserError(f"order {order} is out of range; the model has {have}")


@cache
def places(height: int, width: int) -> Int64:
    """Of each order (four, or eight of squares), where in the image each pixel of the turned image is: indices row by row, K P."""
    own_HW = np.arange(height * width).reshape(height, width)
    flipped = [own_HW[::rows, ::columns] for rows, columns in _FLIPS]
    exchanged = [place_HW.T for place_HW in flipped] if height == width else []
    places_KP: Int64 = np.stack([place_HW.ravel() for place_HW in (*flipped, *exchanged)])
    places_KP.flags.writeable = False
    return places_KP


@cache
def places_back(height: int, width: int) -> Int64:
    """Of each order, where in the turned image each pixel of the image is: the inverse of `places`, K P."""
    back_KP: Int64 = places(height, width).argsort(axis=1)
    back_KP.flags.writeable = False
    return back_KP


def turned_arrays(values: Array, order_N: Int64) -> Array:
    """Images (N C H W) or masks (N H W), each turned as its order has it."""
    return _taken(values, places(*values.shape[-2:])[order_N])


def turned_arrays_back(values: Array, order_N: Int64) -> Array:
    """The inverse of `turned_arrays`."""
    return _taken(values, places_back(*values.shape[-2:])[order_N])


def _taken(values: Array, places_NP: Int64) -> Array:
    num_pixels = places_NP.shape[1]  # and not -1, which may not be found of no images
    flat = values.reshape(*values.shape[:-2], num_pixels)
    index = places_NP.reshape(len(places_NP), *[1] * (flat.ndim - 2), num_pixels)
    return np.take_along_axis(flat, index, axis=-1).reshape(values.shape)


def row_in_image(order: int, row: int, every: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a row of the turned image is in the image: its first pixel (row, column), and the steps from one to the next.

    Args: `every`, k, of a stage that draws every k-th row and column: row k * `row`, and its every k-th pixel.
    """
    place_HW = places(height, width)[order].reshape(height, width)
    first = divmod(int(place_HW[row * every, 0]), width)
    down, right = _FLIPS[order % 4]
    return first, ((0, right * every) if order < 4 else (down * every, 0))


# ---- what is known of an image


def known_from(side: Side, num: int, height: int, width: int) -> Mask:
    """Which pixels are known where so many rows, or columns, from one side are; H W."""
    known_HW = np.zeros((height, width), dtype=np.bool_)
    known_HW[{"top": np.s_[:num], "bottom": np.s_[max(0, height - num) :]}.get(side, np.s_[:0])] = True
    known_HW[:, {"left": np.s_[:num], "right": np.s_[max(0, width - num) :]}.get(side, np.s_[:0])] = True
    return known_HW


def best_order(known_HW: Mask, rank_HW: Int64, num_orders: int) -> int:
    """The order with the most pairs of a known pixel before an unknown one; of several the lowest.

    Where what is known is the beginning of an order it is such an order: then what is drawn is drawn given all that is known.
    Args: `rank_HW`, the ranks in which the model draws the pixels of the turned image (`PixelModel.pixel_ranks`).
    """
    known_KP = known_HW.ravel()[places(*known_HW.shape)[:num_orders]][:, rank_HW.ravel().argsort()]
    return int((known_KP.cumsum(axis=1) * ~known_KP).sum(axis=1).argmax())


def known_too_late(known_HW: Mask, rank_HW: Int64, order: int) -> Mask:
    """The known pixels that come after an unknown one in an order, so that what is drawn there does not take them into account; H W."""
    if known_HW.all():
        return np.zeros_like(known_HW)
    rank_of_image_HW = turned_arrays_back(rank_HW[None], np.array([order]))[0]
    late_HW: Mask = known_HW & (rank_of_image_HW > rank_of_image_HW[~known_HW].min())
    return late_HW
