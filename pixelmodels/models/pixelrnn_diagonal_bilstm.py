"""PixelRNN with Diagonal BiLSTM layers (arXiv:1601.06759, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pixelmodels.layers.base import Forward, Layer, PixelPass, TakeRow
from pixelmodels.layers.convolution import CausalLinear, Groups
from pixelmodels.layers.recurrent import DiagonalLSTM, ReversedDiagonalLSTM
from pixelmodels.models.base import CONTEXT_FEATURES
from pixelmodels.models.context import ContextSpec, Features, projection
from pixelmodels.models.reach import everything_before
from pixelmodels.models.residual import PixelRNNConfig, ResidualNet


@dataclass(frozen=True)
class PixelRNNDiagonalBiLSTMConfig(PixelRNNConfig):
    """Hyperparameters of `pixelrnn_diagonal_bilstm`; the paper's for CIFAR-10 are 12 layers of 128, for MNIST 7 of 16."""

    num_layers: int = 3  # BiLSTM layers


class _Block(nn.Module):
    """For each direction 1x1 (mask B) 2h -> 4h and an LSTM; their sum, 1x1 h -> 2h, residual (figures 3 and 5)."""

    def __init__(self, config: PixelRNNDiagonalBiLSTMConfig, wide: Groups, narrow: Groups, context_spec: ContextSpec):
        super().__init__()
        self.to_left, self.to_right = CausalLinear(wide, narrow * 4), CausalLinear(wide, narrow * 4)
        self.left, self.right = DiagonalLSTM(narrow), ReversedDiagonalLSTM(narrow)
        self.expand = CausalLinear(narrow, wide)
        self.dropout = nn.Dropout(config.dropout)
        self.condition = projection(context_spec, CONTEXT_FEATURES, 8 * config.num_features)
        self.residual = config.residual

    def extras(self, context: Features) -> dict[Layer, Tensor]:
        if self.condition is None:
            return {}
        for_left, for_right = context[self.condition].chunk(2, -1)
        return {self.left: for_left, self.right: for_right}

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        x = self.dropout(h) if self.training else h
        y = run(self.left, run(self.to_left, x)) + run(self.right, run(self.to_right, x))
        y = run(self.expand, y)
        return h + y if self.residual else y


class PixelRNNDiagonalBiLSTM(ResidualNet):
    """A mask-A convolution, LSTM layers that scan the diagonals from both sides, and a head of 1x1 layers."""

    config_class = PixelRNNDiagonalBiLSTMConfig
    block_class = _Block

    def reach(self) -> Tensor:
        # Everything before a pixel but one: the last pixel of the row above is in none of that row's features (they
        # come before it), so only this row's features near the end see it, through the first kernel. Where the
        # channels are ordered, the later groups of that pixel's features hold its earlier channels.
        reach, last = everything_before(self.spec), self.spec.width - 1
        for c in range(last - self.config.first_kernel_size // 2):
            for r in range(1, self.spec.height):
                reach[r, c, self.num_groups - 1 :, r - 1, last] = False
        return reach
