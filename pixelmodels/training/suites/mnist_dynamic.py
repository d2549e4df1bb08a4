"""`mnist_dynamic`: MNIST binarized anew each epoch; numbers are those of a public reproduction, not of the models' papers.

They do not compare with those of the fixed binarization.
"""

from __future__ import annotations

from typing import Any

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import architecture_of
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.published import Published, PublishedData, PublishedSuite
from pixelmodels.training.recipes import OptimizerConfig, Recipe

DATA = PublishedData(ImageSpec(1, 28, 28, 2), num_train=60_000, num_test=10_000, num_classes=10)
_DATASET = DatasetConfig(source="mnist", binarize="dynamic", validation_share=0.1)
_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=500, average_decay=0.999)
_OPEN = ("model.*", "optimizer.*", "batch_size", "dataset.validation_share")


def _entry(model: Any, paper: str, value: float) -> Published:
    recipe = Recipe(
        name=architecture_of(model),
        dataset=_DATASET,
        model=model,
        likelihood=LikelihoodConfig("bernoulli"),
        optimizer=_OPTIMIZER,
        batch_size=64,
        epochs=457,
    )
    note = "the number is that of a reproduction (457 epochs on a GPU) whose network is another one"
    return Published(recipe, paper, value, "nats", "read", gaps=_OPEN, note=note)


PUBLISHED = PublishedSuite(
    DATA,
    (
        _entry(PixelCNNConfig(num_layers=15, num_features=64, head_features=64), "1601.06759", 81.45),
        _entry(GatedPixelCNNConfig(num_layers=10, num_features=64, head_features=64), "1606.05328", 81.50),
        _entry(PixelSNAILConfig(num_blocks=4, num_layers=2, num_features=64, key_features=16, value_features=64), "1712.09763", 78.61),
    ),
)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return PUBLISHED.recipes()
