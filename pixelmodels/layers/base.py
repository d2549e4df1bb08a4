"""What every causal layer offers: the whole image, one row from above, one pixel, one known row.

A network has two kinds of streams of features. In a *row stream* row r depends on image rows before r only, so
all of its columns are computed before row r starts. In a *pixel stream* the feature at (r, c) may also depend on
earlier pixels of its own row, so it is computed pixel by pixel. Row streams never read pixel streams.

An architecture writes its wiring once, as two methods, `above(run, ...)` for the row streams and `here(run, ...)`
for the pixel streams; `run` decides which of its passes each layer makes:

    run            features     layers do
    Forward        h_BHWC       `forward`: the whole image at once (training, scoring)
    RowPass        h_BWC        `row`: all that row r takes from above, for all columns
    PixelPass      h_BC         `pixel`: what column c still needs once (r, c-1) is known
    TakeRow        h_BWC        `take_row`: all columns of a row that is known, or guessed
    Recording      h_BHWC       as `Forward`; it keeps the features that the wiring names (`run.feature`)

Modules hold weights only. What is recorded of finished rows lives in a `State` (tensors, batch first) that the
caller owns and that the passes update in place. Weights laid out for the passes are made once by `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

State = dict[str, Tensor]  # what one layer keeps of each image; every tensor is batch first
Weights = dict[str, Tensor]  # one layer's weights, masked and laid out for its passes
Views = dict[object, tuple[tuple[Tensor, ...], ...]]  # by owner: its views of a state's tensors, one for each column


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
    image_BWC: Tensor  # inputs of this row, at full resolution; what is not yet known is not read
    views: Views = field(default_factory=dict)  # of the states of this canvas: what a layer keeps here need not be made for each pixel

    def halved(self) -> Place:
        """The same place seen from half the resolution."""
        return Place(self.row // 2, self.column // 2, self.group, self.image_BWC, self.views)


class Layer(nn.Module):
    """A causal layer with weights that its passes use in a layout of their own."""

    resolution: int = 1  # 1 at full resolution, 2 after one stride of two, ...

    def prepare(self) -> Weights:
        """The weights of the passes; made once for many passes, and stale once parameters change."""
        return {}

    def start(self, frame: Frame) -> State:
        """The state before row 0."""
        return {}

    @property
    def num_active_weights(self) -> int:
        """Weights that the masks keep: each costs one multiply-add per position of the output."""
        raise NotImplementedError

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
        """Row pass: keep in `s` what the next row takes from above (recorded rows and `extra`)."""

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        """Pixel pass: features of group `at.group` at `at.column`, from those of the input there."""
        raise NotImplementedError

    def take_row(self, w: Weights, s: State, x_BWC: Tensor, at: Place) -> Tensor:
        """All columns of the row whose row pass was made; what it keeps counts only once committed.

        May be called again with another row: a later call replaces an earlier one.
        """
        raise NotImplementedError

    def commit(self, w: Weights, s: State, at: Place) -> None:
        """Record the row that pixel passes or `take_row` went through: it is final."""


@dataclass
class Strided:
    """The layers around a part of a network that runs at half the resolution."""

    shrink: Layer
    grow: Layer


class _Run:
    def feature(self, name: str, h: Tensor) -> Tensor:
        """`h`, the pixel stream's features at this point of the wiring, under a name of their own; kept by `Recording` alone."""
        return h


class Forward(_Run):
    """Every layer on whole images."""

    def __init__(self, image_BHWC: Tensor, extras: Mapping[Layer, Tensor] | None = None):
        self.image_BHWC, self.extras = image_BHWC, extras or {}

    def above(self, layer: RowLayer, x_BHWC: Tensor) -> Tensor:
        """A layer of a row stream."""
        return layer(x_BHWC)

    def __call__(self, layer: CausalLayer, x_BHWC: Tensor) -> Tensor:
        """A layer of a pixel stream."""
        return layer(x_BHWC, self.extras.get(layer), self.image_BHWC)

    def strided(self, pair: Strided, inner: Callable[[Tensor], Tensor], x_BHWC: Tensor) -> Tensor:
        """`inner` at half the resolution, between the layers of `pair`."""
        return pair.grow(inner(pair.shrink(x_BHWC)))


class Recording(Forward):
    """`Forward` that keeps what `keep` makes of the features that the wiring names (some at a coarser resolution), in order of depth."""

    def __init__(self, image_BHWC: Tensor, extras: Mapping[Layer, Tensor], keep: Callable[[Tensor], Tensor]):
        super().__init__(image_BHWC, extras)
        self.keep = keep
        self.features: dict[str, Tensor] = {}  # by name

    def feature(self, name: str, h_BHWC: Tensor) -> Tensor:
        """See `Forward`; `ValueError` for a name that is taken."""
        if name in self.features:
            raise ValueError(f"two features are called '{name}'; give each its own name")
        self.features[name] = self.keep(h_BHWC)
        return h_BHWC


class _Pass(_Run):
    def __init__(self, weights: Mapping[Layer, Weights], states: Mapping[Layer, State], at: Place):
        self.weights, self.states, self.at = weights, states, at


class RowPass(_Pass):
    """The row streams of the next row, for all columns."""

    def above(self, layer: RowLayer, x_BWC: Tensor) -> Tensor:
        """The layer's next row."""
        return layer.row(self.weights[layer], self.states[layer], x_BWC)

    def strided(self, pair: Strided, inner: Callable[[Tensor], Tensor], x_BWC: Tensor) -> Tensor:
        """`inner` fires at even rows; at odd rows the row it gave is held and read again."""
        shrink, grow = pair.shrink, pair.grow
        assert isinstance(shrink, RowShrink) and isinstance(grow, RowGrow)
        shrink.record(self.states[shrink], x_BWC)
        if self.at.row % 2 == 0:
            fired = shrink.fire(self.weights[shrink], self.states[shrink])
            outer, self.at = self.at, self.at.halved()
            held = inner(fired)
            self.at = outer
            grow.hold(self.states[grow], held)
        return grow.read(self.weights[grow], self.states[grow], self.at.row % 2)


class PixelPass(_Pass):
    """The pixel streams at one column."""

    def __call__(self, layer: CausalLayer, x_BC: Tensor) -> Tensor:
        """The layer at this column."""
        return layer.pixel(self.weights[layer], self.states[layer], x_BC, self.at)

    def strided(self, pair: Strided, inner: Callable[[Tensor], Tensor], x_BC: Tensor) -> Tensor:
        """`inner` fires where row and column are even; elsewhere what it gave is read again."""
        shrink, grow = pair.shrink, pair.grow
        assert isinstance(shrink, PixelShrink) and isinstance(grow, PixelGrow)
        at = self.at
        shrink.record_pixel(self.states[shrink], x_BC, at)
        if at.row % 2 == 0 and at.column % 2 == 0:
            fired = shrink.fire_pixel(self.weights[shrink], self.states[shrink], at)
            self.at = at.halved()
            held = inner(fired)
            self.at = at
            grow.hold_pixel(self.states[grow], held, at)
        return grow.read_pixel(self.weights[grow], self.states[grow], at)


class TakeRow(_Pass):
    """The pixel streams of one row, all columns of it known or guessed."""

    def __call__(self, layer: CausalLayer, x_BWC: Tensor) -> Tensor:
        """The layer's whole row."""
        return layer.take_row(self.weights[layer], self.states[layer], x_BWC, self.at)

    def strided(self, pair: Strided, inner: Callable[[Tensor], Tensor], x_BWC: Tensor) -> Tensor:
        """`inner` fires at even rows; at odd rows its row is held."""
        shrink, grow = pair.shrink, pair.grow
        assert isinstance(shrink, PixelShrink) and isinstance(grow, PixelGrow)
        shrink.record_row(self.states[shrink], x_BWC)
        if self.at.row % 2 == 0:
            fired = shrink.fire_row(self.weights[shrink], self.states[shrink])
            outer, self.at = self.at, self.at.halved()
            held = inner(fired)
            self.at = outer
            grow.hold_row(self.states[grow], held)
        return grow.read_row(self.weights[grow], self.states[grow], self.at.row % 2)


class RowShrink(RowLayer):
    """A stride of two in a row stream: row r' of its output is ready with row 2r' of its input."""

    def record(self, s: State, x_BWC: Tensor) -> None:
        """Keep the next input row."""
        raise NotImplementedError

    def fire(self, w: Weights, s: State) -> Tensor:
        """The output row, at half the width."""
        raise NotImplementedError


class RowGrow(RowLayer):
    """A transposed stride of two in a row stream: it holds a row and reads it for two rows."""

    def hold(self, s: State, x_BWC: Tensor) -> None:
        """Keep the half-resolution row."""
        s["held"].copy_(x_BWC)

    def read(self, w: Weights, s: State, odd: int) -> Tensor:
        """The full-resolution row, even or odd, that the held row gives."""
        raise NotImplementedError


class PixelShrink(CausalLayer):
    """A stride of two in a pixel stream: pixel (r', c') is ready with (2r', 2c') of its input."""

    def record_pixel(self, s: State, x_BC: Tensor, at: Place) -> None:
        """Keep the input at this column."""
        raise NotImplementedError

    def fire_pixel(self, w: Weights, s: State, at: Place) -> Tensor:
        """The output at half this column."""
        raise NotImplementedError

    def record_row(self, s: State, x_BWC: Tensor) -> None:
        """Keep an input row."""
        raise NotImplementedError

    def fire_row(self, w: Weights, s: State) -> Tensor:
        """The output row, at half the width."""
        raise NotImplementedError


class PixelGrow(CausalLayer):
    """A transposed stride of two in a pixel stream, holding what its input gave last."""

    def hold_pixel(self, s: State, x_BC: Tensor, at: Place) -> None:
        """Keep the half-resolution pixel of this column."""
        s["held"][:, at.column // 2] = x_BC

    def hold_row(self, s: State, x_BWC: Tensor) -> None:
        """Keep a half-resolution row."""
        s["held"].copy_(x_BWC)

    def read_pixel(self, w: Weights, s: State, at: Place) -> Tensor:
        """The full-resolution pixel at this column."""
        raise NotImplementedError

    def read_row(self, w: Weights, s: State, odd: int) -> Tensor:
        """The full-resolution row, even or odd, that the held row gives."""
        raise NotImplementedError
