"""`digits`: 8x8 handwritten digits with 17 grey levels. 1,797 images: what matters is not to overfit them."""

from __future__ import annotations

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.training.recipes import OptimizerConfig, Recipe

_DATASET = DatasetConfig(source="digits")
_LIKELIHOOD = LikelihoodConfig("categorical")
_OPTIMIZER = OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=50, average_decay=0.999)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return (
        Recipe(
            name="pixelcnn",
            dataset=_DATASET,
            model=PixelCNNConfig(num_layers=5, num_features=32, first_kernel_size=5, dropout=0.2),
            likelihood=_LIKELIHOOD,
            optimizer=_OPTIMIZER,
            batch_size=64,
            epochs=50,
            sample_every=10,
        ),
        Recipe(
            name="gated_pixelcnn",
            dataset=_DATASET,
            model=GatedPixelCNNConfig(num_layers=5, num_features=32, first_kernel_size=5, dropout=0.3),
            likelihood=_LIKELIHOOD,
            optimizer=_OPTIMIZER,
            batch_size=64,
            epochs=80,
            sample_every=10,
        ),
    )
