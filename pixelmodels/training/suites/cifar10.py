"""`cifar10`: RGB images of 32x32 with 256 levels, and the six networks that were published on them."""

from __future__ import annotations

import dataclasses

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig
from pixelmodels.models.pixelrnn_diagonal_bilstm import PixelRNNDiagonalBiLSTMConfig
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.published import (
    PIXELRNN_GAPS,
    PIXELRNN_OPTIMIZER,
    Published,
    PublishedData,
    PublishedSuite,
    decayed_adam,
)
from pixelmodels.training.recipes import Recipe

DATA = PublishedData(ImageSpec(3, 32, 32, 256), num_train=50_000, num_test=10_000, num_classes=10)
_DATASET = DatasetConfig(source="cifar10", validation_share=0.05)  # papers that set images aside do not say how many
_CATEGORICAL = LikelihoodConfig("categorical")
_MIXTURE = LikelihoodConfig("discretized_logistic_mixture", num_mixtures=10)
_SHARE = "dataset.validation_share"

_PIXELCNN_PP = Recipe(
    name="pixelcnn_pp",
    dataset=_DATASET,
    model=PixelCNNPPConfig(num_layers=5, num_features=160, dropout=0.5),
    likelihood=_MIXTURE,
    optimizer=decayed_adam(0.999995, average_decay=0.9995),
    batch_size=96,
    epochs=500,
    precision="bfloat16",
)
_PIXELCNN_PP_NOTE = "filters and batch are those of its public code (160; 12 on each of 8 GPUs), the paper's text has 192 filters"


def _pixelrnn(name: str, model: PixelCNNConfig | PixelRNNRowLSTMConfig | PixelRNNDiagonalBiLSTMConfig, value: float) -> Published:
    recipe = Recipe(
        name=name,
        dataset=_DATASET,
        model=model,
        likelihood=_CATEGORICAL,
        optimizer=PIXELRNN_OPTIMIZER,
        batch_size=16,
        epochs=100,
        precision="bfloat16",
    )
    return Published(recipe, "1601.06759", value, "bits/dim", "read", gaps=(*PIXELRNN_GAPS, _SHARE, "precision"))


PUBLISHED = PublishedSuite(
    DATA,
    (
        _pixelrnn("pixelcnn", PixelCNNConfig(num_layers=15, num_features=128, first_kernel_size=7, head_features=1024), 3.14),
        _pixelrnn(
            "pixelrnn_row_lstm", PixelRNNRowLSTMConfig(num_layers=12, num_features=128, first_kernel_size=7, head_features=1024), 3.07
        ),
        _pixelrnn(
            "pixelrnn_diagonal_bilstm",
            PixelRNNDiagonalBiLSTMConfig(num_layers=12, num_features=128, first_kernel_size=7, head_features=1024),
            3.00,
        ),
        Published(
            Recipe(
                name="gated_pixelcnn",
                dataset=_DATASET,
                model=GatedPixelCNNConfig(num_layers=15, num_features=128, kernel_size=5, first_kernel_size=7, head_features=1024),
                likelihood=_CATEGORICAL,
                optimizer=PIXELRNN_OPTIMIZER,
                batch_size=16,
                epochs=100,
                precision="bfloat16",
            ),
            paper="1606.05328",
            value=3.03,
            unit="bits/dim",
            status="read",
            gaps=("model.*", "optimizer.*", "batch_size", "epochs", _SHARE, "precision"),
            note="the paper tells its network for ImageNet only; this one has the depth and width of the PixelCNN before it",
        ),
        Published(
            _PIXELCNN_PP,
            paper="1701.05517",
            value=2.92,
            unit="bits/dim",
            status="read",
            parameters=53_659_080,
            gaps=("epochs", _SHARE, "precision"),
            note=_PIXELCNN_PP_NOTE,
        ),
        Published(
            dataclasses.replace(_PIXELCNN_PP, name="pixelcnn_pp_conditional", condition_on=("label",)),
            paper="1701.05517",
            value=2.94,
            unit="bits/dim",
            status="read",
            gaps=("epochs", _SHARE, "precision", "context_drop_rate"),
            note=f"{_PIXELCNN_PP_NOTE}; the class reaches the layers through 32 features, and a tenth of the images do without it",
        ),
        Published(
            Recipe(
                name="pixelsnail",
                dataset=_DATASET,
                model=PixelSNAILConfig(num_blocks=12, num_layers=4, num_features=256, key_features=16, value_features=128, dropout=0.5),
                likelihood=_MIXTURE,
                optimizer=decayed_adam(0.999998, average_decay=0.9995),
                batch_size=64,
                epochs=500,
                precision="bfloat16",
            ),
            paper="1712.09763",
            value=2.85,
            unit="bits/dim",
            status="read",
            gaps=("batch_size", "epochs", _SHARE, "precision"),
            note="its public code takes 8 images on each GPU and does not say how many GPUs; Adam's epsilon is 1e-6 there, 1e-8 here",
        ),
    ),
)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return PUBLISHED.recipes()
