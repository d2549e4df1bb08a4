"""Strides of two and their transposes, in row streams and pixel streams (arXiv:1701.05517, section 2.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.base import Frame, PixelGrow, PixelShrink, Place, RowGrow, RowShrink, State, Weights
from pixelmodels.layers.convolution import convolve, init_uniform, push_row


class _Strided(nn.Module):
    """Weights of a strided (out, in, kh, kw) or transposed (in, out, kh, kw) convolution."""

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int], *, transposed: bool):
        super().__init__()
        shape = (num_in, num_out, *kernel) if transposed else (num_out, num_in, *kernel)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(num_out))
        fan_in = num_in * kernel[0] * kernel[1] / (4 if transposed else 1)
        init_uniform(self.weight, fan_in)
        init_uniform(self.bias, fan_in)


def grow_map(x_BHWC: Tensor, weight_IOHW: Tensor, bias_O: Tensor, margin: int) -> Tensor:
    """Transposed convolution of stride two to twice the size, without `margin` columns at each side."""
    y = F.conv_transpose2d(x_BHWC.permute(0, 3, 1, 2), weight_IOHW, bias_O, stride=2, output_padding=1).permute(0, 2, 3, 1)
    return y[:, : 2 * x_BHWC.shape[1], margin : margin + 2 * x_BHWC.shape[2]]


class RowShrinkConv(_Strided, RowShrink):
    """2 x 3 convolution with stride two: output row r' reads input rows 2r'-1 and 2r'."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__(num_in, num_out, (2, 3), transposed=False)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 4  # one output position for four of its own resolution

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return convolve(F.pad(x_BHWC, (0, 0, 1, 1, 1, 0)), self.weight, self.bias, stride=2)

    def prepare(self) -> Weights:
        return {"weight": self.weight, "bias": self.bias}

    def start(self, frame: Frame) -> State:
        return {"rows": frame.zeros(2, frame.width + 2, self.weight.shape[1])}

    def record(self, s: State, x_BWC: Tensor) -> None:
        push_row(s["rows"], x_BWC, 1)

    def fire(self, w: Weights, s: State) -> Tensor:
        return convolve(s["rows"], w["weight"], w["bias"], stride=2)[:, 0]


class RowGrowConv(_Strided, RowGrow):
    """2 x 3 transposed convolution with stride two: rows 2r' and 2r'+1 of its output read input row r'."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__(num_in, num_out, (2, 3), transposed=True)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 4

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return grow_map(x_BHWC, self.weight, self.bias, margin=1)

    def prepare(self) -> Weights:
        return {"weight": self.weight, "bias": self.bias}

    def start(self, frame: Frame) -> State:
        return {"held": frame.zeros(frame.width // 2, self.weight.shape[0])}

    def read(self, w: Weights, s: State, odd: int) -> Tensor:
        return grow_map(s["held"][:, None], w["weight"], w["bias"], margin=1)[:, odd]


class PixelShrinkConv(_Strided, PixelShrink):
    """2 x 2 convolution with stride two, up and to the left: output (r', c') reads rows 2r'-1, 2r' and columns 2c'-1, 2c'."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__(num_in, num_out, (2, 2), transposed=False)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 4

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        return convolve(F.pad(x_BHWC, (0, 0, 1, 0, 1, 0)), self.weight, self.bias, stride=2)

    def prepare(self) -> Weights:
        return {"weight": self.weight, "taps": self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), "bias": self.bias}

    def start(self, frame: Frame) -> State:
        return {"rows": frame.zeros(2, frame.width + 1, self.weight.shape[1])}  # the row before and this row

    def record_pixel(self, s: State, x_BC: Tensor, at: Place) -> None:
        s["rows"][:, 1, at.column + 1] = x_BC

    def fire_pixel(self, w: Weights, s: State, at: Place) -> Tensor:
        window = s["rows"][:, :, at.column : at.column + 2].flatten(1)
        return torch.addmm(w["bias"], window, w["taps"])

    def record_row(self, s: State, x_BWC: Tensor) -> None:
        s["rows"][:, 1, 1:] = x_BWC

    def fire_row(self, w: Weights, s: State) -> Tensor:
        return convolve(s["rows"], w["weight"], w["bias"], stride=2)[:, 0]

    def commit(self, w: Weights, s: State, at: Place) -> None:
        s["rows"][:, 0] = s["rows"][:, 1]


class PixelGrowConv(_Strided, PixelGrow):
    """2 x 2 transposed convolution with stride two: each output reads one input pixel."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__(num_in, num_out, (2, 2), transposed=True)

    @property
    def num_active_weights(self) -> int:
        return self.weight.numel() // 4

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        return grow_map(x_BHWC, self.weight, self.bias, margin=0)

    def prepare(self) -> Weights:
        return {"weight": self.weight, "bias": self.bias, "taps": self.weight.permute(2, 3, 0, 1).contiguous()}

    def start(self, frame: Frame) -> State:
        return {"held": frame.zeros(frame.width // 2, self.weight.shape[0])}

    def read_pixel(self, w: Weights, s: State, at: Place) -> Tensor:
        return torch.addmm(w["bias"], s["held"][:, at.column // 2], w["taps"][at.row % 2, at.column % 2])

    def read_row(self, w: Weights, s: State, odd: int) -> Tensor:
        return grow_map(s["held"][:, None], w["weight"], w["bias"], margin=0)[:, odd]
