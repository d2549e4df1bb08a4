"""Which pixels an output of PixelCNN++ depends on, from how its layers are wired."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pixelmodels.models.pixelcnn_pp import PixelCNNPP, _Level


class Reach:
    """What each feature depends on, as booleans H W (feature) H W (image), through the network's levels."""

    def __init__(self, model: PixelCNNPP):
        self.model = model
        self.height, self.width = (model._padded(size) for size in model.spec.shape[1:])

    def look(self, reach: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
        """The union over places at (rows down, columns right) of each feature, outside of which there is nothing."""
        height, width = reach.shape[:2]
        result = torch.zeros_like(reach)
        for down, right in offsets:
            to_r, to_c = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
            from_r, from_c = slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right))
            result[to_r, to_c] |= reach[from_r, from_c]
        return result

    def of_output(self) -> Tensor:
        """H W (output) C H W (input), real pixels only."""
        height, width = self.height, self.width
        image = torch.eye(height * width, dtype=torch.bool).view(height, width, height, width)
        image[self.model.spec.height :] = False  # what is added to the image depends on nothing
        image[:, self.model.spec.width :] = False
        u = self.look(image, [(-1 - i, j) for i in (0, 1) for j in (-1, 0, 1)])
        ul = self.look(image, [(-1, j) for j in (-1, 0, 1)] + [(-i, -1) for i in (0, 1)])
        _, ul = self.level(self.model.level, u, ul)
        real = ul[: self.model.spec.height, : self.model.spec.width, : self.model.spec.height, : self.model.spec.width]
        return real[:, :, None].repeat(1, 1, self.model.spec.channels, 1, 1)

    def residual_u(self, u: Tensor, skip: Tensor | None) -> Tensor:
        """A residual layer of the row stream: two convolutions, the first beside the short-cut."""
        offsets = [(-i, j) for i in (0, 1) for j in (-1, 0, 1)]
        y = self.look(u, offsets)
        return u | self.look(y if skip is None else y | skip, offsets)

    def residual_ul(self, ul: Tensor, aside: Tensor) -> Tensor:
        """A residual layer of the pixel stream."""
        offsets = [(-i, -j) for i in (0, 1) for j in (0, 1)]
        return ul | self.look(self.look(ul, offsets) | aside, offsets)

    def level(self, level: _Level, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams through a level and all below it."""
        shortcuts = [(u, ul)]
        for _ in level.down_u:
            u = self.residual_u(u, None)
            ul = self.residual_ul(ul, u)
            shortcuts.append((u, ul))
        if level.inner is None:
            u, ul = shortcuts.pop()
        else:
            small_u = self.look(u, [(-i, j) for i in (0, 1) for j in (-1, 0, 1)])[::2, ::2]
            small_ul = self.look(ul, [(-i, -j) for i in (0, 1) for j in (0, 1)])[::2, ::2]
            small_u, small_ul = self.level(level.inner, small_u, small_ul)
            u, ul = self.grow(small_u, 3), self.grow(small_ul, 2)
        for _ in level.up_u:
            skip_u, skip_ul = shortcuts.pop() if self.model.config.shortcuts else (None, torch.zeros_like(ul))
            u = self.residual_u(u, skip_u)
            ul = self.residual_ul(ul, u | skip_ul)
        return u, ul

    def grow(self, small: Tensor, columns: int) -> Tensor:
        """A transposed convolution of stride two with 2 x `columns` taps, its sides cut off evenly."""
        height, width = small.shape[:2]
        large = torch.zeros(2 * height, 2 * width + 2, *small.shape[2:], dtype=torch.bool)
        for row in (0, 1):
            for column in range(columns):
                large[row::2, column : column + 2 * width : 2] |= small
        margin = columns // 2 if columns % 2 else 0
        return large[:, margin : margin + 2 * width]
