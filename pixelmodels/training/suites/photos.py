"""`photos`: RGB patches of two photographs, 256 levels."""

from __future__ import annotations

import dataclasses

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.training.recipes import OptimizerConfig, Recipe

_DATASET = DatasetConfig(source="photos", patch_size=16)
_LIKELIHOOD = LikelihoodConfig("discretized_logistic_mixture", num_mixtures=5)
_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100, average_decay=0.998)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return (
        Recipe(
            name="pixelcnn",
            dataset=_DATASET,
            model=PixelCNNConfig(num_layers=5, num_features=48),
            likelihood=_LIKELIHOOD,
            optimizer=_OPTIMIZER,
            batch_size=32,
            epochs=10,
        ),
        Recipe(
            name="gated_pixelcnn",
            dataset=_DATASET,
            model=GatedPixelCNNConfig(num_layers=5, num_features=48, dropout=0.1),
            likelihood=_LIKELIHOOD,
            optimizer=_OPTIMIZER,
            batch_size=32,
            epochs=10,
        ),
    )


def with_more_steps() -> Recipe:
    """The gated network in smaller steps: what a given image tells about each pixel is learned late."""
    recipe = next(recipe for recipe in recipes() if recipe.name == "gated_pixelcnn")
    optimizer = dataclasses.replace(recipe.optimizer, learning_rate=2e-3)
    return dataclasses.replace(recipe, batch_size=16, epochs=12, optimizer=optimizer)
