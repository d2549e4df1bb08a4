"""Gated PixelCNN (arXiv:1606.05328): a vertical and a horizontal stack, without a blind spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pixelmodels.layers.base import Layer
from pixelmodels.layers.channel_groups import even_groups
from pixelmodels.layers.convolution import CausalConv, CausalLinear, RowConv, RowLinear
from pixelmodels.layers.dropout import Dropout
from pixelmodels.layers.gate import gate, rectify
from pixelmodels.layers.wiring import Forward, PixelPass, RowPass, TakeRow
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import ModelConfig, PixelModel
from pixelmodels.models.context import ContextSpec
from pixelmodels.models.context_encoder import Features, projection
from pixelmodels.models.reach import same_everywhere
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class GatedPixelCNNConfig(ModelConfig):
    """Hyperparameters of `gated_pixelcnn`; the paper's large model has 20 layers of 384."""

    num_layers: int = 6  # gated layers after the first
    num_features: int = 32  # p: maps of each stack
    kernel_size: int = 3  # n, odd: n x n vertical (ceil(n/2) x n in use), 1 x n horizontal
    first_kernel_size: int = 7  # n of the first layer, odd
    head_features: int = 64  # maps of the 1x1 layer before the output
    dropout: float = 0.0  # of both stacks' inputs to a layer
    gating: bool = True  # eq. 2 after each convolution of 2p maps; else a rectifier after one of p maps


class _GatedLayer(nn.Module):
    """One layer of both stacks (figure 2), or the first one: mask A, and no residual connection."""

    def __init__(self, model: GatedPixelCNN, *, first: bool):
        super().__init__()
        config, p = model.config, model.config.num_features
        features = even_groups(p, model.num_groups)
        n = config.first_kernel_size if first else config.kernel_size
        inputs = model.input_groups if first else features
        maps = 2 if config.gating else 1  # for each feature
        self.activation = gate if config.gating else rectify
        self.vertical = RowConv(len(inputs), maps * p, (n // 2 + 1, n))
        self.link = RowLinear(maps * p, maps * p)
        self.horizontal = CausalConv(inputs, maps * features, (1, n), "A" if first else "B", reads_image=first)
        self.mix = CausalLinear(features, features)
        self.dropout_v, self.dropout_h = Dropout(config.dropout), Dropout(config.dropout)
        self.condition = projection(model.context_spec, 2 * maps * p)
        self.first = first

    def above(self, do: Forward | RowPass, v: Tensor, context: Features) -> tuple[Tensor, Tensor]:
        """The vertical stack's features after this layer, and what the horizontal stack takes of them."""
        if self.training and not self.first:
            v = self.dropout_v(v)
        v = do.above(self.vertical, v)
        link = do.above(self.link, v)
        if self.condition is not None:
            for_v, for_h = context[self.condition].chunk(2, -1)
            v, link = v + for_v, link + for_h
        return self.activation(v), link

    def here(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        if self.first:
            return do(self.mix, self.activation(do(self.horizontal, h)))
        dropped = self.dropout_h(h) if self.training else h
        return h + do(self.mix, self.activation(do(self.horizontal, dropped)))


class GatedPixelCNN(PixelModel):
    """Gated layers of two stacks and a head of 1x1 layers on the horizontal one."""

    config_class = GatedPixelCNNConfig
    orders_channels = True

    def __init__(self, config: GatedPixelCNNConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, context_spec)
        self.gated = nn.ModuleList(_GatedLayer(self, first=i == 0) for i in range(config.num_layers + 1))
        features, head = even_groups(config.num_features, self.num_groups), even_groups(config.head_features, self.num_groups)
        self.head = CausalLinear(features, head)
        self.output = CausalLinear(head, self.param_groups)

    def _layers(self) -> list[_GatedLayer]:
        return cast("list[_GatedLayer]", list(self.gated))

    def above(self, do: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        links: dict[Layer, Tensor] = {}
        v = x
        for layer in self._layers():
            v, links[layer.horizontal] = layer.above(do, v, context)
        return links

    def here(self, do: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = x
        for i, layer in enumerate(self._layers()):
            h = do.feature(f"block{i - 1}" if i else "entry", layer.here(do, h))
        h = do(self.head, torch.relu(h))
        return do(self.output, torch.relu(h))

    def reach(self) -> Tensor:
        n, first, half = self.config.num_layers, self.config.first_kernel_size // 2, self.config.kernel_size // 2
        side, top = first + n * half, first + 1 + n * half

        def reaches(up: int, right: int) -> bool:
            return -side <= right < 0 if up == 0 else up <= top and abs(right) <= side

        return same_everywhere(self.spec, reaches)
