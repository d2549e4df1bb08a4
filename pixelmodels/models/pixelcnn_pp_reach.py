"""Which pixels an output of PixelCNN++ depends on, from how its layers are wired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.shapes import ImageSpec

# where each kind of layer looks: (rows down, columns right)
ROW_KERNEL = [(-i, j) for i in (0, 1) for j in (-1, 0, 1)]
PIXEL_KERNEL = [(-i, -j) for i in (0, 1) for j in (0, 1)]
ROW_ENTRY = [(-1 - i, j) for i in (0, 1) for j in (-1, 0, 1)]
ROW_TAPS = [(0, j) for j in (-1, 0, 1)]  # of the strides' transposes, in the map at twice the resolution
PIXEL_TAPS = [(0, -j) for j in (0, 1)]
PIXEL_ENTRY = [(-1, j) for j in (-1, 0, 1)] + [(-i, -1) for i in (0, 1)]


@dataclass(frozen=True)
class Reach:
    """What each feature depends on, as booleans H W (feature) H W (image), through the network's levels."""

    num_levels: int  # resolutions, each half of the one before
    num_layers: int  # residual layers of each level on the way down; one more on the way up at all levels but the last
    shortcuts: bool  # whether layers on the way up take in those on the way down

    def of_output(self, spec: ImageSpec) -> Tensor:
        """H W (output) C H W (input), real pixels only."""
        period = 2 ** (self.num_levels - 1)
        height, width = (-(-size // period) * period for size in spec.shape[1:])
        image = torch.eye(height * width, dtype=torch.bool).view(height, width, height, width)
        image[spec.height :] = False  # what is added to the image depends on nothing
        image[:, spec.width :] = False
        _, ul = self.level(0, look(image, ROW_ENTRY), look(image, PIXEL_ENTRY))
        real = ul[: spec.height, : spec.width, : spec.height, : spec.width]
        return real[:, :, None].repeat(1, 1, spec.channels, 1, 1)

    def level(self, index: int, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams through a level and all below it."""
        is_last, nothing = index == self.num_levels - 1, (torch.zeros_like(u), torch.zeros_like(ul))
        shortcuts = [(u, ul)]
        for _ in range(self.num_layers):
            u, ul = residual_layers(u, ul, *nothing)
            shortcuts.append((u, ul))
        if is_last:
            shortcuts.pop()
        else:
            u, ul = self.level(index + 1, look(u, ROW_KERNEL)[::2, ::2], look(ul, PIXEL_KERNEL)[::2, ::2])
            u, ul = grow(u, ROW_TAPS), grow(ul, PIXEL_TAPS)
        for _ in range(self.num_layers + (not is_last)):
            u, ul = residual_layers(u, ul, *(shortcuts.pop() if self.shortcuts else nothing))
        return u, ul


def look(reach: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """The union over places at (rows down, columns right) of each feature, outside of which there is nothing."""
    height, width = reach.shape[:2]
    around = F.pad(reach, (0, 0, 0, 0, 2, 2, 2, 2))
    return reduce(torch.bitwise_or, (around[2 + down :, 2 + right :][:height, :width] for down, right in offsets))


def residual_layers(u: Tensor, ul: Tensor, skip_u: Tensor, skip_ul: Tensor) -> tuple[Tensor, Tensor]:
    """A residual layer of each stream: two convolutions, the first beside the short-cut and, of the pixel stream, the row stream."""
    u = u | look(look(u, ROW_KERNEL) | skip_u, ROW_KERNEL)
    return u, ul | look(look(ul, PIXEL_KERNEL) | u | skip_ul, PIXEL_KERNEL)


def grow(small: Tensor, taps: Sequence[tuple[int, int]]) -> Tensor:
    """A transposed convolution of stride two with two rows of taps."""
    large = torch.zeros(2 * small.shape[0], 2 * small.shape[1], *small.shape[2:], dtype=torch.bool)
    large[:, ::2] = small.repeat_interleave(2, 0)
    return look(large, taps)
