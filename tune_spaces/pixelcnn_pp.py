"""PixelCNN++: residual layers of each level, filters, mixtures, dropout, short-cuts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults, ask_dropout, ask_mixtures


class PixelCNNPPSpace:
    """Recipes of `pixelcnn_pp`, with the default's likelihood: the mixture, in every suite but where it cannot be."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelcnn_pp",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """Half to twice the default's layers a level, filters and mixtures."""
        default = defaults.of("pixelcnn_pp")
        model: PixelCNNPPConfig = default.model
        config = dataclasses.replace(
            model,
            num_layers=ask.count("num_layers", model.num_layers),
            num_features=ask.count("num_features", model.num_features, least=4),
            dropout=ask_dropout(ask, model.dropout),
            shortcuts=ask.choice("shortcuts", model.shortcuts, (True, False)),
        )
        return dataclasses.replace(default, model=config, likelihood=ask_mixtures(ask, default.likelihood))
