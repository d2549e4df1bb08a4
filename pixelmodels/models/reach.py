"""How an architecture declares which earlier sub-pixels an output depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelmodels.shapes import ImageSpec


def everything_before(spec: ImageSpec) -> Tensor:
    """All channels of every earlier pixel, as booleans H W (output) C H W (input)."""
    order = torch.arange(spec.height * spec.width).view(spec.height, spec.width)
    before = order[None, None] < order[:, :, None, None]
    return before[:, :, None].repeat(1, 1, spec.channels, 1, 1)


def same_everywhere(spec: ImageSpec, reaches: Callable[[int, int], bool]) -> Tensor:
    """A reach that is the same at every pixel, as booleans H W (output) C H W (input).

    `reaches(up, right)` says whether an output depends on the pixel `up` rows above it and `right` columns to
    its right (negative: to its left), all channels of it.
    """
    height, width = spec.height, spec.width
    reach = torch.zeros(height, width, spec.channels, height, width, dtype=torch.bool)
    for up in range(height):
        for right in range(-width + 1, width):
            if reaches(up, right):
                for r in range(up, height):
                    for c in range(max(0, -right), min(width, width - right)):
                        reach[r, c, :, r - up, c + right] = True
    return reach
