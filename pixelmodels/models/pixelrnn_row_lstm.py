"""PixelRNN with Row LSTM layers (arXiv:1601.06759, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, even_groups
from pixelmodels.layers.recurrent import RowLSTM
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import CONTEXT_FEATURES, Features, PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, projection
from pixelmodels.models.reach import same_everywhere
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelRNNRowLSTMConfig:
    """Hyperparameters of `pixelrnn_row_lstm`; the paper's for CIFAR-10 are 12 layers of 128 with a head of 1024."""

    num_layers: int = 4  # LSTM layers
    num_features: int = 32  # h: hidden features of an LSTM; the stream has 2h
    first_kernel_size: int = 7  # of the first convolution (mask A), odd
    head_features: int = 64  # maps of the two 1x1 layers before the output
    dropout: float = 0.0  # of the LSTMs' inputs
    residual: bool = True  # add each layer's input to its output

    def __post_init__(self) -> None:
        check_config(self)


class _Block(nn.Module):
    """Input-to-state 1 x 3 (mask B) 2h -> 4h, LSTM h, 1x1 h -> 2h, residual (section 3.5 and figure 5)."""

    def __init__(self, config: PixelRNNRowLSTMConfig, num_groups: int, context_spec: ContextSpec):
        super().__init__()
        wide, narrow = even_groups(2 * config.num_features, num_groups), even_groups(config.num_features, num_groups)
        self.input_to_state = CausalConv(wide, narrow * 4, (1, 3), "B")
        self.lstm = RowLSTM(narrow, kernel=3)
        self.expand = CausalLinear(narrow, wide)
        self.dropout = nn.Dropout(config.dropout)
        self.condition = projection(context_spec, CONTEXT_FEATURES, 4 * config.num_features)
        self.residual = config.residual

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        x = self.dropout(h) if self.training else h
        y = run(self.expand, run(self.lstm, run(self.input_to_state, x)))
        return h + y if self.residual else y


class PixelRNNRowLSTM(PixelModel):
    """A mask-A convolution, Row LSTM layers that each see a triangle above, and a head of 1x1 layers."""

    config_class = PixelRNNRowLSTMConfig
    orders_channels = True

    def __init__(self, config: PixelRNNRowLSTMConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
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
        return {block.input_to_state: context[block.condition] for block in self._blocks() if block.condition is not None}

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = run(self.entry, x)
        for block in self._blocks():
            h = block.here(run, h)
        h = run(self.head1, torch.relu(h))
        h = run(self.head2, torch.relu(h))
        return run(self.output, torch.relu(h))

    def reach(self) -> Tensor:
        # A layer's state widens by one column to each side with each row; the first convolution starts it off.
        n, first = self.config.num_layers, self.config.first_kernel_size // 2

        def reaches(up: int, right: int) -> bool:
            return -(first + n + up) <= right <= (first + up - 1 if up else -1)

        return same_everywhere(self.spec, reaches)
