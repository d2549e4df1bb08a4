"""`digits`: 8x8 handwritten digits with 17 grey levels. 1,797 images: what matters is not to overfit them.

`digits_by_class`: the same given their class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import architecture_of
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig
from pixelmodels.models.pixelrnn_diagonal_bilstm import PixelRNNDiagonalBiLSTMConfig
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.recipes.ablation import Ablation, ablations
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe

_CATEGORICAL = LikelihoodConfig("categorical")
_ROW_LSTM = PixelRNNRowLSTMConfig(num_layers=3, num_features=32, first_kernel_size=5, dropout=0.2)
_MIXTURE = LikelihoodConfig("discretized_logistic_mixture", num_mixtures=5)
_GATED = GatedPixelCNNConfig(num_layers=5, num_features=32, first_kernel_size=5, dropout=0.3)
_PP = PixelCNNPPConfig(num_layers=1, num_features=24, dropout=0.2)


def recipes() -> tuple[Recipe, ...]:
    """The recipes of `digits`; the longest begin early, so that shorter ones train beside them."""
    return (
        _recipe(PixelCNNConfig(num_layers=5, num_features=32, first_kernel_size=5, dropout=0.2), epochs=50),
        _recipe(_PP, likelihood=_MIXTURE, epochs=25),
        _gated(),
        _recipe(_ROW_LSTM, epochs=45),
        _recipe(PixelRNNDiagonalBiLSTMConfig(num_layers=2, num_features=32, first_kernel_size=5, dropout=0.2), epochs=25),
        _recipe(MultiscalePixelRNNConfig(small=_ROW_LSTM, large=_ROW_LSTM), epochs=40),
        _recipe(PixelSNAILConfig(num_blocks=2, num_layers=2, num_features=32, dropout=0.2), epochs=50),
    )


def by_class() -> tuple[Recipe, ...]:
    """Unconditional, and given the class; all else the same."""
    return _gated(), dataclasses.replace(_gated(), name="gated_pixelcnn_by_class", condition_on=("label",))


def improvements() -> tuple[Ablation, ...]:
    """The improvements one by one, in runs that are short enough to make ten of them."""
    return ablations(_recipe(_GATED, epochs=25), _recipe(_PP, likelihood=_MIXTURE, epochs=20))


def _gated() -> Recipe:
    return _recipe(_GATED, epochs=80)


def _recipe(model: Any, *, epochs: int, likelihood: LikelihoodConfig = _CATEGORICAL) -> Recipe:
    return Recipe(
        name=architecture_of(model),
        dataset=DatasetConfig(source="digits"),
        model=model,
        likelihood=likelihood,
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=50, average_decay=0.999),
        batch_size=64,
        epochs=epochs,
        sample_every=10,
    )
