"""`imagenet64`: ImageNet at 64x64, RGB, 256 levels.

The papers' images are PNG files that were made smaller in another way than the npz files of source `imagenet_downsampled`; their
bits/dim do not compare. Who has the PNG files prepares them with source `folder`, and names the data set with --dataset.
"""

from __future__ import annotations

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
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

DATA = PublishedData(ImageSpec(3, 64, 64, 256), num_train=1_281_167, num_test=50_000, num_classes=1000)
_DATASET = DatasetConfig(source="imagenet_downsampled", validation_share=0.01)
_CATEGORICAL = LikelihoodConfig("categorical")
_ROW_LSTM = PixelRNNRowLSTMConfig(num_layers=4, num_features=512, first_kernel_size=7, head_features=1024, residual=False)
_OURS = ("precision", "activation_checkpointing", "accumulate", "dataset.validation_share")

PUBLISHED = PublishedSuite(
    DATA,
    (
        Published(
            Recipe(
                name="pixelrnn_row_lstm",
                dataset=_DATASET,
                model=_ROW_LSTM,
                likelihood=_CATEGORICAL,
                optimizer=PIXELRNN_OPTIMIZER,
                batch_size=32,
                epochs=20,
                precision="bfloat16",
            ),
            paper="1601.06759",
            value=3.63,
            unit="bits/dim",
            status="read",
            gaps=(*PIXELRNN_GAPS, *_OURS),
            unverified=("model.num_layers", "model.num_features", "model.residual", "batch_size"),
        ),
        Published(
            Recipe(
                name="multiscale_pixelrnn",
                dataset=_DATASET,
                model=MultiscalePixelRNNConfig(factor=2, small=_ROW_LSTM, large=_ROW_LSTM),
                likelihood=_CATEGORICAL,
                optimizer=PIXELRNN_OPTIMIZER,
                batch_size=32,
                epochs=20,
                precision="bfloat16",
            ),
            paper="1601.06759",
            value=3.62,
            unit="bits/dim",
            status="unverified",
            gaps=("model.factor", *PIXELRNN_GAPS, *_OURS),
            unverified=("model.small", "model.large", "batch_size"),
            note="the paper's upsampling network has several layers; here the small image goes through two convolutions and one transposed",
        ),
        Published(
            Recipe(
                name="gated_pixelcnn",
                dataset=_DATASET,
                model=GatedPixelCNNConfig(num_layers=20, num_features=384, kernel_size=5, first_kernel_size=7, head_features=1024),
                likelihood=_CATEGORICAL,
                optimizer=PIXELRNN_OPTIMIZER,
                batch_size=128,
                accumulate=2,
                epochs=20,
                precision="bfloat16",
            ),
            paper="1606.05328",
            value=3.57,
            unit="bits/dim",
            status="read",
            gaps=("model.first_kernel_size", "model.head_features", "optimizer.*", *_OURS),
            unverified=("model.num_layers", "model.num_features", "model.kernel_size", "batch_size", "epochs"),
        ),
        Published(
            Recipe(
                name="pixelsnail",
                dataset=_DATASET,
                model=PixelSNAILConfig(num_blocks=12, num_layers=4, num_features=256, key_features=16, value_features=128, dropout=0.0),
                likelihood=LikelihoodConfig("discretized_logistic_mixture", num_mixtures=32),
                optimizer=decayed_adam(0.999998, average_decay=0.9997),
                batch_size=64,
                epochs=20,
                precision="bfloat16",
                activation_checkpointing=True,
            ),
            paper="1712.09763",
            value=3.52,
            unit="bits/dim",
            status="read",
            gaps=("batch_size", "epochs", *_OURS),
            note="its public code takes 8 images on each GPU and does not say how many GPUs; Adam's epsilon is 1e-6 there, 1e-8 here",
        ),
    ),
)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return PUBLISHED.recipes()
