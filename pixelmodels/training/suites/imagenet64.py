"""`imagenet64`: ImageNet at 64x64, RGB, 256 levels.

The papers' images are PNG files that were made smaller in another way than the npz files of source `imagenet_downsampled`; their
bits/dim do not compare. Who has the PNG files prepares them with source `folder`, and names the data set with --dataset.
"""

from __future__ import annotations

from pixelmodels.data import DatasetConfig
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.published import (
    IMAGENET_GAPS,
    PIXELRNN_GAPS,
    PublishedData,
    PublishedSuite,
    gated_pixelcnn_on_imagenet,
    pixelsnail,
    with_softmax,
)
from pixelmodels.training.recipes import Recipe

DATA = PublishedData(ImageSpec(3, 64, 64, 256), num_train=1_281_167, num_test=50_000, num_classes=1000)
_DATASET = DatasetConfig(source="imagenet_downsampled", validation_share=0.01)
_ROW_LSTM = PixelRNNRowLSTMConfig(num_layers=4, num_features=512, first_kernel_size=7, head_features=1024, residual=False)

PUBLISHED = PublishedSuite(
    DATA,
    (
        with_softmax(
            _ROW_LSTM,
            _DATASET,
            "1601.06759",
            3.63,
            batch_size=32,
            epochs=20,
            gaps=(*PIXELRNN_GAPS, *IMAGENET_GAPS),
            unverified=("model.num_layers", "model.num_features", "model.residual", "batch_size"),
        ),
        with_softmax(
            MultiscalePixelRNNConfig(factor=2, small=_ROW_LSTM, large=_ROW_LSTM),
            _DATASET,
            "1601.06759",
            3.62,
            batch_size=32,
            epochs=20,
            status="unverified",
            gaps=("model.factor", *PIXELRNN_GAPS, *IMAGENET_GAPS),
            unverified=("model.small", "model.large", "batch_size"),
            note="the paper's upsampling network has several layers; here the small image goes through two convolutions and one transposed",
        ),
        *gated_pixelcnn_on_imagenet(_DATASET, 3.57, accumulate=2, conditional_note="whether it shows them at 64x64 too was not read again"),
        pixelsnail(
            _DATASET,
            3.52,
            num_mixtures=32,
            dropout=0.0,
            average_decay=0.9997,
            epochs=20,
            gaps=IMAGENET_GAPS,
            activation_checkpointing=True,
        ),
    ),
)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return PUBLISHED.recipes()
