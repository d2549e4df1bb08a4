"""`imagenet32`: ImageNet at 32x32, RGB, 256 levels.

The papers' images are PNG files that were made smaller in another way than the npz files of source `imagenet_downsampled`; their
bits/dim do not compare. Who has the PNG files prepares them with source `folder`, and names the data set with --dataset.
"""

from __future__ import annotations

from pixelmodels.data import DatasetConfig
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

DATA = PublishedData(ImageSpec(3, 32, 32, 256), num_train=1_281_167, num_test=50_000, num_classes=1000)
_DATASET = DatasetConfig(source="imagenet_downsampled", validation_share=0.01)

PUBLISHED = PublishedSuite(
    DATA,
    (
        with_softmax(
            PixelRNNRowLSTMConfig(num_layers=12, num_features=384, first_kernel_size=7, head_features=1024),
            _DATASET,
            "1601.06759",
            3.86,
            batch_size=64,
            epochs=20,
            gaps=(*PIXELRNN_GAPS, *IMAGENET_GAPS),
            unverified=("batch_size",),
        ),
        *gated_pixelcnn_on_imagenet(_DATASET, 3.83),
        pixelsnail(_DATASET, 3.80, num_mixtures=32, dropout=0.0, average_decay=0.9997, epochs=20, gaps=IMAGENET_GAPS),
    ),
)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite."""
    return PUBLISHED.recipes()
