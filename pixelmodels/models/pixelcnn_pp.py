"""PixelCNN++ (arXiv:1701.05517): gated residual layers at three resolutions, with short-cuts between the ways down and up.

Two streams: `u` sees the rows above (a row stream), `ul` the pixels above and to the left (a pixel stream). The
network goes down to a quarter of the resolution and up again; each layer on the way up takes in what the layer at
its place on the way down gave. Layers correspond one to one to those of public ports (`pixelcnn_pp_port`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pixelmodels.errors import UserError
from pixelmodels.layers.base import Layer
from pixelmodels.layers.channel_groups import one_group
from pixelmodels.layers.convolution import CausalConv, CausalLinear, RowConv, RowLinear
from pixelmodels.layers.dropout import Dropout
from pixelmodels.layers.elu import concat_elu, elu
from pixelmodels.layers.pixelcnn_pp import LeftColumnConv, SplitLinear
from pixelmodels.layers.strided import PixelGrowConv, PixelShrinkConv, RowGrowConv, RowShrinkConv
from pixelmodels.layers.weight_norm import initializing, normed
from pixelmodels.layers.wiring import Forward, PixelPass, RowPass, TakeRow
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import ModelConfig, PixelModel
from pixelmodels.models.context import ContextSpec, Given
from pixelmodels.models.context_encoder import Features, PositionLinear, added_of, projection
from pixelmodels.models.pixelcnn_pp_reach import Reach
from pixelmodels.shapes import ImageSpec

L = TypeVar("L", bound=Layer)

NUM_LEVELS = 3
RESIDUAL_SCALE = 0.1  # standard deviation that residual layers begin with, before their gate


@dataclass(frozen=True)
class PixelCNNPPConfig(ModelConfig):
    """Hyperparameters of `pixelcnn_pp`; the paper's for CIFAR-10 are 160 features and 5 layers a level, dropout 0.5."""

    num_layers: int = 2  # gated residual layers of each level on the way down; one more on the way up at the finer levels
    num_features: int = 32  # maps of each stream
    dropout: float = 0.0  # inside the residual layers
    shortcuts: bool = True  # from each layer on the way down to the one at its place on the way up
    weight_norm: bool = True  # weights as directions and gains, which the first images set; else plain weights


class _Stream:
    """Features of a stream, and what `concat_elu` makes of them: once, however many layers read it.

    Layers are given both, so that one whose activations are computed anew finds what it found.
    """

    def __init__(self, h: Tensor):
        self.h = h
        self._active: Tensor | None = None

    @property
    def active(self) -> Tensor:
        if self._active is None:
            self._active = concat_elu(self.h)
        return self._active


class _AboveLayer(nn.Module):
    """Gated residual layer of the row stream; on the way up it takes in the row stream's short-cut."""

    def __init__(self, model: PixelCNNPP, *, has_skip: bool):
        super().__init__()
        p = model.config.num_features
        self.conv_input = model.normed(RowConv(2 * p, p, (2, 3)))
        self.nin_skip = model.normed(RowLinear(2 * p, p)) if has_skip else None
        self.conv_out = model.normed(RowConv(2 * p, 2 * p, (2, 3)))
        self.dropout = Dropout(model.config.dropout)
        self.condition = projection(model.context_spec, 2 * p)

    def above(self, do: Forward | RowPass, u: Tensor, active: Tensor, skip: Tensor | None, context: Features) -> Tensor:
        y = do.above(self.conv_input, active)
        if self.nin_skip is not None and skip is not None:
            y = y + do.above(self.nin_skip, skip)
        y = concat_elu(y)
        if self.training:
            y = self.dropout(y)
        y = do.above(self.conv_out, y)
        return u + F.glu(y if self.condition is None else y + context[self.condition])


class _HereLayer(nn.Module):
    """Gated residual layer of the pixel stream; it takes in the row stream, and on the way up its own short-cut."""

    def __init__(self, model: PixelCNNPP, *, has_skip: bool):
        super().__init__()
        p = model.config.num_features
        wide = one_group(2 * p)
        self.conv_input = model.normed(CausalConv(wide, one_group(p), (2, 2), "B", right=0))
        self.nin_skip = model.normed(SplitLinear(p, p) if has_skip else RowLinear(2 * p, p))
        self.conv_out = model.normed(CausalConv(wide, wide, (2, 2), "B", right=0))
        self.dropout = Dropout(model.config.dropout)
        self.condition = projection(model.context_spec, 2 * p, self.conv_out)

    def above(self, do: Forward | RowPass, active: Tensor) -> Tensor:
        """What `conv_input` takes of the row stream."""
        return do.above(self.nin_skip.from_above if isinstance(self.nin_skip, SplitLinear) else self.nin_skip, active)

    def here(self, do: Forward | PixelPass | TakeRow, ul: Tensor, active: Tensor, skip: Tensor | None) -> Tensor:
        y = do(self.conv_input, active)
        if isinstance(self.nin_skip, SplitLinear) and skip is not None:
            y = y + do(self.nin_skip, skip)
        y = concat_elu(y)
        if self.training:
            y = self.dropout(y)
        return ul + F.glu(do(self.conv_out, y))


class _Level(nn.Module):
    """One resolution: layers on the way down, the next level between strides of two, layers on the way up."""

    def __init__(self, model: PixelCNNPP, index: int):
        super().__init__()
        self.index = index  # the features of this level are at 1/2^index of the resolution
        p, resolution, num_down = model.config.num_features, 2**index, model.config.num_layers
        num_up = num_down + (index < NUM_LEVELS - 1)
        self.down_u = nn.ModuleList(_AboveLayer(model, has_skip=False) for _ in range(num_down))
        self.down_ul = nn.ModuleList(_HereLayer(model, has_skip=False) for _ in range(num_down))
        self.up_u = nn.ModuleList(_AboveLayer(model, has_skip=model.config.shortcuts) for _ in range(num_up))
        self.up_ul = nn.ModuleList(_HereLayer(model, has_skip=model.config.shortcuts) for _ in range(num_up))
        self.inner: _Level | None = None
        if index < NUM_LEVELS - 1:
            self.shrink_u, self.shrink_ul = model.normed(RowShrinkConv(p, p)), model.normed(PixelShrinkConv(p, p))
            self.grow_u, self.grow_ul = model.normed(RowGrowConv(p, p)), model.normed(PixelGrowConv(p, p))
        for module in self.modules():
            if isinstance(module, Layer | PositionLinear):
                module.resolution = resolution
        if index < NUM_LEVELS - 1:
            self.inner = _Level(model, index + 1)

    def above(self, do: Forward | RowPass, u_init: Tensor, context: Features, extras: dict[Layer, Tensor]) -> Tensor:
        u = _Stream(u_init)
        shortcuts = [u]
        for layer, other in zip(self.down_u, self.down_ul, strict=True):
            u = _Stream(cast(_AboveLayer, layer).above(do, u.h, u.active, None, context))
            extras[cast(_HereLayer, other).conv_input] = cast(_HereLayer, other).above(do, u.active)
            shortcuts.append(u)
        inner = self.inner
        if inner is None:
            shortcuts.pop()
        else:
            u = _Stream(do.strided(self.shrink_u, self.grow_u, lambda y: inner.above(do, y, context, extras), u.h))
        for layer, other in zip(self.up_u, self.up_ul, strict=True):
            u = _Stream(cast(_AboveLayer, layer).above(do, u.h, u.active, shortcuts.pop().active, context))
            extras[cast(_HereLayer, other).conv_input] = cast(_HereLayer, other).above(do, u.active)
        return u.h

    def here(self, do: Forward | PixelPass | TakeRow, ul_init: Tensor) -> Tensor:
        ul = _Stream(ul_init)
        shortcuts = [ul]
        for i, layer in enumerate(self.down_ul):
            ul = _Stream(do.feature(f"level{self.index}.down{i}", cast(_HereLayer, layer).here(do, ul.h, ul.active, None)))
            shortcuts.append(ul)
        if self.inner is None:
            shortcuts.pop()
        else:
            ul = _Stream(do.strided(self.shrink_ul, self.grow_ul, lambda y: cast(_Level, self.inner).here(do, y), ul.h))
        for i, layer in enumerate(self.up_ul):
            ul = _Stream(do.feature(f"level{self.index}.up{i}", cast(_HereLayer, layer).here(do, ul.h, ul.active, shortcuts.pop().active)))
        return ul.h


class PixelCNNPP(PixelModel):
    """Two streams at three resolutions; the likelihood, by habit a mixture of logistics, orders the channels."""

    config_class = PixelCNNPPConfig
    orders_channels = False
    period = 2 ** (NUM_LEVELS - 1)

    def __init__(self, config: PixelCNNPPConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, context_spec)
        p, num_in = config.num_features, len(self.input_groups)
        self.u_init = self.normed(RowConv(num_in, p, (2, 3)))
        self.ul_init_above = self.normed(RowConv(num_in, p, (1, 3)))
        self.ul_init_left = self.normed(LeftColumnConv(num_in, p))
        self.level = _Level(self, 0)
        self.output = self.normed(CausalLinear(one_group(p), self.param_groups))

    def above(self, do: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        # above row 0 there is nothing: its outputs are zeros, without the bias (the channel of ones is 0 there)
        seen = x[..., -1:]
        extras = {self.ul_init_left: do.above(self.ul_init_above, x) * seen, **added_of(context)}
        self.level.above(do, do.above(self.u_init, x) * seen, context, extras)
        return extras

    def here(self, do: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        ul = do.feature("entry", do(self.ul_init_left, x))
        return do(self.output, elu(self.level.here(do, ul)))

    def normed(self, layer: L) -> L:
        """`layer`, its weight normalized where the config says so."""
        return normed(layer) if self.config.weight_norm else layer

    @torch.no_grad()
    def initialize(self, x_BCHW: Tensor, context: Given = None) -> None:
        """See `PixelModel`: every layer's output has mean 0 and standard deviation 1 (0.1 at the end of a residual layer).

        Plain weights stay as they are.
        """
        self.spec.check_values(x_BCHW)
        if not len(x_BCHW):
            raise UserError("0 images given to initialize from; give a batch of training images")
        if not self.config.weight_norm:
            return
        scales = {layer: 1.0 for layer in self.layers() if is_parametrized(layer)}
        scales |= {module.conv_out: RESIDUAL_SCALE for module in self.modules() if isinstance(module, (_AboveLayer, _HereLayer))}
        training = self.training
        self.eval()  # without dropout: a function of weights and images
        try:
            with initializing(scales):
                self(x_BCHW, context)
        finally:
            self.train(training)

    def reach(self) -> Tensor:
        # Every layer's kernel reaches as far as its resolution is coarse: on booleans, as the layers are wired.
        return Reach(NUM_LEVELS, self.config.num_layers, self.config.shortcuts).of_output(self.spec)
