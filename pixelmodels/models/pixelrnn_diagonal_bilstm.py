"""PixelRNN with Diagonal BiLSTM layers (arXiv:1601.06759, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, even_groups
from pixelmodels.layers.recurrent import DiagonalLSTM, ReversedDiagonalLSTM
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import CONTEXT_FEATURES, Features, PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, projection
from pixelmodels.models.reach import everything_before
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelRNNDiagonalBiLSTMConfig:
    """Hyperparameters of `pixelrnn_diagonal_bilstm`; the paper's for CIFAR-10 are 12 layers of 128, for MNIST 7 of 16."""

    num_layers: int = 3  # BiLSTM layers
    num_features: int = 32  # h: hidden features of each direction; the stream has 2h
    first_kernel_size: int = 7  # of the first convolution (mask A), odd
    head_features: int = 64  # maps of the two 1x1 layers before the output
    dropout: float = 0.0  # of the LSTMs' inputs
    residual: bool = True  # add each layer's input to its output

    def __post_init__(self) -> None:
        check_config(self)


class _Block(nn.Module):
    """For each direction 1x1 (mask B) 2h -> 4h and an LSTM; their sum, 1x1 h -> 2h, residual (figures 3 and 5)."""

    def __init__(self, config: PixelRNNDiagonalBiLSTMConfig, num_groups: int, context_spec: ContextSpec):
        super().__init__()
        wide, narrow = even_groups(2 * config.num_features, num_groups), even_groups(config.num_features, num_groups)
        self.to_left, self.to_right = CausalLinear(wide, narrow * 4), CausalLinear(wide, narrow * 4)
        self.left, self.right = DiagonalLSTM(narrow), ReversedDiagonalLSTM(narrow)
        self.expand = CausalLinear(narrow, wide)
        self.dropout = nn.Dropout(config.dropout)
        self.condition = projection(context_spec, CONTEXT_FEATURES, 8 * config.num_features)
        self.residual = config.residual

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        x = self.dropout(h) if self.training else h
        y = run(self.left, run(self.to_left, x)) + run(self.right, run(self.to_right, x))
        y = run(self.expand, y)
        return h + y if self.residual else y


class PixelRNNDiagonalBiLSTM(PixelModel):
    """A mask-A convolution, LSTM layers that scan the diagonals from both sides, and a head of 1x1 layers."""

    config_class = PixelRNNDiagonalBiLSTMConfig
    orders_channels = True

    def __init__(self, config: PixelRNNDiagonalBiLSTMConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, context_spec)
        groups, first = self.num_groups, config.first_kernel_size
        stream, head = even_groups(2 * config.num_features, groups), even_groups(config.head_features, groups)
        self.entry = CausalConv(self.input_groups, stream, (first // 2 + 1, first), "A", reads_image=True)
        self.blocks = nn.ModuleList(_Block(config, groups, context_spec) for _ in range(config.num_layers))
        self.head1 = CausalLinear(stream, head)
        self.head2 = CausalLinear(head, head)
        self.output = CausalLinear(head, self.param_groups)

    def _blocks(self) -> list[_Block]:
        return cast("list[_Block]", list(self.blocks))

    def above(self, run: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        extras: dict[Layer, Tensor] = {}
        for block in self._blocks():
            if block.condition is not None:
                extras[block.left], extras[block.right] = context[block.condition].chunk(2, -1)
        return extras

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = run(self.entry, x)
        for block in self._blocks():
            h = block.here(run, h)
        h = run(self.head1, torch.relu(h))
        h = run(self.head2, torch.relu(h))
        return run(self.output, torch.relu(h))

    def reach(self) -> Tensor:
        # Everything before a pixel but one: the last pixel of the row above is in none of that row's features (they
        # come before it), so only this row's features near the end see it, through the first kernel. Where the
        # channels are ordered, the later groups of that pixel's features hold its earlier channels.
        reach, last = everything_before(self.spec), self.spec.width - 1
        for c in range(last - self.config.first_kernel_size // 2):
            for r in range(1, self.spec.height):
                reach[r, c, self.num_groups - 1 :, r - 1, last] = False
        return reach
