"""PixelCNN (arXiv:1601.06759): masked convolutions of one stream; it has the blind spot by design."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelmodels.layers.channel_groups import Grouped, Groups
from pixelmodels.layers.convolution import CausalConv, CausalLinear
from pixelmodels.layers.wiring import Forward, PixelPass, TakeRow
from pixelmodels.models.base import ModelConfig
from pixelmodels.models.reach import same_everywhere
from pixelmodels.models.residual import Block, ResidualNet


@dataclass(frozen=True)
class PixelCNNConfig(ModelConfig):
    """Hyperparameters of `pixelcnn`; the paper's are 15 layers of 128 with a head of 1024."""

    num_layers: int = 6  # residual blocks
    num_features: int = 32  # h: maps inside a block; the stream has 2h
    kernel_size: int = 3  # of the blocks' masked convolution, odd
    first_kernel_size: int = 7  # of the first convolution (mask A), odd
    head_features: int = 64  # maps of the two 1x1 layers before the output
    dropout: float = 0.0  # of the blocks' hidden maps


class _Block(Block):
    """1x1 2h -> h, masked convolution h -> h, 1x1 h -> 2h, and the residual connection (figure 5)."""

    def make(self, config: PixelCNNConfig, wide: Groups, narrow: Groups) -> tuple[Grouped, ...]:
        self.reduce = CausalLinear(wide, narrow)
        self.conv = CausalConv(narrow, narrow, (config.kernel_size // 2 + 1, config.kernel_size), "B")
        return (self.conv,)

    def inside(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        y = torch.relu(do(self.conv, torch.relu(do(self.reduce, torch.relu(h)))))
        return self.dropout(y) if self.training else y


class PixelCNN(ResidualNet):
    """A 7x7 mask-A convolution, residual blocks of mask-B convolutions, and a head of 1x1 layers."""

    config_class = PixelCNNConfig
    block_class = _Block

    def reach(self) -> Tensor:
        # Only the row above can widen to the right, one kernel's half a layer: the blind spot is beyond.
        n, first, half = self.config.num_layers, self.config.first_kernel_size // 2, self.config.kernel_size // 2

        def reaches(up: int, right: int) -> bool:
            if up == 0:
                return -(first + n * half) <= right < 0
            return up <= first + n * half and -(first + n * half) <= right <= first + half * min(n, up - 1)

        return same_everywhere(self.spec, reaches)
