"""PixelRNN with Diagonal BiLSTM layers (arXiv:1601.06759, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pixelmodels.layers.channel_groups import Grouped, Groups
from pixelmodels.layers.convolution import CausalLinear
from pixelmodels.layers.recurrent import DiagonalLSTM, ReversedDiagonalLSTM
from pixelmodels.layers.wiring import Forward, PixelPass, TakeRow
from pixelmodels.models.reach import everything_before
from pixelmodels.models.residual import Block, PixelRNNConfig, ResidualNet


@dataclass(frozen=True)
class PixelRNNDiagonalBiLSTMConfig(PixelRNNConfig):
    """Hyperparameters of `pixelrnn_diagonal_bilstm`; the paper's for CIFAR-10 are 12 layers of 128, for MNIST 7 of 16."""

    num_layers: int = 3  # BiLSTM layers


class _Block(Block):
    """For each direction 1x1 (mask B) 2h -> 4h and an LSTM; their sum, 1x1 h -> 2h, residual (figures 3 and 5)."""

    def make(self, config: PixelRNNDiagonalBiLSTMConfig, wide: Groups, narrow: Groups) -> tuple[Grouped, ...]:
        self.residual = config.residual
        self.to_left, self.to_right = CausalLinear(wide, narrow * 4), CausalLinear(wide, narrow * 4)
        self.left, self.right = DiagonalLSTM(narrow), ReversedDiagonalLSTM(narrow)
        return (self.left, self.right)

    def inside(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        x = self.dropout(h) if self.training else h
        return do(self.left, do(self.to_left, x)) + do(self.right, do(self.to_right, x))


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
