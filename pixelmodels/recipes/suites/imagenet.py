"""`imagenet32`, `imagenet64`: ImageNet at 32x32 and at 64x64, RGB, 256 levels.

The papers' images are PNG files that were made smaller in another way than the npz files of source `imagenet_downsampled`; their
bits/dim do not compare. Who has the PNG files prepares them with source `folder`, and names the data set with --dataset.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pixelmodels.data import DatasetConfig
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.recipes.papers import CONDITIONAL_NOTE, PIXELRNN_GAPS, Published, PublishedData, PublishedSuite, pixelsnail, with_softmax
from pixelmodels.shapes import ImageSpec

_DATASET = DatasetConfig(source="imagenet_downsampled", validation_share=0.01)
_GAPS = ("precision", "activation_checkpointing", "accumulate", "dataset.validation_share")
_NO_NUMBER = "the paper shows samples of classes, and says without a number that the likelihood is about that of the model without them"
_ROW_LSTM_64 = PixelRNNRowLSTMConfig(num_layers=4, num_features=512, first_kernel_size=7, head_features=1024, residual=False)


def _data(side: int) -> PublishedData:
    return PublishedData(ImageSpec(3, side, side, 256), num_train=1_281_167, num_test=50_000, num_classes=1000)


def _pixelrnn(model: Any, value: float, batch_size: int, *fields: str, gaps: tuple[str, ...] = (), **known: Any) -> Published:
    """A network of arXiv:1601.06759; `fields` are unverified beside the batch size, and `gaps` open beside those of all its networks."""
    known |= {"gaps": (*gaps, *PIXELRNN_GAPS, *_GAPS), "unverified": (*fields, "batch_size")}
    return with_softmax(model, _DATASET, "1601.06759", value, batch_size=batch_size, epochs=20, **known)


def _gated_pixelcnn(value: float, *, accumulate: int = 1, conditional_note: str = "") -> tuple[Published, Published]:
    """Gated PixelCNN (arXiv:1606.05328, section 3) without and with the class; of the second its paper gives no number.

    Args: `conditional_note`, what else is to be said of the second.
    """
    plain = with_softmax(
        GatedPixelCNNConfig(num_layers=20, num_features=384, kernel_size=5, first_kernel_size=7, head_features=1024),
        _DATASET,
        "1606.05328",
        value,
        batch_size=128,
        accumulate=accumulate,
        epochs=20,
        gaps=("model.first_kernel_size", "model.head_features", "optimizer.*", *_GAPS),
        unverified=("model.num_layers", "model.num_features", "model.kernel_size", "batch_size", "epochs"),
    )
    conditional = dataclasses.replace(
        plain,
        recipe=dataclasses.replace(plain.recipe, name=f"{plain.recipe.name}_conditional", condition_on=("label",)),
        value=None,
        status="unverified",
        gaps=(*plain.gaps, "context_drop_rate"),
        note="; ".join(filter(None, (_NO_NUMBER, conditional_note, CONDITIONAL_NOTE))),
    )
    return plain, conditional


def _pixelsnail(value: float, **changes: Any) -> Published:
    return pixelsnail(_DATASET, value, num_mixtures=32, dropout=0.0, average_decay=0.9997, epochs=20, gaps=_GAPS, **changes)


IMAGENET32 = PublishedSuite(
    _data(32),
    (
        _pixelrnn(PixelRNNRowLSTMConfig(num_layers=12, num_features=384, first_kernel_size=7, head_features=1024), 3.86, 64),
        *_gated_pixelcnn(3.83),
        _pixelsnail(3.80),
    ),
)
IMAGENET64 = PublishedSuite(
    _data(64),
    (
        _pixelrnn(_ROW_LSTM_64, 3.63, 32, "model.num_layers", "model.num_features", "model.residual"),
        _pixelrnn(
            MultiscalePixelRNNConfig(factor=2, small=_ROW_LSTM_64, large=_ROW_LSTM_64),
            3.62,
            32,
            "model.small",
            "model.large",
            gaps=("model.factor",),
            status="unverified",
            note="the paper's upsampling network has several layers; here the small image goes through two convolutions and one transposed",
        ),
        *_gated_pixelcnn(3.57, accumulate=2, conditional_note="whether it shows them at 64x64 too was not read again"),
        _pixelsnail(3.52, activation_checkpointing=True),
    ),
)
