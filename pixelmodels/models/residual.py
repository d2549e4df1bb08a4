"""The frame that the three networks of arXiv:1601.06759 share: mask A, a stack of residual blocks, a head of 1x1 layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pixelmodels.layers.channel_groups import Grouped, Groups, even_groups
from pixelmodels.layers.convolution import CausalConv, CausalLinear
from pixelmodels.layers.dropout import Dropout
from pixelmodels.layers.wiring import Forward, PixelPass, TakeRow
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import ModelConfig, PixelModel
from pixelmodels.models.context import ContextSpec
from pixelmodels.models.context_encoder import projection
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelRNNConfig(ModelConfig):
    """Hyperparameters that both PixelRNNs have."""

    num_layers: int  # LSTM layers
    num_features: int = 32  # h: hidden features of an LSTM (of each direction); the stream has 2h
    first_kernel_size: int = 7  # of the first convolution (mask A), odd
    head_features: int = 64  # maps of the two 1x1 layers before the output
    dropout: float = 0.0  # of the LSTMs' inputs
    residual: bool = True  # add each layer's input to its output


class Block(nn.Module):
    """One block of the stack: layers on a stream of 2h features (`wide`) that give h (`narrow`), 1x1 h -> 2h, residual (figure 5)."""

    residual = True  # add its input to its output

    def __init__(self, config: Any, wide: Groups, narrow: Groups, context_spec: ContextSpec):
        super().__init__()
        layers = self.make(config, wide, narrow)
        self.expand = CausalLinear(narrow, wide)
        self.dropout = Dropout(config.dropout)
        self.condition = projection(context_spec, sum(len(layer.out_groups) for layer in layers), *layers)

    def make(self, config: Any, wide: Groups, narrow: Groups) -> tuple[Grouped, ...]:
        """Make the layers; returns those that add the context."""
        raise NotImplementedError

    def inside(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        """What the layers make of the stream."""
        raise NotImplementedError

    def here(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        """The stream after the block."""
        y = do(self.expand, self.inside(do, h))
        return h + y if self.residual else y


class ResidualNet(PixelModel):
    """A first convolution with mask A, blocks on a stream of 2h features, two 1x1 layers before the output (table 1).

    A subclass names the class of its blocks; their configs have the fields `num_layers`, `num_features` (h),
    `first_kernel_size` and `head_features`.
    """

    block_class: ClassVar[type[Block]]
    orders_channels = True

    def __init__(self, config: Any, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, context_spec)
        groups, first = self.num_groups, config.first_kernel_size
        stream: Groups = even_groups(2 * config.num_features, groups)
        hidden, head = even_groups(config.num_features, groups), even_groups(config.head_features, groups)
        self.entry = CausalConv(self.input_groups, stream, (first // 2 + 1, first), "A", reads_image=True)
        self.blocks = nn.ModuleList(self.block_class(config, stream, hidden, context_spec) for _ in range(config.num_layers))
        self.head1 = CausalLinear(stream, head)
        self.head2 = CausalLinear(head, head)
        self.output = CausalLinear(head, self.param_groups)

    def here(self, do: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = do.feature("entry", do(self.entry, x))
        for i, block in enumerate(self.blocks):
            h = do.feature(f"block{i}", cast(Block, block).here(do, h))
        h = do(self.head1, torch.relu(h))
        h = do(self.head2, torch.relu(h))
        return do(self.output, torch.relu(h))
