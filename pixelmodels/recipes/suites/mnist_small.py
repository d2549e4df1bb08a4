"""`mnist_small`: some thousands of digits of 28x28 in IDX files (`--data-path`), binarized anew each epoch; for 15 minutes on 2 cores.

How its recipes were found is told in `docs/experiments.md`.
"""

from __future__ import annotations

from typing import Any

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import architecture_of
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe


def recipes() -> tuple[Recipe, ...]:
    """Each takes a quarter of an hour of 2 slow cores for 4,000 images, alone; the first is the best of them by far."""
    return (
        _recipe(PixelCNNPPConfig(num_layers=1, num_features=16), epochs=13),
        _recipe(GatedPixelCNNConfig(num_layers=6, num_features=24, head_features=32), epochs=15),
        _recipe(PixelRNNRowLSTMConfig(num_layers=3, num_features=32, head_features=32), epochs=9),
    )


def _recipe(model: Any, *, epochs: int) -> Recipe:
    return Recipe(
        name=architecture_of(model),
        dataset=DatasetConfig(source="mnist", binarize="dynamic"),
        model=model,
        likelihood=LikelihoodConfig("bernoulli"),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=50, average_decay=0.998),
        batch_size=16,
        epochs=epochs,
        sample_every=5,
    )
