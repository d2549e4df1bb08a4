"""Images that are being drawn: what the passes keep of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from pixelmodels.layers.base import Layer, State, Views
from pixelmodels.models.context_encoder import Features


@dataclass
class Canvas:
    """The images that passes are drawing, each at a row of its own (all at the same phase of the strides): the layers' states."""

    x_BWC: Tensor  # levels of the current row as far as they are known, uint8
    shifted_BWC: Tensor  # the network's inputs of the current row, as far as they are known, behind a column of zeros
    above_BWC: Tensor  # the network's inputs of the row before (zeros above row 0)
    row_B: Tensor  # each image's current row, int64
    context: Features  # what each layer takes of the context, made once for each image; B H W F, H and W may be 1
    states: dict[Layer, State]
    phase: int = 0  # of the current rows: their index modulo the model's period
    num_rows: int | None = None  # that are final in each of these images, at most; None: any number
    guesses: State = field(default_factory=dict)  # of rows that are guessed (see `speculation`)
    direct_BWP: Tensor | None = None  # what the parameters of the current rows take of the context, from the row pass on; W may be 1
    views: Views = field(default_factory=dict)  # of the tensors above, which are only ever written in place

    @property
    def image_BWC(self) -> Tensor:
        """The network's inputs of the current row, as far as they are known."""
        return self.shifted_BWC[:, 1:]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is kept of the images; every tensor is batch first."""
        yield from (self.x_BWC, self.shifted_BWC, self.above_BWC, self.row_B, *self.context.values())
        for state in (*self.states.values(), self.guesses):
            yield from state.values()

    def each(self, change: Callable[[Tensor], Tensor]) -> Canvas:
        """A canvas of what `change` makes of every tensor."""
        states = {layer: {name: change(value) for name, value in state.items()} for layer, state in self.states.items()}
        context = {module: change(map_BHWF) for module, map_BHWF in self.context.items()}
        x_BWC, shifted_BWC, above_BWC, row_B = map(change, (self.x_BWC, self.shifted_BWC, self.above_BWC, self.row_B))
        guesses = {name: change(value) for name, value in self.guesses.items()}
        return Canvas(x_BWC, shifted_BWC, above_BWC, row_B, context, states, self.phase, self.num_rows, guesses)

    def take(self, index: Tensor | slice) -> Canvas:
        """Some of the images, in a canvas of their own; an image may be taken more than once.

        Of a slice: views, so that passes over them are passes over these images of this canvas.
        """
        return self.each(lambda value: value[index])

    def empty(self, batch: int) -> Canvas:
        """A canvas of as many images, at the same phase, of which nothing is known: its memory is as it was found."""
        return self.each(lambda value: value.new_empty(batch, *value.shape[1:]))

    def write(self, index_N: Tensor, images: Canvas) -> None:
        """Put other images in the place of these; `ValueError` for images at another phase."""
        if images.phase != self.phase:
            raise ValueError(f"images at phase {images.phase} cannot join images at phase {self.phase}")
        for mine, theirs in zip(self.tensors(), images.tensors(), strict=True):
            mine[index_N] = theirs
