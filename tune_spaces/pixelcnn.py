"""PixelCNN and Gated PixelCNN: depth, width, kernels, gating, dropout, and the output distribution."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults, ask_dropout, ask_likelihood


class PixelCNNSpace:
    """Recipes of `pixelcnn`."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelcnn",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """Half to twice the default's depth and width; categorical, or a mixture with a number of components."""
        default = defaults.of(self.architectures[0])
        model: Any = default.model  # of either kind
        config = dataclasses.replace(
            model,
            num_layers=ask.count("num_layers", model.num_layers),
            num_features=ask.count("num_features", model.num_features, least=4),
            kernel_size=ask.choice("kernel_size", model.kernel_size, (3, 5)),
            first_kernel_size=ask.choice("first_kernel_size", model.first_kernel_size, (3, 5, 7)),
            **({"gating": ask.choice("gating", model.gating, (True, False))} if isinstance(model, GatedPixelCNNConfig) else {}),
            dropout=ask_dropout(ask, model.dropout),
        )
        return dataclasses.replace(default, model=config, likelihood=ask_likelihood(ask, default, images))


class GatedPixelCNNSpace(PixelCNNSpace):
    """Recipes of `gated_pixelcnn`: gating, on or off, is asked for, too."""

    architectures: ClassVar[tuple[str, ...]] = ("gated_pixelcnn",)
