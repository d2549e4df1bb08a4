"""PixelSNAIL (arXiv:1712.09763): causal convolutions and causal attention over all earlier pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.attention import CausalAttention
from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, one_group
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import CONTEXT_FEATURES, PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, Features, Given, PositionLinear, projection
from pixelmodels.models.reach import everything_before
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class PixelSNAILConfig:
    """Hyperparameters of `pixelsnail`; the paper's are 12 blocks of 4 residual layers with 256 features."""

    num_blocks: int = 2  # each: residual layers, then one attention
    num_layers: int = 2  # gated residual layers of a block
    num_features: int = 32  # of the stream
    key_features: int = 16  # of an attention's queries and keys
    value_features: int = 32  # of its values (the paper's 128)
    dropout: float = 0.0  # inside the residual layers

    def __post_init__(self) -> None:
        check_config(self)


class _Residual(nn.Module):
    """Gated residual layer: two convolutions up and to the left (`size` x `size`), the second gated; figure 3."""

    def __init__(self, model: PixelSNAIL, size: int, num_aside: int = 0):
        super().__init__()
        features = one_group(model.config.num_features)
        self.first = CausalConv(features, features, (size, size), "B", right=0)
        self.second = CausalConv(features, features + features, (size, size), "B", right=0)
        self.aside = CausalLinear(one_group(num_aside), features) if num_aside else None
        self.dropout = nn.Dropout(model.config.dropout)
        self.condition = projection(model.context_spec, CONTEXT_FEATURES, 2 * model.config.num_features)

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor, aside: Tensor | None = None) -> Tensor:
        y = run(self.first, F.elu(h))
        if self.aside is not None and aside is not None:
            y = y + run(self.aside, F.elu(aside))
        y = F.elu(y)
        if self.training:
            y = self.dropout(y)
        f, g = run(self.second, y).chunk(2, -1)
        return h + f * torch.sigmoid(g)


class _Block(nn.Module):
    """Residual layers, attention over all that comes before, and a 1x1 residual layer that takes it in (figure 2)."""

    def __init__(self, model: PixelSNAIL):
        super().__init__()
        config, features = model.config, one_group(model.config.num_features)
        self.residuals = nn.ModuleList(_Residual(model, 2) for _ in range(config.num_layers))
        self.place = CausalConv(features, features, (1, 1), "B")  # the coordinates join here
        self.attention = CausalAttention(config.num_features, len(model.input_groups), config.key_features, config.value_features)
        self.take = _Residual(model, 1, num_aside=config.value_features)
        self.coordinates = PositionLinear(2, config.num_features)

    def layers(self) -> list[_Residual]:
        return [*cast("list[_Residual]", list(self.residuals)), self.take]

    def here(self, run: Forward | PixelPass | TakeRow, h: Tensor) -> Tensor:
        for residual in self.layers()[:-1]:
            h = residual.here(run, h)
        return self.take.here(run, h, run(self.attention, F.elu(run(self.place, F.elu(h)))))


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

    def _blocks(self) -> list[_Block]:
        return cast("list[_Block]", list(self.blocks))

    def context_features(self, context: Given, batch: int, small_BHWC: Tensor | None = None) -> Features:
        rows, columns = (torch.linspace(-0.5, 0.5, size, device=self.device, dtype=self.dtype) for size in self.spec.shape[1:])
        map_1HW2 = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)[None]
        places: Features = {block.coordinates: block.coordinates(map_1HW2).expand(batch, -1, -1, -1) for block in self._blocks()}
        return super().context_features(context, batch, small_BHWC) | places

    def above(self, run: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        extras: dict[Layer, Tensor] = {block.place: context[block.coordinates] for block in self._blocks()}
        for block in self._blocks():
            extras |= {layer.second: context[layer.condition] for layer in block.layers() if layer.condition is not None}
        return extras

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        h = run.feature("entry", run(self.entry, x))
        for i, block in enumerate(self._blocks()):
            h = run.feature(f"block{i}", block.here(run, h))
        return run(self.output, F.elu(h))

    def reach(self) -> Tensor:
        return everything_before(self.spec)
