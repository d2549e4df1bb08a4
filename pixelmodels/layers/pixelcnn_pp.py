"""Layers that only PixelCNN++ has (arXiv:1701.05517): its entry from the left, and a 1x1 layer on two streams."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.layers.base import CausalLayer, Frame, Place, RowLayer, State, Weights, column
from pixelmodels.layers.convolution import convolve_padded, weight_and_bias


class LeftColumnConv(CausalLayer):
    """2 x 1 convolution of the image whose output is moved a column to the right: zeros at column 0, without the bias."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.weight, self.bias = weight_and_bias((num_out, num_in, 2, 1), num_out, 2 * num_in)

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        y_BHWC = convolve_padded(x_BHWC, (0, 0, 0, 0, 1, 0), self.weight, self.bias)
        y_BHWC = F.pad(y_BHWC, (0, 0, 1, 0))[:, :, :-1]
        return y_BHWC if extra_BHWC is None else y_BHWC + extra_BHWC

    def prepare(self) -> Weights:
        above, here = self.weight[..., 0].permute(2, 1, 0)
        return {"above": above, "here": here, "bias": self.bias}

    def start(self, frame: Frame) -> State:
        return {"above": frame.zeros(frame.width, self.weight.shape[1]), "pending": frame.zeros(frame.width, self.weight.shape[0])}

    def row(self, w: Weights, s: State, extra_BWC: Tensor | None) -> None:
        pending = F.pad((s["above"] @ w["above"] + w["bias"])[:, :-1], (0, 0, 1, 0))
        s["pending"].copy_(pending if extra_BWC is None else pending + extra_BWC)

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        return torch.addmm(column(s["pending"], at.column), column(at.shifted_BWC, at.column), w["here"])

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        columns = slice(at.column, at.column + x_BKC.shape[1])
        return s["pending"][:, columns] + at.shifted_BWC[:, columns] @ w["here"]

    def commit(self, w: Weights, s: State, at: Place) -> None:
        s["above"].copy_(at.image_BWC)


class SplitLinear(CausalLayer):
    """A 1x1 layer on [u, ul] of a row stream and a pixel stream, after concat_elu: the row stream's part is `from_above`.

    The weight's columns are those of concat_elu([u, ul]) = elu([u, ul, -u, -ul]).
    """

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.num_in = num_in
        self.weight, self.bias = weight_and_bias((num_out, 4 * num_in), num_out, 4 * num_in)
        self.from_above = _FromAbove(self)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 2  # the other half is counted by `from_above`

    def part(self, first: int) -> Tensor:
        """The columns of one stream: 0 the row stream, 1 the pixel stream."""
        blocks = self.weight.unflatten(1, (4, self.num_in))
        return torch.cat([blocks[:, first], blocks[:, first + 2]], 1)

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        return F.linear(x_BHWC, self.part(1), self.bias)

    def prepare(self) -> Weights:
        return {"weight": self.part(1), "bias": self.bias}

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        return F.linear(x_BC, w["weight"], w["bias"])

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        return F.linear(x_BKC, w["weight"], w["bias"])


class _FromAbove(RowLayer):
    """The part of a `SplitLinear` that reads the row stream; it has no weights of its own."""

    def __init__(self, owner: SplitLinear):
        super().__init__()
        self._owner = (owner,)  # in a tuple: not a child, its weights are not counted twice

    @property
    def num_active_weights(self) -> int:
        return self._owner[0].num_active_weights

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return F.linear(x_BHWC, self._owner[0].part(0))

    def prepare(self) -> Weights:
        return {"weight": self._owner[0].part(0)}

    def row(self, w: Weights, s: State, x_BWC: Tensor) -> Tensor:
        return F.linear(x_BWC, w["weight"])
