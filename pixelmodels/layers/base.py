"""What every causal layer offers: the whole image, one row from above, one pixel, one known row.

A network has two kinds of streams of features. In a *row stream* row r depends on image rows before r only, so
all of its columns are computed before row r starts. In a *pixel stream* the feature at (r, c) may also depend on
earlier pixels of its own row, so it is computed pixel by pixel. Row streams never read pixel streams.

A layer has passes for both; `wiring` says who makes which.

Modules hold weights only. What is recorded of finished rows lives in a `State` (tensors, batch first) that the
caller owns and that the passes update in place. Weights laid out for the passes are made once by `prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

State = dict[str, Tensor]  # what one layer keeps of each image; every tensor is batch first
Weights = dict[str, Tensor]  # one layer's weights, masked and laid out for its passes
Recent = dict["CausalLayer", list[Tensor]]  # by layer: its inputs at the columns of a run and at those to the left that it reads, B C each
Views = dict[object, tuple[tuple[Tensor, ...], ...]]  # by owner: its views of a state's tensors, one for each column


def column(x_BWC: Tensor, c: int) -> Tensor:
    """A view of one column, B C. By a slice: of what was written to, Inductor selects no place that is only known when it runs."""
    return x_BWC[:, c : c + 1].squeeze(1)


@dataclass(frozen=True)
class Frame:
    """The batch that a state is made for."""

    batch: int  # images
    height: int  # rows, at the resolution of the layer
    width: int  # columns, at the resolution of the layer
    device: torch.device
    dtype: torch.dtype

    def zeros(self, *shape: int) -> Tensor:
        """Zeros, shaped (batch, *shape)."""
        return torch.zeros(self.batch, *shape, device=self.device, dtype=self.dtype)


@dataclass
class Place:
    """Where a pass is: phase of its row, column, group, and the pixels of its row that are known.

    `row` is the row's index modulo the network's period (the same for all images of a batch) and `column` the column's
    index, both at the layer's resolution; `group` is the group of features that a pixel pass computes (0 where channels are not ordered by
    the network).
    """

    row: int
    column: int
    group: int
    shifted_BWC: Tensor  # inputs of this row behind a column of zeros, at full resolution; what is not yet known is not read
    views: Views = field(default_factory=dict)  # of the states of this canvas: what a layer keeps here need not be made for each pixel
    offset: int = 0  # the column, or one some periods away: a number also where the column is only known when what is compiled runs
    num_rows: int | None = None  # that are final in each image, at most; None: any number
    recent: Recent | None = None  # where a run of columns is compiled: what is written to the states at its end only

    @property
    def image_BWC(self) -> Tensor:
        """Inputs of this row, at full resolution."""
        return self.shifted_BWC[:, 1:]

    def halved(self) -> Place:
        """The same place seen from half the resolution."""
        return replace(self, row=self.row // 2, column=self.column // 2, offset=self.offset // 2)


class Layer(nn.Module):
    """A causal layer with weights that its passes use in a layout of their own."""

    resolution: int = 1  # 1 at full resolution, 2 after one stride of two, ...
    weight: Tensor
    bias: Tensor

    def prepare(self) -> Weights:
        """The weights of the passes, as they are unless a layer lays them out; made once for many passes, stale once parameters change."""
        return {"weight": self.weight, "bias": self.bias}

    def start(self, frame: Frame) -> State:
        """The state before row 0."""
        return {}

    @property
    def num_active_weights(self) -> int:
        """Weights that the masks keep: each costs one multiply-add per position of the output."""
        return self.weight.numel()

    def active_flops(self, num_pixels: float) -> float:
        """Floating-point operations of `forward` on one image that the masks keep (2 for a multiply-add), at `num_pixels` positions."""
        return 2.0 * self.num_active_weights * num_pixels


class RowLayer(Layer):
    """A layer of a row stream: `forward(x_BHWC) -> y_BHWC`, and `row`, the same for the next row only."""

    def row(self, w: Weights, s: State, x_BWC: Tensor) -> Tensor:
        """Features of the next row from its input row and the recorded ones; records the input row."""
        raise NotImplementedError


class CausalLayer(Layer):
    """A layer of a pixel stream: `forward(x_BHWC, extra_BHWC, image_BHWC) -> y_BHWC`, and its passes.

    `image` are the network's inputs, for layers that read them beside their features. `extra` is what the layer
    adds from a row stream; it has the layer's output features (before any non-linearity of its own) and may
    broadcast over positions.
    """

    def row(self, w: Weights, s: State, extra_BWC: Tensor | None) -> None:
        """Row pass: keep in `s` what the next row takes from above (`extra`, and rows that are final, the last one among them)."""

    @classmethod
    def rows(
        cls, layers: Sequence[CausalLayer], w: Mapping[Layer, Weights], s: Mapping[Layer, State], extras: Mapping[Layer, Tensor]
    ) -> None:
        """`row` of several layers of this class: none reads what another one keeps, so that a class may make them in one go."""
        for layer in layers:
            layer.row(w[layer], s[layer], extras.get(layer))

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        """Pixel pass: features of group `at.group` at `at.column`, from those of the input there."""
        raise NotImplementedError

    def keep(self, s: State, first: int, recent: list[Tensor]) -> None:
        """At the end of a run of columns from `first` on: write to the state what its pixel passes put into `Place.recent`."""

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        """K columns from `at.column` on of the row whose row pass was made, of all groups; what it keeps counts only once committed.

        Columns to the left were taken, or passed, before. May be called again with others: a later call replaces an earlier one.
        """
        raise NotImplementedError

    def commit(self, w: Weights, s: State, at: Place) -> None:
        """The row that pixel passes or `take_row` went through is final: keep what they did not of what the next row pass reads."""
