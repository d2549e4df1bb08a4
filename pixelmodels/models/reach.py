"""How an architecture declares which earlier pixels an output depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelmodels.errors import UserError


def check_kernel(name: str, size: int) -> None:
    """`UserError` unless a kernel of this size has a middle."""
    if size < 3 or size % 2 == 0:
        raise UserError(f"{name} {size} has no middle; give an odd number from 3")


def offsets_to_reach(height: int, width: int, reaches: Callable[[int, int], bool]) -> Tensor:
    """A reach that is the same at every pixel, as booleans H W (output) H W (input).

    `reaches(up, right)` says whether an output depends on the pixel `up` rows above it and `right` columns to
    its right (negative: to its left).
    """
    reach = torch.zeros(height, width, height, width, dtype=torch.bool)
    for up in range(height):
        for right in range(-width + 1, width):
            if reaches(up, right):
                for r in range(up, height):
                    for c in range(max(0, -right), min(width, width - right)):
                        reach[r, c, r - up, c + right] = True
    return reach
