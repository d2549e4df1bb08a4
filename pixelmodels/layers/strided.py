"""Strides of two and their transposes, in row streams and pixel streams (arXiv:1701.05517, section 2.3)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.layers.base import CausalLayer, Frame, Layer, Place, State, Weights, column
from pixelmodels.layers.convolution import convolve, convolve_padded, weight_and_bias


class ShrinkConv(Layer):
    """Convolution with stride two: output (r', c') reads rows 2r'-1 and 2r', and columns 2c'-1 to 2c' + `right`."""

    right: ClassVar[int]

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        columns = 2 + self.right
        self.weight, self.bias = weight_and_bias((num_out, num_in, 2, columns), num_out, num_in * 2 * columns)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 4  # one output position for four of its own resolution

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        return convolve_padded(x_BHWC, (0, 0, 1, self.right, 1, 0), self.weight, self.bias, stride=2)

    def start(self, frame: Frame) -> State:
        # each row has a place of its own: the odd one before, and the even one
        return {"rows": frame.zeros(2, 1 + frame.width + self.right, self.weight.shape[1])}

    def row_of(self, s: State, at: Place) -> Tensor:
        """Where the input of the row at `at` is kept, B (1 + W + right) C."""
        return s["rows"][:, 1 - at.row % 2]

    def record_row(self, s: State, x_BKC: Tensor, at: Place) -> None:
        """Keep the columns from `at.column` on of the input row: all of a row stream's."""
        self.row_of(s, at)[:, 1 + at.column : 1 + at.column + x_BKC.shape[1]] = x_BKC

    def fire_row(self, w: Weights, s: State, first: int, count: int) -> Tensor:
        """The output row, at half the width: of `count` input columns from `first` on, both even."""
        return convolve(s["rows"][:, :, first : first + 1 + count + self.right], w["weight"], w["bias"], stride=2)[:, 0]


class RowShrinkConv(ShrinkConv):
    """2 x 3 convolution with stride two of a row stream."""

    right = 1


class PixelShrinkConv(ShrinkConv, CausalLayer):
    """2 x 2 convolution with stride two of a pixel stream, up and to the left: pixel (r', c') is ready with (2r', 2c') of its input."""

    right = 0

    def prepare(self) -> Weights:
        return {**super().prepare(), "taps": self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()}

    def record_pixel(self, s: State, x_BC: Tensor, at: Place) -> None:
        """Keep the input at this column."""
        column(self.row_of(s, at), at.column + 1).copy_(x_BC)

    def fire_pixel(self, w: Weights, s: State, at: Place) -> Tensor:
        """The output at half this column."""
        window = s["rows"][:, :, at.column : at.column + 2].flatten(1)
        return torch.addmm(w["bias"], window, w["taps"])


class GrowConv(Layer):
    """Transposed convolution with stride two: rows 2r' and 2r'+1 of its output read input row r', which it holds for both."""

    margin: ClassVar[int]  # columns beyond the image at each side, which are cut off

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        columns = 2 + self.margin
        self.weight, self.bias = weight_and_bias((num_in, num_out, 2, columns), num_out, num_in * 2 * columns / 4)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 4

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        return self.grow(x_BHWC, self.weight, self.bias)

    def grow(self, x_BHWC: Tensor, weight_IOHW: Tensor, bias_O: Tensor) -> Tensor:
        """Twice the width, and as many rows for each as the weight has."""
        stride = weight_IOHW.shape[2], 2
        y = F.conv_transpose2d(x_BHWC.permute(0, 3, 1, 2), weight_IOHW, bias_O, stride).permute(0, 2, 3, 1)
        return y[:, :, self.margin : self.margin + 2 * x_BHWC.shape[2]]

    def prepare(self) -> Weights:
        even, odd = self.weight.split(1, 2)
        return {"row0": even, "row1": odd, "bias": self.bias}

    def start(self, frame: Frame) -> State:
        return {"held": frame.zeros(frame.width // 2, self.weight.shape[0])}

    def hold_row(self, s: State, x_BKC: Tensor, first: int) -> None:
        """Keep columns of the half-resolution row from `first` on."""
        s["held"][:, first : first + x_BKC.shape[1]] = x_BKC

    def read_row(self, w: Weights, s: State, odd: int, first: int, count: int) -> Tensor:
        """The full-resolution row, even or odd, that `count` columns of the held row give; all of a row stream's."""
        return self.grow(s["held"][:, None, first : first + count], w[f"row{odd}"], w["bias"])[:, 0]


class RowGrowConv(GrowConv):
    """2 x 3 transposed convolution with stride two of a row stream."""

    margin = 1


class PixelGrowConv(GrowConv, CausalLayer):
    """2 x 2 transposed convolution with stride two of a pixel stream: each output reads one input pixel."""

    margin = 0

    def prepare(self) -> Weights:
        return {**super().prepare(), "taps": self.weight.permute(2, 3, 0, 1).contiguous()}

    def hold_pixel(self, s: State, x_BC: Tensor, at: Place) -> None:
        """Keep the half-resolution pixel of this column."""
        column(s["held"], at.column // 2).copy_(x_BC)

    def read_pixel(self, w: Weights, s: State, at: Place) -> Tensor:
        """The full-resolution pixel at this column."""
        return torch.addmm(w["bias"], column(s["held"], at.column // 2), w["taps"][at.row % 2, at.offset % 2])
