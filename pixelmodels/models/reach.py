"""How an architecture declares which earlier pixels an output depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
