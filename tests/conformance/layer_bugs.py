"""Deliberate bugs of layers, each with a conformance test that fails with it; see `test_catches_bugs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pixelmodels.layers import convolution
from pixelmodels.layers.attention import CausalAttention
from pixelmodels.layers.convolution import CausalConv, RowConv, convolve
from pixelmodels.layers.pixelcnn_pp import LeftColumnConv, SplitLinear
from pixelmodels.layers.recurrent import DiagonalLSTM, ReversedDiagonalLSTM, RowLSTM
from pixelmodels.layers.strided import PixelGrowConv, PixelShrinkConv, RowGrowConv, RowShrinkConv
from pixelmodels.models import base
from tests.conformance import test_distribution as distribution

PIXELCNN, GATED = ("pixelcnn", "categorical", 1), ("gated_pixelcnn", "categorical", 1)
ROW_LSTM, DIAGONAL = ("pixelrnn_row_lstm", "categorical", 1), ("pixelrnn_diagonal_bilstm", "categorical", 1)
SNAIL, PP = ("pixelsnail", "categorical", 1), ("pixelcnn_pp", "categorical", 1)
PP_MIXTURE = ("pixelcnn_pp", "discretized_logistic_mixture", 1)

Bug = Callable[[pytest.MonkeyPatch, Path], None]  # puts it in


@dataclass(frozen=True)
class Case:
    """A bug, and a test that fails with it."""

    bug: Bug
    check: Callable[..., None]  # the test
    says: str  # what its failure matches
    arguments: dict[str, Any]  # of the test, beside fixtures


CASES: list[Case] = []


def caught_by(check: Callable[..., None], says: str, **arguments: Any) -> Callable[[Bug], Bug]:
    """The decorated bug makes `check` fail."""

    def add(bug: Bug) -> Bug:
        CASES.append(Case(bug, check, says, arguments))
        return bug

    return add


def sums_to_one(pair):
    return caught_by(distribution.test_probabilities_of_all_images_sum_to_one, r"== 1 ± ", pair=pair)


def order(pair):
    return caught_by(distribution.test_depends_on_exactly_what_is_declared, "depends on a later sub-pixel", pair=pair)


def passes(pair):
    return caught_by(distribution.test_passes_equal_forward, "Tensor-likes are not close", pair=pair, size=(5, 4))


# ---- order


@sums_to_one(GATED)
@sums_to_one(PIXELCNN)
@order(PIXELCNN)
def mask_off_by_one(patch, _):  # mask B where mask A belongs
    mask = convolution.group_mask
    patch.setattr(convolution, "group_mask", lambda in_groups, out_groups, *, strict: mask(in_groups, out_groups, strict=False))


@sums_to_one(("gated_pixelcnn", "categorical", 3))
@sums_to_one(("pixelcnn", "categorical", 3))
def green_that_sees_blue(patch, _):
    mask = convolution.group_mask

    def flipped(in_groups, out_groups, *, strict):
        return mask(in_groups, out_groups, strict=strict).flip(0) if strict else mask(in_groups, out_groups, strict=False)

    patch.setattr(convolution, "group_mask", flipped)


@sums_to_one(GATED)
@order(GATED)
def missing_shift_of_the_row_stream(patch, _):
    patch.setattr(base, "shifted_down", lambda image_BHWC: image_BHWC)


@order(DIAGONAL)
def diagonal_scan_that_looks_down(patch, _):
    scan = DiagonalLSTM.scan
    patch.setattr(DiagonalLSTM, "scan", lambda self, gates_BHWG: scan(self, gates_BHWG.flip(1)).flip(1))


@order(PP)
def two_by_one_kernel_that_looks_down(patch, _):
    def forward(self, x_BHWC, extra_BHWC=None, image_BHWC=None):
        y_BHWC = convolve(F.pad(x_BHWC, (0, 0, 0, 0, 0, 1)), self.weight, self.bias)
        return F.pad(y_BHWC, (0, 0, 1, 0))[:, :, :-1] + extra_BHWC

    patch.setattr(LeftColumnConv, "forward", forward)


@sums_to_one(PP)
def missing_shift_of_the_left_column(patch, _):
    def forward(self, x_BHWC, extra_BHWC=None, image_BHWC=None):
        return convolve(F.pad(x_BHWC, (0, 0, 0, 0, 1, 0)), self.weight, self.bias) + extra_BHWC

    patch.setattr(LeftColumnConv, "forward", forward)


@sums_to_one(PP)
def stride_of_the_pixel_stream_with_the_wrong_phase(patch, _):  # reads rows 2r', 2r'+1 and columns 2c', 2c'+1
    def forward(self, x_BHWC, extra_BHWC=None, image_BHWC=None):
        return convolve(x_BHWC, self.weight, self.bias, stride=2)

    patch.setattr(PixelShrinkConv, "forward", forward)


@sums_to_one(PP)
def stride_of_the_row_stream_with_the_wrong_phase(patch, _):
    patch.setattr(RowShrinkConv, "forward", lambda self, x: convolve(F.pad(x, (0, 0, 1, 1, 0, 1)), self.weight, self.bias, stride=2))


@sums_to_one(SNAIL)
@order(SNAIL)
def query_that_sees_its_own_key(patch, _):
    def seeing(self, x_BHWC, extra_BHWC=None, image_BHWC=None):
        x_BTC = x_BHWC.flatten(1, 2)
        key_BTD, value_BTV = self.project(x_BTC, image_BHWC.flatten(1, 2), self.key_value)
        y_BTV = F.scaled_dot_product_attention(F.linear(x_BTC, self.query), key_BTD, value_BTV, is_causal=True)
        return y_BTV.unflatten(1, x_BHWC.shape[1:3])

    patch.setattr(CausalAttention, "forward", seeing)


@caught_by(distribution.test_depends_on_exactly_what_is_declared, "the reach differs", pair=GATED)
def blind_spot_that_is_not_declared(patch, _):  # row streams take nothing from their right
    def blind(self, x_BHWC):
        weight = self.weight * (torch.arange(self.kernel[1]) <= self.side)
        padded = F.pad(x_BHWC, (0, 0, self.side, self.side, self.kernel[0] - 1, 0))
        return convolve(padded, weight, self.bias)

    patch.setattr(RowConv, "forward", blind)


# ---- passes


def forgetting(kind, pair):
    """A row that a layer does not record."""

    def bug(patch, _):
        patch.setattr(kind, "commit", lambda self, w, s, at: None)

    bug.__name__ = f"row_that_{kind.__name__}_forgets"
    passes(pair)(bug)


forgetting(CausalConv, PIXELCNN)  # the image
forgetting(CausalAttention, SNAIL)
forgetting(LeftColumnConv, PP)


def losing(kind, name, pair):
    """What pixel passes left of a row is lost before the next row's pass."""

    def bug(patch, _):
        rows = kind.rows

        def without(layers, w, s, extras):
            for layer in layers:
                s[layer][name].zero_()
            rows(layers, w, s, extras)

        patch.setattr(kind, "rows", without)

    bug.__name__ = f"{name}_that_{kind.__name__}_loses"
    passes(pair)(bug)


losing(CausalConv, "row", PIXELCNN)
losing(RowLSTM, "hidden", ROW_LSTM)
losing(RowLSTM, "cell", ROW_LSTM)
losing(DiagonalLSTM, "hidden", DIAGONAL)
losing(ReversedDiagonalLSTM, "gates", DIAGONAL)


@passes(PP)
def row_kept_in_the_place_of_the_other(patch, _):
    patch.setattr(PixelShrinkConv, "row_of", lambda self, s, at: s["rows"][:, at.row % 2])


@passes(PP)
def left_column_that_reads_its_own_pixel(patch, _):
    def pixel(self, w, s, x_BC, at):
        return torch.addmm(s["pending"][:, at.column], at.image_BWC[:, at.column], w["here"])

    patch.setattr(LeftColumnConv, "pixel", pixel)


@passes(PP)
def short_cut_that_takes_the_other_streams_part(patch, _):
    patch.setattr(SplitLinear, "prepare", lambda self: {"weight": self.part(0), "bias": self.bias})


@passes(PP)
def pixel_read_at_the_wrong_phase(patch, _):
    def read_pixel(self, w, s, at):
        return torch.addmm(w["bias"], s["held"][:, at.column // 2], w["taps"][at.column % 2, at.row % 2])

    patch.setattr(PixelGrowConv, "read_pixel", read_pixel)


@passes(PP)
def row_read_at_the_wrong_phase(patch, _):
    read = RowGrowConv.read_row
    patch.setattr(RowGrowConv, "read_row", lambda self, w, s, odd, *columns: read(self, w, s, 1 - odd, *columns))


@passes(PP)
def pixel_taken_a_column_late(patch, _):
    def fire_pixel(self, w, s, at):
        return torch.addmm(w["bias"], s["rows"][:, :, max(at.column - 1, 0) :][:, :, :2].flatten(1), w["taps"])

    patch.setattr(PixelShrinkConv, "fire_pixel", fire_pixel)


@passes(SNAIL)
def key_of_the_pixel_before_left_out(patch, _):
    attend = CausalAttention._attend
    patch.setattr(CausalAttention, "_attend", lambda self, w, s, x_BQC, at: attend(self, w, s, x_BQC, replace(at, column=at.column - 1)))
