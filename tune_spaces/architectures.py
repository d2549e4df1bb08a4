"""The architecture itself as a choice, each with its own sub-space."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pixelmodels.models import architecture_of
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults
from tune_spaces.pixelcnn import GatedPixelCNNSpace, PixelCNNSpace
from tune_spaces.pixelcnn_pp import PixelCNNPPSpace
from tune_spaces.pixelrnn import lstm_recipe
from tune_spaces.pixelsnail import PixelSNAILSpace

SubSpace = Callable[[Ask, Defaults, ImageSpec], Recipe]

_SUB_SPACES: dict[str, SubSpace] = {
    "gated_pixelcnn": GatedPixelCNNSpace().recipe,
    "pixelcnn": PixelCNNSpace().recipe,
    "pixelcnn_pp": PixelCNNPPSpace().recipe,
    "pixelrnn_diagonal_bilstm": lambda ask, defaults, _: lstm_recipe(ask, defaults.of("pixelrnn_diagonal_bilstm")),
    "pixelrnn_row_lstm": lambda ask, defaults, _: lstm_recipe(ask, defaults.of("pixelrnn_row_lstm")),
    "pixelsnail": PixelSNAILSpace().recipe,
}


class Architectures:
    """Recipes of every architecture that draws pixels in one pass over the image."""

    architectures: ClassVar[tuple[str, ...]] = tuple(_SUB_SPACES)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """The architecture first; parameters of an architecture carry its name."""
        first = architecture_of(defaults.first.model)
        name = ask.choice("architecture", first if first in _SUB_SPACES else self.architectures[0], self.architectures)
        return _SUB_SPACES[name](ask.under(name), defaults, images)
