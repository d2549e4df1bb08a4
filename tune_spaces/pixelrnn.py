"""PixelRNN: Row LSTM or Diagonal BiLSTM, and the depth, width, residual connections and dropout of each."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pixelmodels.models import architecture_of
from pixelmodels.models.pixelrnn_diagonal_bilstm import PixelRNNDiagonalBiLSTMConfig
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults, ask_dropout


class PixelRNNSpace:
    """Recipes of `pixelrnn_row_lstm` and `pixelrnn_diagonal_bilstm`, with the default's likelihood."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelrnn_row_lstm", "pixelrnn_diagonal_bilstm")

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """The kind of LSTM first; then what belongs to it."""
        first = architecture_of(defaults.first.model)
        kind = ask.choice("architecture", first if first in self.architectures else self.architectures[0], self.architectures)
        return lstm_recipe(ask.under(kind), defaults.of(kind))


def lstm_recipe(ask: Ask, default: Recipe) -> Recipe:
    """A recipe of the default's kind of LSTM: half to twice its depth and width."""
    model: PixelRNNRowLSTMConfig | PixelRNNDiagonalBiLSTMConfig = default.model
    config = dataclasses.replace(
        model,
        num_layers=ask.count("num_layers", model.num_layers),
        num_features=ask.count("num_features", model.num_features, least=4),
        residual=ask.choice("residual", model.residual, (True, False)),
        dropout=ask_dropout(ask, model.dropout),
    )
    return dataclasses.replace(default, model=config)
