"""PixelSNAIL: blocks, layers of a block, width, attention's keys and values, dropout, and the output distribution."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults, ask_dropout, ask_likelihood


class PixelSNAILSpace:
    """Recipes of `pixelsnail`."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelsnail",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """Half to twice the default's depth and widths."""
        default = defaults.of("pixelsnail")
        model: PixelSNAILConfig = default.model
        config = dataclasses.replace(
            model,
            num_blocks=ask.count("num_blocks", model.num_blocks),
            num_layers=ask.count("num_layers", model.num_layers),
            num_features=ask.count("num_features", model.num_features, least=4),
            key_features=ask.count("key_features", model.key_features, least=4),
            value_features=ask.count("value_features", model.value_features, least=4),
            dropout=ask_dropout(ask, model.dropout),
        )
        return dataclasses.replace(default, model=config, likelihood=ask_likelihood(ask, default, images))
