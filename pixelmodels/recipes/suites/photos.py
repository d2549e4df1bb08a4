"""`photos`: RGB patches of two photographs, 256 levels. `colorization`, `super_resolution`: the same given something of each patch."""

from __future__ import annotations

import dataclasses

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe

_PIXELCNN = Recipe(
    name="pixelcnn",
    dataset=DatasetConfig(source="photos", patch_size=16),
    model=PixelCNNConfig(num_layers=5, num_features=48),
    likelihood=LikelihoodConfig("discretized_logistic_mixture", num_mixtures=5),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=100, average_decay=0.998),
    batch_size=32,
    epochs=10,
)
_GATED = dataclasses.replace(_PIXELCNN, name="gated_pixelcnn", model=GatedPixelCNNConfig(num_layers=5, num_features=48, dropout=0.1))


def recipes() -> tuple[Recipe, ...]:
    """The recipes of `photos`."""
    return _PIXELCNN, _GATED


def colorization() -> tuple[Recipe, ...]:
    """Unconditional, and given the patches without their colours; all else the same."""
    unconditional = _with_more_steps()
    return unconditional, dataclasses.replace(unconditional, name="gated_pixelcnn_colorization", condition_on=("grey",))


def super_resolution() -> tuple[Recipe, ...]:
    """Unconditional, and given every second pixel of every second row; all else the same."""
    unconditional = _with_more_steps()
    return unconditional, dataclasses.replace(unconditional, name="gated_pixelcnn_super_resolution", condition_on=("small",))


def _with_more_steps() -> Recipe:
    """The gated network in smaller steps: what a given image tells about each pixel is learned late."""
    optimizer = dataclasses.replace(_GATED.optimizer, learning_rate=2e-3)
    return dataclasses.replace(_GATED, batch_size=16, epochs=12, optimizer=optimizer)
