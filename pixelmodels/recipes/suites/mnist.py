"""`mnist_fixed`, `mnist_dynamic`: MNIST with its fixed binarization, and binarized anew each epoch; numbers of the two do not compare.

On the first, papers compare nats. The second's numbers are those of a public reproduction, not of the models' papers.
"""

from __future__ import annotations

from typing import Any

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import architecture_of
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.models.pixelrnn_diagonal_bilstm import PixelRNNDiagonalBiLSTMConfig
from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.recipes.papers import PIXELRNN_GAPS, PIXELRNN_OPTIMIZER, Published, PublishedData, PublishedSuite
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe
from pixelmodels.shapes import ImageSpec

_IMAGE = ImageSpec(1, 28, 28, 2)
_FIXED = DatasetConfig(source="binarized_mnist")
_DYNAMIC = DatasetConfig(source="mnist", binarize="dynamic", validation_share=0.1)
_DYNAMIC_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=500, average_decay=0.999)
_OPEN = ("model.*", "optimizer.*", "batch_size", "dataset.validation_share")


def _recipe(model: Any, dataset: DatasetConfig, optimizer: OptimizerConfig, batch_size: int, epochs: int) -> Recipe:
    likelihood = LikelihoodConfig("bernoulli")
    return Recipe(architecture_of(model), dataset, model, likelihood, optimizer=optimizer, batch_size=batch_size, epochs=epochs)


def _fixed(model: Any, value: float, **known: Any) -> Published:
    return Published(_recipe(model, _FIXED, PIXELRNN_OPTIMIZER, batch_size=16, epochs=100), "1601.06759", value, "nats", **known)


def _dynamic(model: Any, paper: str, value: float) -> Published:
    note = "the number is that of a reproduction (457 epochs on a GPU) whose network is another one"
    recipe = _recipe(model, _DYNAMIC, _DYNAMIC_OPTIMIZER, batch_size=64, epochs=457)
    return Published(recipe, paper, value, "nats", "read", gaps=_OPEN, note=note)


MNIST_FIXED = PublishedSuite(
    PublishedData(_IMAGE, num_train=50_000, num_test=10_000, has_validation=True),
    (
        _fixed(
            PixelCNNConfig(num_layers=7, num_features=16, kernel_size=3, first_kernel_size=7, head_features=32),
            81.30,
            status="unverified",
            gaps=("model.num_layers", "model.num_features", *PIXELRNN_GAPS),
            note="the paper's network for MNIST is told for Diagonal BiLSTM only: its 7 layers of 16 are taken here too",
        ),
        _fixed(
            PixelRNNDiagonalBiLSTMConfig(num_layers=7, num_features=16, first_kernel_size=7, head_features=32),
            79.20,
            status="read",
            gaps=PIXELRNN_GAPS,
        ),
    ),
)
MNIST_DYNAMIC = PublishedSuite(
    PublishedData(_IMAGE, num_train=60_000, num_test=10_000, num_classes=10),
    (
        _dynamic(PixelCNNConfig(num_layers=15, num_features=64, head_features=64), "1601.06759", 81.45),
        _dynamic(GatedPixelCNNConfig(num_layers=10, num_features=64, head_features=64), "1606.05328", 81.50),
        _dynamic(PixelSNAILConfig(num_blocks=4, num_layers=2, num_features=64, key_features=16, value_features=64), "1712.09763", 78.61),
    ),
)
