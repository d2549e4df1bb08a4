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
from pixelmodels.recipes.papers import (
    CONDITIONAL_NOTE,
    PIXELRNN_GAPS,
    Published,
    PublishedData,
    PublishedSuite,
    decayed_adam,
    pixelsnail,
    with_softmax,
)
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec

_DATASET = DatasetConfig(source="cifar10", validation_share=0.05)  # papers that set images aside do not say how many
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


def _pixelrnn(model: PixelCNNConfig | PixelRNNRowLSTMConfig | PixelRNNDiagonalBiLSTMConfig, value: float) -> Published:
    gaps = (*PIXELRNN_GAPS, _SHARE, "precision")
    return with_softmax(model, _DATASET, "1601.06759", value, batch_size=16, epochs=100, gaps=gaps)


CIFAR10 = PublishedSuite(
    PublishedData(ImageSpec(3, 32, 32, 256), num_train=50_000, num_test=10_000, num_classes=10),
    (
        _pixelrnn(PixelCNNConfig(num_layers=15, num_features=128, first_kernel_size=7, head_features=1024), 3.14),
        _pixelrnn(PixelRNNRowLSTMConfig(num_layers=12, num_features=128, first_kernel_size=7, head_features=1024), 3.07),
        _pixelrnn(PixelRNNDiagonalBiLSTMConfig(num_layers=12, num_features=128, first_kernel_size=7, head_features=1024), 3.00),
        with_softmax(
            GatedPixelCNNConfig(num_layers=15, num_features=128, kernel_size=5, first_kernel_size=7, head_features=1024),
            _DATASET,
            "1606.05328",
            3.03,
            batch_size=16,
            epochs=100,
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
            note=f"{_PIXELCNN_PP_NOTE}; {CONDITIONAL_NOTE}",
        ),
        pixelsnail(_DATASET, 2.85, num_mixtures=10, dropout=0.5, average_decay=0.9995, epochs=500, gaps=(_SHARE, "precision")),
    ),
)
