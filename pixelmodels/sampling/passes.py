"""The passes of a model over the images of a canvas: a row begins, pixels are drawn or the row is taken in, the row is final."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pixelmodels.layers.base import CausalLayer, Frame, Layer, Place, State, Weights
from pixelmodels.layers.wiring import PixelPass, RowPass, TakeRow
from pixelmodels.models import PixelModel
from pixelmodels.models.context import Given
from pixelmodels.models.context_encoder import Features
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.speculation import settle


class Passes:
    """A model's passes, with its weights laid out for them once: they stay as they were when it was made.

    One object serves as many canvases as wanted; a canvas is given to it at each call and changed in place.
    """

    num_columns = 0  # that `draw` draws of a row, from the first one on

    @torch.no_grad()
    def __init__(self, model: PixelModel):
        self.model = model
        self.weights = {layer: {name: value.clone() for name, value in layer.prepare().items()} for layer in model.layers()}
        self._in_phase = [in_phase(model, phase) for phase in range(model.period)]
        self._step = model.spec.step
        self._width = model.spec.width
        self._is_padded = model.padded(self._width) > self._width

    @torch.no_grad()
    def start(self, batch: int, context: Given = None) -> Canvas:
        """An empty canvas for `batch` images, before row 0, with a context that `check_context` accepts (it would wait for a device)."""
        model = self.model
        channels, height, width = model.spec.shape
        rows, columns = model.padded(height), model.padded(width)
        frame = Frame(batch, rows, columns, model.device, model.dtype)
        of_layer = ((layer, layer.resolution) for layer in model.layers())
        states = {layer: layer.start(replace(frame, height=rows // stride, width=columns // stride)) for layer, stride in of_layer}
        return Canvas(
            x_BWC=torch.zeros(batch, width, channels, dtype=torch.uint8, device=frame.device),
            shifted_BWC=frame.zeros(1 + columns, channels + 1),
            above_BWC=frame.zeros(columns, channels + 1),
            row_B=torch.zeros(batch, dtype=torch.long, device=frame.device),
            context=model.context_features(context, batch),
            states=states,
        )

    @torch.no_grad()
    def row(self, canvas: Canvas) -> None:
        """Everything that the images' current rows take from the rows above them, for all columns."""
        context = self.context_of_row(canvas)
        layers = self._in_phase[canvas.phase]
        row_pass(self.model, layers, self.weights, canvas.states, canvas.phase, canvas.above_BWC, canvas.shifted_BWC, context)

    def context_of_row(self, canvas: Canvas) -> Features:
        """What each layer takes of the context at the images' current rows, B W F; the canvas keeps what the parameters take of it."""
        batch_B = torch.arange(len(canvas.row_B), device=canvas.row_B.device)
        context = {
            module: map_BHWF[batch_B, canvas.row_B // module.resolution] if map_BHWF.shape[1] > 1 else map_BHWF[:, 0]
            for module, map_BHWF in canvas.context.items()
        }
        canvas.direct_BWP = None if self.model.direct is None else context[self.model.direct]
        return context

    @torch.no_grad()
    def pixel(self, canvas: Canvas, column: int, group: int = 0) -> Tensor:
        """Parameters of one pixel of the current row, of one group where the network orders the channels; B P."""
        model = self.model
        params_BP = model.here(PixelPass(self.weights, canvas.states, _place(canvas, column, group)), canvas.shifted_BWC[:, 1 + column])
        if canvas.direct_BWP is None:
            return params_BP
        direct_BP = canvas.direct_BWP[:, column if canvas.direct_BWP.shape[1] > 1 else 0]
        return params_BP + (direct_BP if model.num_groups == 1 else direct_BP[:, model.params_of_group[group]])

    def draw(self, canvas: Canvas, u_BWU: Tensor, known_BWC: Tensor | None = None, mask_BW: Tensor | None = None) -> Tensor:
        """Draw the first `num_columns` of the current row, after its row pass; whether all parameters were finite, B.

        Args: `u`, uniforms, float64; `known`, levels that stay as they are where `mask` says so. Options are those of the model itself.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no columns at once")

    @torch.no_grad()
    def settle(self, canvas: Canvas, first: int) -> None:
        """A round of the guesses of the images' current rows, from column `first` on (see `speculation.first_open`)."""
        count = self._width - first
        settle(self.model, self.weights, canvas.states, _place(canvas, first), count, canvas.x_BWC, canvas.guesses)

    def put(self, canvas: Canvas, column: int, channel: int, x_B: Tensor) -> None:
        """Fix one sub-pixel of the current row: levels, integers, B."""
        if channel not in canvas.views:
            canvas.views[channel] = (canvas.x_BWC[..., channel].unbind(1), canvas.image_BWC[..., channel].unbind(1))
        x_W, image_W = canvas.views[channel]
        x_W[column].copy_(x_B)
        image_W[column].copy_(x_B).mul_(self._step).sub_(1)

    @torch.no_grad()
    def take_row(self, canvas: Canvas, x_BKC: Tensor, first: int = 0) -> Tensor:
        """Parameters of K columns of the current row from `first` on (a multiple of the period) if they were `x_BKC` (levels); B K P.

        Nothing is final before `commit`: others may be taken in instead.
        """
        end = first + x_BKC.shape[1]
        canvas.x_BWC[:, first:end] = x_BKC
        canvas.image_BWC[:, first:end, :-1] = self.model.spec.scaled(x_BKC, self.model.dtype)
        if end < self._width:
            return self._take(canvas, first, end)
        return self._take(canvas, first, canvas.image_BWC.shape[1])[:, : end - first]

    @torch.no_grad()
    def commit(self, canvas: Canvas) -> None:
        """The current row is final: record it and go to the next (`x_BWC` stays as it is until the next row is drawn)."""
        if self._is_padded:  # pixel passes end at the last real column, rows below may read beyond
            self._take(canvas, self._width - self._width % self.model.period, canvas.image_BWC.shape[1])
        at = _place(canvas)
        for layer in self._in_phase[canvas.phase]:
            layer.commit(self.weights[layer], canvas.states[layer], at)
        canvas.above_BWC.copy_(canvas.image_BWC)
        canvas.row_B += 1
        canvas.phase = (canvas.phase + 1) % self.model.period

    def _take(self, canvas: Canvas, first: int, end: int) -> Tensor:
        params_BKP = self.model.here(TakeRow(self.weights, canvas.states, _place(canvas, first)), canvas.image_BWC[:, first:end])
        direct_BWP = canvas.direct_BWP
        if direct_BWP is None:
            return params_BKP
        return params_BKP + (direct_BWP[:, first:end] if direct_BWP.shape[1] > 1 else direct_BWP)


def row_pass(
    model: PixelModel,
    layers: Sequence[CausalLayer],
    weights: Mapping[Layer, Weights],
    states: Mapping[Layer, State],
    phase: int,
    above_BWC: Tensor,
    shifted_BWC: Tensor,
    context: Features,
) -> None:
    """Everything that rows take from the row above, `above_BWC`, and their context; of `shifted_BWC` nothing is known afterwards.

    Args: `layers` of the pixel streams that fire in this phase (see `in_phase`).
    """
    extras = model.above(RowPass(weights, states, Place(phase, 0, 0, shifted_BWC)), above_BWC, context)
    by_class: dict[type[CausalLayer], list[CausalLayer]] = {}
    for layer in layers:
        by_class.setdefault(type(layer), []).append(layer)
    for kind, own in by_class.items():
        kind.rows(own, weights, states, extras)
    shifted_BWC.zero_()
    shifted_BWC[:, 1 : 1 + model.spec.width, -1].fill_(1)


def in_phase(model: PixelModel, phase: int) -> list[CausalLayer]:
    """The layers of the pixel streams that fire in rows of a phase."""
    return [layer for layer in model.layers() if isinstance(layer, CausalLayer) and phase % layer.resolution == 0]


def _place(canvas: Canvas, column: int = 0, group: int = 0) -> Place:
    return Place(canvas.phase, column, group, canvas.shifted_BWC, canvas.views, column, canvas.num_rows)
