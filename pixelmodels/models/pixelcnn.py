"""PixelCNN (arXiv:1601.06759): masked convolutions of one stream; it has the blind spot by design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, even_groups
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import CONTEXT_FEATURES, Features, PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, projection
from pixelmodels.models.reach import same_everywhere
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelCNNConfig:
    """Hyperparameters of `pixelcnn`; the paper's are 15 layers of 128 with a head of 1024."""

    num_layers: int = 6  # residual blocks
    num_features: int = 32  # h: maps inside a block; the stream has 2h
    kernel_size: int = 3  # of the blocks' masked convolution, odd
    first_kernel_size: int = 7  # of the first convolution (mask A), odd
    head_features: int = 64  # maps of the two 1x1 layers before the output
    dropout: float = 0.0  # of the blocks' hidden maps

    def __post_init__(self) -> None:
        check_config(self)


class _Block(nn.Module):
    """1x1 2h -> h, masked convolution h -> h, 1x1 h -> 2h, and the residual connection (figure 5)."""

    def __init__(self, config: PixelCNNConfig, num_groups: int, context_spec: ContextSpec):
        super().__init__()
        wide, narrow = even_groups(2 * config.num_features, num_groups), even_groups(config.num_features, num_groups)
        self.reduce = CausalLinear(wide, narrow)
        self.conv = CausalConv(narrow, narrow, (config.kernel_size // 2 + 1, config.kernel_size), "B")
        self.expand = CausalLinear(narrow, wide)
        self.dropout = nn.Dropout(config.dropout)
        self.condition = projection(context_spec, CONTEXT_FEATURES, config.num_features)

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        y = torch.relu(run(self.conv, torch.relu(run(self.reduce, torch.relu(h)))))
        if self.training:
            y = self.dropout(y)
        return h + run(self.expand, y)


class PixelCNN(PixelModel):
    """A 7x7 mask-A convolution, residual blocks of mask-B convolutions, and a head of 1x1 layers."""

    config_class = PixelCNNConfig
    orders_channels = True

    def __init__(self, config: PixelCNNConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
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
        return {block.conv: context[block.condition] for block in self._blocks() if block.condition is not None}

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = run(self.entry, x)
        for block in self._blocks():
            h = block.here(run, h)
        h = run(self.head1, torch.relu(h))
        h = run(self.head2, torch.relu(h))
        return run(self.output, torch.relu(h))

    def reach(self) -> Tensor:
        # Only the row above can widen to the right, one kernel's half a layer: the blind spot is beyond.
        n, first, half = self.config.num_layers, self.config.first_kernel_size // 2, self.config.kernel_size // 2

        def reaches(up: int, right: int) -> bool:
            if up == 0:
                return -(first + n * half) <= right < 0
            return up <= first + n * half and -(first + n * half) <= right <= first + half * min(n, up - 1)

        return same_everywhere(self.spec, reaches)
