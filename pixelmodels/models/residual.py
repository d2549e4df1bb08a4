"""The frame that the three networks of arXiv:1601.06759 share: mask A, a stack of residual blocks, a head of 1x1 layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, Groups, even_groups
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, Features
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelRNNConfig:
    """Hyperparameters that both PixelRNNs have."""

    num_layers: int  # LSTM layers
    num_features: int = 32  # h: hidden features of an LSTM (of each direction); the stream has 2h
    first_kernel_size: int = 7  # of the first convolution (mask A), odd
    head_features: int = 64  # maps of the two 1x1 layers before the output
    dropout: float = 0.0  # of the LSTMs' inputs
    residual: bool = True  # add each layer's input to its output

    def __post_init__(self) -> None:
        check_config(self)


class Block(Protocol):
    """One block of the stack, on a stream of 2h features."""

    def extras(self, context: Features) -> dict[Layer, Tensor]:
        """What its layers add of the context."""
        ...

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        """The stream after the block."""
        ...


class ResidualNet(PixelModel):
    """A first convolution with mask A, blocks on a stream of 2h features, two 1x1 layers before the output (table 1).

    A subclass names the class of its blocks; their configs have the fields `num_layers`, `num_features` (h),
    `first_kernel_size` and `head_features`.
    """

    block_class: ClassVar[type[nn.Module]]  # made with (config, groups of the stream, groups of h features, context spec)
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

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def above(self, run: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        return {layer: extra for block in self._blocks() for layer, extra in block.extras(context).items()}

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = run.feature("entry", run(self.entry, x))
        for i, block in enumerate(self._blocks()):
            h = run.feature(f"block{i}", block.here(run, h))
        h = run(self.head1, torch.relu(h))
        h = run(self.head2, torch.relu(h))
        return run(self.output, torch.relu(h))
