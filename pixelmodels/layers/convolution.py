"""Masked convolutions of pixel streams (arXiv:1601.06759, section 3.4), and convolutions of row streams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pixelmodels.layers.base import Frame, Place, Recent, RowLayer, State, Weights, column
from pixelmodels.layers.channel_groups import Grouped, Groups, group_mask, num_seen


def convolve(x_BHWC: Tensor, weight_OIHW: Tensor, bias_O: Tensor | None = None, stride: int = 1) -> Tensor:
    """2-d convolution of channel-last maps, without padding."""
    return F.conv2d(x_BHWC.permute(0, 3, 1, 2), weight_OIHW, bias_O, stride).permute(0, 2, 3, 1)


class _PaddedConvolution(torch.autograd.Function):
    """`convolve` of a padded map. It keeps the map as it was, which the layer before keeps anyway, and pads it again to go backward."""

    @staticmethod
    def forward(ctx: Any, x_BHWC: Tensor, weight_OIHW: Tensor, bias_O: Tensor | None, pads: tuple[int, ...], stride: int) -> Tensor:
        ctx.save_for_backward(x_BHWC, weight_OIHW)
        ctx.bias_sizes, ctx.pads, ctx.stride = None if bias_O is None else list(bias_O.shape), pads, stride
        with torch.autocast(x_BHWC.device.type, enabled=False):  # whoever calls has cast what is given
            return convolve(F.pad(x_BHWC, pads), weight_OIHW, bias_O, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_BHWC, weight_OIHW = ctx.saved_tensors
        grad_BOHW, padded_BIHW = grads[0].permute(0, 3, 1, 2), F.pad(x_BHWC, ctx.pads).permute(0, 3, 1, 2)
        steps, nothing = [ctx.stride, ctx.stride], [0, 0]
        of_padded_BIHW, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad_BOHW, padded_BIHW, weight_OIHW, ctx.bias_sizes, steps, nothing, [1, 1], False, nothing, 1, list(ctx.needs_input_grad[:3])
        )
        of_x_BHWC = None
        if ctx.needs_input_grad[0]:
            of_x_BHWC = F.pad(of_padded_BIHW.permute(0, 2, 3, 1), [-count for count in ctx.pads])
        return of_x_BHWC, of_weight, of_bias, None, None


def convolve_padded(x_BHWC: Tensor, pads: tuple[int, ...], weight_OIHW: Tensor, bias_O: Tensor | None = None, stride: int = 1) -> Tensor:
    """`convolve` of a map that is padded with zeros. Args: `pads`, as `torch.nn.functional.pad` takes them: features, columns, rows."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return convolve(F.pad(x_BHWC, pads), weight_OIHW, bias_O, stride)
    device = x_BHWC.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_BHWC, weight_OIHW, bias_O = x_BHWC.to(dtype), weight_OIHW.to(dtype), None if bias_O is None else bias_O.to(dtype)
    result: Tensor = _PaddedConvolution.apply(x_BHWC, weight_OIHW, bias_O, pads, stride)
    return result


def init_uniform(weight: Tensor, fan_in: float) -> None:
    """Uniform in +-1/sqrt(fan_in), with the fan-in that the masks keep."""
    nn.init.uniform_(weight, -1 / math.sqrt(max(fan_in, 1)), 1 / math.sqrt(max(fan_in, 1)))


def weight_and_bias(shape: Sequence[int], num_out: int, fan_in: float) -> tuple[nn.Parameter, nn.Parameter]:
    """Fresh parameters of a layer with `num_out` output features, uniform in +-1/sqrt(fan_in)."""
    weight, bias = nn.Parameter(torch.empty(*shape)), nn.Parameter(torch.empty(num_out))
    init_uniform(weight, fan_in)
    init_uniform(bias, fan_in)
    return weight, bias


class _Masked(Grouped):
    """A convolution of a pixel stream with `num_active` weights that its mask keeps."""

    def __init__(self, in_groups: Groups, out_groups: Groups, mask: Tensor, num_active: int):
        super().__init__(in_groups, out_groups)
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.num_active = num_active
        self.masks_nothing = num_active == mask.numel()
        self.weight, self.bias = weight_and_bias(mask.shape, len(out_groups), num_active / len(out_groups))

    @property
    def num_active_weights(self) -> int:
        return self.num_active

    def masked(self) -> Tensor:
        """The weight, zero where the mask is."""
        return self.weight if self.masks_nothing else self.weight * self.mask


class CausalConv(_Masked):
    """A masked convolution of a pixel stream: `kernel[0]` rows ending at this one, `kernel[1]` columns around it.

    `right` of the columns are to the right (half of an odd kernel unless given; 0 looks up and to the left only).
    Mask A sees earlier pixels and earlier groups of its own pixel, mask B its own group too. With
    `reads_image` the input is the image itself, of which the passes are told through `Place.image_BWC`.
    With one kernel row it is the horizontal convolution of a two-stack net (1 x n, only its left half kept).
    """

    def __init__(
        self,
        in_groups: Groups,
        out_groups: Groups,
        kernel: tuple[int, int],
        mask: Literal["A", "B"],
        *,
        right: int | None = None,
        reads_image: bool = False,
    ):
        rows_above, right = kernel[0] - 1, kernel[1] // 2 if right is None else right
        left = kernel[1] - 1 - right
        right = right if rows_above else 0  # nothing to the right is known in its own row
        num_columns = left + 1 + right
        mask_OIHW = torch.ones(len(out_groups), len(in_groups), kernel[0], num_columns)
        mask_OIHW[:, :, -1, left] = group_mask(in_groups, out_groups, strict=mask == "A")
        mask_OIHW[:, :, -1, left + 1 :] = 0
        num_earlier = rows_above * num_columns + left  # taps that see every input
        num_here = num_seen(in_groups, out_groups, strict=mask == "A")
        super().__init__(in_groups, out_groups, mask_OIHW, len(out_groups) * len(in_groups) * num_earlier + num_here)
        self.reads_image, self.rows_above, self.left, self.right = reads_image, rows_above, left, right

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        y_BHWC = convolve_padded(x_BHWC, (0, 0, self.left, self.right, self.rows_above, 0), self.masked(), self.bias)
        return y_BHWC if extra_BHWC is None else y_BHWC + extra_BHWC

    def prepare(self) -> Weights:
        weight = self.masked()[self.order]
        here = weight[:, :, -1, : self.left + 1]  # O I taps
        w = {
            "bias": self.bias[self.order],
            "row": here[:, :, None],
            "above": weight[:, :, :-1],
        }
        for g, rows in enumerate(self.out_slices):
            w[f"taps{g}"] = here[rows].permute(2, 1, 0).reshape(-1, rows.stop - rows.start).contiguous()
        return w

    def start(self, frame: Frame) -> State:
        num_in, columns = len(self.in_groups), self.left + frame.width + self.right
        s = {"row": frame.zeros(columns, num_in), "pending": frame.zeros(frame.width, len(self.out_groups))}
        if self.rows_above > 1:
            s["rows"] = frame.zeros(self.rows_above - 1, columns, num_in)  # the finished ones before `row`, which a row pass finds finished
        return s

    def row(self, w: Weights, s: State, extra_BWC: Tensor | None) -> None:
        pending = w["bias"] if extra_BWC is None else w["bias"] + (extra_BWC if self.num_groups == 1 else extra_BWC[..., self.order])
        if self.rows_above:
            rows_BHWI = s["row"][:, None]
            if self.rows_above > 1:
                rows_BHWI = torch.cat([s["rows"], rows_BHWI], 1)
                s["rows"].copy_(rows_BHWI[:, 1:])
            pending = convolve(rows_BHWI, w["above"])[:, 0] + pending
        s["pending"].copy_(pending)

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        c, g = at.column, at.group
        if at.recent is not None:
            return self._pixel_of_run(w, s, x_BC, at, at.recent)
        columns_W, windows_W, pending_W = at.views.get(self) or self._views(s, at)
        if self.reads_image:  # the last channel of the pixel before became known after its own last pass
            s["row"][:, self.left + c - 1 : self.left + c + 1] = at.shifted_BWC[:, c : c + 2]
        else:
            self.put_group(columns_W[c], x_BC, g)
        pending = pending_W[c] if self.num_groups == 1 else pending_W[c][:, self.out_slices[g]]
        return torch.addmm(pending, windows_W[c], w[f"taps{g}"])

    def _pixel_of_run(self, w: Weights, s: State, x_BC: Tensor, at: Place, recent: Recent) -> Tensor:
        """`pixel` as it is compiled: each write to the row would copy all of it."""
        c, g, pending = at.column, at.group, column(s["pending"], at.column)
        if self.num_groups > 1:
            pending = pending[:, self.out_slices[g]]
        if self.num_groups > 1 or self.reads_image:
            if self.reads_image:
                s["row"][:, self.left + c - 1 : self.left + c + 1] = at.shifted_BWC[:, c : c + 2]
            else:
                self.put_group(column(s["row"], self.left + c), x_BC, g)
            return torch.addmm(pending, s["row"][:, c : c + self.left + 1].flatten(1), w[f"taps{g}"])
        columns = recent.setdefault(self, [column(s["row"], c + before) for before in range(self.left)])
        columns.append(x_BC)
        return torch.addmm(pending, torch.cat(columns[-self.left - 1 :], 1), w[f"taps{g}"])

    def keep(self, s: State, first: int, recent: list[Tensor]) -> None:
        count = len(recent) - self.left
        num_needed = count if self.rows_above else min(count, self.left)  # the row is recorded, or else only the next columns read it
        if not num_needed:
            return
        end = self.left + first + count
        s["row"][:, end - num_needed : end] = torch.stack(recent[-num_needed:], 1)

    def _views(self, s: State, at: Place) -> tuple[tuple[Tensor, ...], ...]:
        """Of each column: its input, the inputs that it reads (B, (left + 1) * I), and what it takes from above."""
        row_BWI, num_in = s["row"], len(self.in_groups)
        windows = row_BWI.flatten(1).unfold(1, (self.left + 1) * num_in, num_in)
        at.views[self] = (row_BWI[:, self.left :].unbind(1), windows.unbind(1), s["pending"].unbind(1))
        return at.views[self]

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        first, end = at.column, at.column + x_BKC.shape[1]
        s["row"][:, self.left + first : self.left + end] = x_BKC
        y_BKC = s["pending"][:, first:end] + convolve(s["row"][:, None, first : self.left + end], w["row"])[:, 0]
        return y_BKC if self.num_groups == 1 else y_BKC[..., self.unsort]

    def commit(self, w: Weights, s: State, at: Place) -> None:
        if self.reads_image and self.rows_above:  # what was drawn last is in no pixel pass
            s["row"][:, self.left : self.left + at.image_BWC.shape[1]] = at.image_BWC


class CausalLinear(_Masked):
    """A 1x1 convolution of a pixel stream, mask B where there are groups."""

    def __init__(self, in_groups: Groups, out_groups: Groups):
        mask_OI = group_mask(in_groups, out_groups, strict=False)
        super().__init__(in_groups, out_groups, mask_OI, num_seen(in_groups, out_groups, strict=False))

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        y_BHWC = F.linear(x_BHWC, self.masked(), self.bias)
        return y_BHWC if extra_BHWC is None else y_BHWC + extra_BHWC

    def prepare(self) -> Weights:
        weight, order = self.masked(), self.order
        w = {"weight": weight, "all_bias": self.bias}
        for g, rows in enumerate(self.out_slices):
            w[f"taps{g}"] = weight[order[rows]].T.contiguous()
            w[f"bias{g}"] = self.bias[order[rows]]
        return w

    def start(self, frame: Frame) -> State:
        return {} if self.num_groups == 1 else {"pixel": frame.zeros(len(self.in_groups))}

    def row(self, w: Weights, s: State, extra_BWC: Tensor | None) -> None:
        if extra_BWC is not None:
            raise TypeError("a 1x1 convolution takes nothing from above")

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        g = at.group
        if self.num_groups > 1:
            self.put_group(s["pixel"], x_BC, g)
            x_BC = s["pixel"]
        return torch.addmm(w[f"bias{g}"], x_BC, w[f"taps{g}"])

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        return F.linear(x_BKC, w["weight"], w["all_bias"])


class RowConv(RowLayer):
    """A convolution of a row stream: `kernel[0]` rows ending at this one, `kernel[1]` columns around it."""

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int]):
        super().__init__()
        self.kernel, self.side = kernel, kernel[1] // 2
        self.weight, self.bias = weight_and_bias((num_out, num_in, *kernel), num_out, num_in * kernel[0] * kernel[1])

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return convolve_padded(x_BHWC, (0, 0, self.side, self.side, self.kernel[0] - 1, 0), self.weight, self.bias)

    def start(self, frame: Frame) -> State:
        num_recorded = self.kernel[0] - 1
        return {"rows": frame.zeros(num_recorded, frame.width + 2 * self.side, self.weight.shape[1])} if num_recorded else {}

    def row(self, w: Weights, s: State, x_BWC: Tensor) -> Tensor:
        rows_BHWC = F.pad(x_BWC, (0, 0, self.side, self.side))[:, None]
        if self.kernel[0] > 1:
            rows_BHWC = torch.cat([s["rows"], rows_BHWC], 1)
            s["rows"].copy_(rows_BHWC[:, 1:])
        return convolve(rows_BHWC, w["weight"], w["bias"])[:, 0]


class RowLinear(RowLayer):
    """A 1x1 convolution of a row stream."""

    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.weight, self.bias = weight_and_bias((num_out, num_in), num_out, num_in)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return F.linear(x_BHWC, self.weight, self.bias)

    def row(self, w: Weights, s: State, x_BWC: Tensor) -> Tensor:
        return F.linear(x_BWC, w["weight"], w["bias"])
