"""PixelSNAIL (arXiv:1712.09763): causal convolutions and causal attention over all earlier pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.attention import CausalAttention
from pixelmodels.layers.channel_groups import one_group
from pixelmodels.layers.convolution import CausalConv, CausalLinear
from pixelmodels.layers.dropout import Dropout
from pixelmodels.layers.elu import elu
from pixelmodels.layers.wiring import Forward, PixelPass, TakeRow
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import ModelConfig, PixelModel
from pixelmodels.models.context import ContextSpec, Given
from pixelmodels.models.context_encoder import Features, PositionLinear, projection
from pixelmodels.models.reach import everything_before
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelSNAILConfig(ModelConfig):
    """Hyperparameters of `pixelsnail`; the paper's are 12 blocks of 4 residual layers with 256 features."""

    num_blocks: int = 2  # each: residual layers, then one attention
    num_layers: int = 2  # gated residual layers of a block
    num_features: int = 32  # of the stream
    key_features: int = 16  # of an attention's queries and keys
    value_features: int = 32  # of its values (the paper's 128)
    dropout: float = 0.0  # inside the residual layers


class _Residual(nn.Module):
    """Gated residual layer: two convolutions up and to the left (`size` x `size`), the second gated; figure 3."""

    def __init__(self, model: PixelSNAIL, size: int, num_aside: int = 0):
        super().__init__()
        features = one_group(model.config.num_features)
        self.first = CausalConv(features, features, (size, size), "B", right=0)
        self.second = CausalConv(features, features + features, (size, size), "B", right=0)
        self.aside = CausalLinear(one_group(num_aside), features) if num_aside else None
        self.dropout = Dropout(model.config.dropout)
        self.condition = projection(model.context_spec, 2 * model.config.num_features, self.second)

    def here(self, do: Forward | PixelPass | TakeRow, h: Tensor, active: Tensor, aside: Tensor | None = None) -> Tensor:
        """Args: `active`, elu of `h`."""
        y = do(self.first, active)
        if self.aside is not None and aside is not None:
            y = y + do(self.aside, elu(aside))
        y = elu(y)
        if self.training:
            y = self.dropout(y)
        return h + F.glu(do(self.second, y))


class _Block(nn.Module):
    """Residual layers, attention over all that comes before, and a 1x1 residual layer that takes it in (figure 2)."""

    def __init__(self, model: PixelSNAIL):
        super().__init__()
        config, features = model.config, one_group(model.config.num_features)
        self.residuals = nn.ModuleList(_Residual(model, 2) for _ in range(config.num_layers))
        self.place = CausalConv(features, features, (1, 1), "B")  # the coordinates join here
        self.attention = CausalAttention(config.num_features, len(model.input_groups), config.key_features, config.value_features)
        self.take = _Residual(model, 1, num_aside=config.value_features)
        self.coordinates = PositionLinear(2, config.num_features, self.place)

    def here(self, do: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        for residual in self.residuals:
            h = cast(_Residual, residual).here(do, h, elu(h))
        active = elu(h)
        return self.take.here(do, h, active, do(self.attention, elu(do(self.place, active))))


class PixelSNAIL(PixelModel):
    """Blocks of convolutions and attention; every output depends on every earlier pixel."""

    config_class = PixelSNAILConfig
    orders_channels = False

    def __init__(self, config: PixelSNAILConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, context_spec)
        features = one_group(config.num_features)
        self.entry = CausalConv(self.input_groups, features, (2, 3), "A", reads_image=True)
        self.blocks = nn.ModuleList(_Block(self) for _ in range(config.num_blocks))
        self.output = CausalLinear(features, self.param_groups)

    def context_features(self, context: Given, batch: int, small_BHWC: Tensor | None = None) -> Features:
        rows, columns = (torch.linspace(-0.5, 0.5, size, device=self.device, dtype=self.dtype) for size in self.spec.shape[1:])
        map_1HW2 = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)[None]
        coordinates = (cast(_Block, block).coordinates for block in self.blocks)
        places: Features = {linear: linear(map_1HW2).expand(batch, -1, -1, -1) for linear in coordinates}
        return super().context_features(context, batch, small_BHWC) | places

    def here(self, do: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = do.feature("entry", do(self.entry, x))
        for i, block in enumerate(self.blocks):
            h = do.feature(f"block{i}", cast(_Block, block).here(do, h))
        return do(self.output, elu(h))

    def reach(self) -> Tensor:
        return everything_before(self.spec)
