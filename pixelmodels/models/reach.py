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
    rows, columns = torch.arange(spec.height), torch.arange(spec.width)
    up_HWHW = (rows[:, None, None, None] - rows[:, None]).expand(-1, spec.width, -1, spec.width)
    right_HWHW = (columns - columns[:, None, None]).expand_as(up_HWHW)
    table = torch.tensor([[reaches(up, right) for right in range(1 - spec.width, spec.width)] for up in range(spec.height)])
    reach_HWHW = (up_HWHW >= 0) & table[up_HWHW, right_HWHW + spec.width - 1]
    return reach_HWHW[:, :, None].repeat(1, 1, spec.channels, 1, 1)
