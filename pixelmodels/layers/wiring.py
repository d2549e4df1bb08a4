"""What an architecture's wiring is given: the one that makes each layer's pass.

An architecture writes its wiring once, as two methods, `above(do, ...)` for the row streams and `here(do, ...)`
for the pixel streams; `do` decides which of its passes each layer makes:

    do             features     layers make
    Forward        h_BHWC       `forward`: the whole image at once (training, scoring)
    RowPass        h_BWC        `row`: all that row r takes from above, for all columns
    PixelPass      h_BC         `pixel`: what column c still needs once (r, c-1) is known
    TakeRow        h_BKC        `take_row`: columns of a row that is known, or guessed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from pixelmodels.layers.base import CausalLayer, Layer, Place, RowLayer, State, Weights
from pixelmodels.layers.strided import GrowConv, PixelGrowConv, PixelShrinkConv, ShrinkConv

Record = Callable[[str, Tensor], None]  # takes a name and the features that have it


class Forward:
    """Every layer on whole images.

    Args: `record`, told of the features that the wiring names (some at a coarser resolution), in order of depth.
    """

    def __init__(self, image_BHWC: Tensor, extras: Mapping[Layer, Tensor] | None = None, record: Record | None = None):
        self.image_BHWC, self.extras, self.record = image_BHWC, extras or {}, record

    def above(self, layer: RowLayer, x_BHWC: Tensor) -> Tensor:
        """A layer of a row stream."""
        return layer(x_BHWC)

    def __call__(self, layer: CausalLayer, x_BHWC: Tensor) -> Tensor:
        """A layer of a pixel stream."""
        return layer(x_BHWC, self.extras.get(layer), self.image_BHWC)

    def strided(self, shrink: ShrinkConv, grow: GrowConv, inner: Callable[[Tensor], Tensor], x_BHWC: Tensor) -> Tensor:
        """`inner` at half the resolution, between the two layers."""
        return grow(inner(shrink(x_BHWC)))

    def feature(self, name: str, h_BHWC: Tensor) -> Tensor:
        """`h`, the pixel stream's features at this point of the wiring, under a name of their own."""
        if self.record is not None:
            self.record(name, h_BHWC)
        return h_BHWC


class _Pass:
    def __init__(self, weights: Mapping[Layer, Weights], states: Mapping[Layer, State], at: Place):
        self.weights, self.states, self.at = weights, states, at

    def feature(self, name: str, h: Tensor) -> Tensor:
        """See `Forward`; not recorded."""
        return h


class _OfRow(_Pass):
    def strided(self, shrink: ShrinkConv, grow: GrowConv, inner: Callable[[Tensor], Tensor], x_BWC: Tensor) -> Tensor:
        """`inner` fires at even rows; at odd rows the row it gave is held and read again."""
        at, count = self.at, x_BWC.shape[1]
        shrink.record_row(self.states[shrink], x_BWC, at)
        if at.row % 2 == 0:
            fired = shrink.fire_row(self.weights[shrink], self.states[shrink], at.column, count)
            self.at = at.halved()
            grow.hold_row(self.states[grow], inner(fired), self.at.column)
            self.at = at
        return grow.read_row(self.weights[grow], self.states[grow], at.row % 2, at.column // 2, count // 2)


class RowPass(_OfRow):
    """The row streams of the next row, for all columns."""

    def above(self, layer: RowLayer, x_BWC: Tensor) -> Tensor:
        """The layer's next row."""
        return layer.row(self.weights[layer], self.states[layer], x_BWC)


class TakeRow(_OfRow):
    """The pixel streams of one row from a column on, which strides divide; these columns are known or guessed."""

    def __call__(self, layer: CausalLayer, x_BKC: Tensor) -> Tensor:
        """The layer at all of these columns."""
        return layer.take_row(self.weights[layer], self.states[layer], x_BKC, self.at)


class PixelPass(_Pass):
    """The pixel streams at one column."""

    def __call__(self, layer: CausalLayer, x_BC: Tensor) -> Tensor:
        """The layer at this column."""
        return layer.pixel(self.weights[layer], self.states[layer], x_BC, self.at)

    def strided(self, shrink: PixelShrinkConv, grow: PixelGrowConv, inner: Callable[[Tensor], Tensor], x_BC: Tensor) -> Tensor:
        """`inner` fires where row and column are even; elsewhere what it gave is read again."""
        at = self.at
        shrink.record_pixel(self.states[shrink], x_BC, at)
        if at.row % 2 == 0 and at.offset % 2 == 0:
            fired = shrink.fire_pixel(self.weights[shrink], self.states[shrink], at)
            self.at = at.halved()
            held = inner(fired)
            self.at = at
            grow.hold_pixel(self.states[grow], held, at)
        return grow.read_pixel(self.weights[grow], self.states[grow], at)
