"""PixelRNN with Row LSTM layers (arXiv:1601.06759, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pixelmodels.layers.channel_groups import Grouped, Groups
from pixelmodels.layers.convolution import CausalConv
from pixelmodels.layers.recurrent import RowLSTM
from pixelmodels.layers.wiring import Forward, PixelPass, TakeRow
from pixelmodels.models.reach import same_everywhere
from pixelmodels.models.residual import Block, PixelRNNConfig, ResidualNet


@dataclass(frozen=True)
class PixelRNNRowLSTMConfig(PixelRNNConfig):
    """Hyperparameters of `pixelrnn_row_lstm`; the paper's for CIFAR-10 are 12 layers of 128 with a head of 1024."""

    num_layers: int = 4  # LSTM layers


class _Block(Block):
    """Input-to-state 1 x 3 (mask B) 2h -> 4h, LSTM h, 1x1 h -> 2h, residual (section 3.5 and figure 5)."""

    def make(self, config: PixelRNNRowLSTMConfig, wide: Groups, narrow: Groups) -> tuple[Grouped, ...]:
        self.residual = config.residual
        self.input_to_state = CausalConv(wide, narrow * 4, (1, 3), "B")
        self.lstm = RowLSTM(narrow, kernel=3)
        return (self.input_to_state,)

    def inside(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        x = self.dropout(h) if self.training else h
        return do(self.lstm, do(self.input_to_state, x))


class PixelRNNRowLSTM(ResidualNet):
    """A mask-A convolution, Row LSTM layers that each see a triangle above, and a head of 1x1 layers."""

    config_class = PixelRNNRowLSTMConfig
    block_class = _Block

    def reach(self) -> Tensor:
        # A layer's state widens by one column to each side with each row; the first convolution starts it off.
        n, first = self.config.num_layers, self.config.first_kernel_size // 2

        def reaches(up: int, right: int) -> bool:
            return -(first + n + up) <= right <= (first + up - 1 if up else -1)

        return same_everywhere(self.spec, reaches)
