"""PixelCNN++ (arXiv:1701.05517): gated residual layers at three resolutions, with short-cuts between the ways down and up.

Two streams: `u` sees the rows above (a row stream), `ul` the pixels above and to the left (a pixel stream). The
network goes down to a quarter of the resolution and up again; each layer on the way up takes in what the layer at
its place on the way down gave. Layers correspond one to one to those of public ports (`from_port`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.utils.parametrize import is_parametrized

from pixelmodels.errors import UserError
from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, Strided, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, RowConv, RowLinear, one_group
from pixelmodels.layers.pixelcnn_pp import LeftColumnConv, SplitLinear
from pixelmodels.layers.strided import PixelGrowConv, PixelShrinkConv, RowGrowConv, RowShrinkConv
from pixelmodels.layers.weight_norm import initializing, normed
from pixelmodels.likelihoods import Likelihood, LikelihoodConfig, build_likelihood
from pixelmodels.models.base import CONTEXT_FEATURES, PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, Features, Given, PositionLinear, projection
from pixelmodels.models.pixelcnn_pp_reach import Reach
from pixelmodels.shapes import ImageSpec

L = TypeVar("L", bound=Layer)

NUM_LEVELS = 3
RESIDUAL_SCALE = 0.1  # standard deviation that residual layers begin with, before their gate


@dataclass(frozen=True)
class PixelCNNPPConfig:
    """Hyperparameters of `pixelcnn_pp`; the paper's for CIFAR-10 are 160 features and 5 layers a level, dropout 0.5."""

    num_layers: int = 2  # gated residual layers of each level on the way down; one more on the way up at the finer levels
    num_features: int = 32  # maps of each stream
    dropout: float = 0.0  # inside the residual layers
    shortcuts: bool = True  # from each layer on the way down to the one at its place on the way up
    weight_norm: bool = True  # weights as directions and gains, which the first images set; else plain weights

    def __post_init__(self) -> None:
        check_config(self)


def concat_elu(x: Tensor) -> Tensor:
    """elu of [x, -x] along the features."""
    return F.elu(torch.cat([x, -x], -1))


class _AboveLayer(nn.Module):
    """Gated residual layer of the row stream; on the way up it takes in the row stream's short-cut."""

    def __init__(self, model: PixelCNNPP, *, has_skip: bool):
        super().__init__()
        p = model.config.num_features
        self.conv_input = model.normed(RowConv(2 * p, p, (2, 3)))
        self.nin_skip = model.normed(RowLinear(2 * p, p)) if has_skip else None
        self.conv_out = model.normed(RowConv(2 * p, 2 * p, (2, 3)))
        self.dropout = nn.Dropout(model.config.dropout)
        self.condition = projection(model.context_spec, CONTEXT_FEATURES, 2 * p)

    def above(self, run: Forward | RowPass, u: Tensor, skip: Tensor | None, context: Features) -> Tensor:
        y = run.above(self.conv_input, concat_elu(u))
        if self.nin_skip is not None and skip is not None:
            y = y + run.above(self.nin_skip, concat_elu(skip))
        y = concat_elu(y)
        if self.training:
            y = self.dropout(y)
        y = run.above(self.conv_out, y)
        f, g = (y if self.condition is None else y + context[self.condition]).chunk(2, -1)
        return u + f * torch.sigmoid(g)


class _HereLayer(nn.Module):
    """Gated residual layer of the pixel stream; it takes in the row stream, and on the way up its own short-cut."""

    def __init__(self, model: PixelCNNPP, *, has_skip: bool):
        super().__init__()
        p = model.config.num_features
        wide = one_group(2 * p)
        self.conv_input = model.normed(CausalConv(wide, one_group(p), (2, 2), "B", right=0))
        self.nin_skip = model.normed(SplitLinear(p, p) if has_skip else RowLinear(2 * p, p))
        self.conv_out = model.normed(CausalConv(wide, wide, (2, 2), "B", right=0))
        self.dropout = nn.Dropout(model.config.dropout)
        self.condition = projection(model.context_spec, CONTEXT_FEATURES, 2 * p)

    def above(self, run: Forward | RowPass, u: Tensor, context: Features) -> dict[Layer, Tensor]:
        """What the layer takes of the row stream and of the context."""
        skip = self.nin_skip.from_above if isinstance(self.nin_skip, SplitLinear) else self.nin_skip
        extras: dict[Layer, Tensor] = {self.conv_input: run.above(skip, concat_elu(u))}
        if self.condition is not None:
            extras[self.conv_out] = context[self.condition]
        return extras

    def here(self, run: Forward | PixelPass | TakeRow, ul: Tensor, skip: Tensor | None) -> Tensor:
        y = run(self.conv_input, concat_elu(ul))
        if isinstance(self.nin_skip, SplitLinear) and skip is not None:
            y = y + run(self.nin_skip, concat_elu(skip))
        y = concat_elu(y)
        if self.training:
            y = self.dropout(y)
        f, g = run(self.conv_out, y).chunk(2, -1)
        return ul + f * torch.sigmoid(g)


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

    def above(self, run: Forward | RowPass, u: Tensor, context: Features, extras: dict[Layer, Tensor]) -> Tensor:
        shortcuts = [u]
        for layer, other in zip(self.down_u, self.down_ul, strict=True):
            u = cast(_AboveLayer, layer).above(run, u, None, context)
            extras |= cast(_HereLayer, other).above(run, u, context)
            shortcuts.append(u)
        inner = self.inner
        if inner is None:
            u = shortcuts.pop()
        else:
            pair = Strided(self.shrink_u, self.grow_u)
            u = run.strided(pair, lambda y: inner.above(run, y, context, extras), u)
        for layer, other in zip(self.up_u, self.up_ul, strict=True):
            u = cast(_AboveLayer, layer).above(run, u, shortcuts.pop(), context)
            extras |= cast(_HereLayer, other).above(run, u, context)
        return u

    def here(self, run: Forward | PixelPass | TakeRow, ul: Tensor) -> Tensor:
        shortcuts = [ul]
        for i, layer in enumerate(self.down_ul):
            ul = run.feature(f"level{self.index}.down{i}", cast(_HereLayer, layer).here(run, ul, None))
            shortcuts.append(ul)
        if self.inner is None:
            ul = shortcuts.pop()
        else:
            ul = run.strided(Strided(self.shrink_ul, self.grow_ul), lambda y: cast(_Level, self.inner).here(run, y), ul)
        for i, layer in enumerate(self.up_ul):
            ul = run.feature(f"level{self.index}.up{i}", cast(_HereLayer, layer).here(run, ul, shortcuts.pop()))
        return ul


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

    def above(self, run: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        # above row 0 there is nothing: its outputs are zeros, without the bias (the channel of ones is 0 there)
        seen = x[..., -1:]
        extras: dict[Layer, Tensor] = {self.ul_init_left: run.above(self.ul_init_above, x) * seen}
        self.level.above(run, run.above(self.u_init, x) * seen, context, extras)
        return extras

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        ul = run.feature("entry", run(self.ul_init_left, x))
        return run(self.output, F.elu(self.level.here(run, ul)))

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
        return Reach(self).of_output()


def from_port(state_dict: Mapping[str, Tensor], *, channels: int, height: int, width: int) -> PixelCNNPP:
    """The model whose weights a public PyTorch port of PixelCNN++ saved (256 levels), in the type of its weights.

    Raises `UserError` where the names or shapes are not those of such a port.
    """
    try:
        num_outputs, num_features = state_dict["nin_out.lin_a.weight_v"].shape
    except (KeyError, ValueError) as error:
        raise UserError(
            "the weights have no matrix 'nin_out.lin_a.weight_v'; give the state_dict of a PixelCNN++ port, with weight_g and weight_v and "
            "without a prefix such as 'module.'"
        ) from error
    num_layers = len({name.split(".")[3] for name in state_dict if name.startswith("up_layers.0.u_stream.")})
    num_mixtures = num_outputs // (3 if channels == 1 else 1 + 3 * channels)
    spec = ImageSpec(channels, height, width, 256)
    likelihood = build_likelihood(LikelihoodConfig("discretized_logistic_mixture", num_mixtures), spec)
    model = PixelCNNPP(PixelCNNPPConfig(num_layers, num_features), spec, likelihood, ContextSpec())
    names = port_names(num_layers)
    strange = set(state_dict) ^ set(names)
    if strange:
        raise UserError(
            f"'{min(strange)}' is in only one of port and model; give the weights of a PixelCNN++ port with {channels} channel(s)"
        )
    model = model.to(state_dict["nin_out.lin_a.weight_v"].dtype)
    try:
        model.load_state_dict({names[name]: value for name, value in _gains_by_output(state_dict).items()})
    except (RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"the port's weights do not fit: {str(error).splitlines()[-1].strip()}") from error
    return model.eval()


def _gains_by_output(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the gains of transposed convolutions along their outputs, which the port has along their inputs."""
    state = dict(state_dict)
    for name in state_dict:
        if name.endswith("deconv.weight_g"):
            direction_IOHW = state_dict[name[:-1] + "v"]
            weight_IOHW = direction_IOHW * (state_dict[name] / vector_norm(direction_IOHW, dim=(1, 2, 3), keepdim=True))
            state[name], state[name[:-1] + "v"] = vector_norm(weight_IOHW, dim=(0, 2, 3), keepdim=True), weight_IOHW
    return state


def port_names(num_layers: int) -> dict[str, str]:
    """The port's name of every tensor to this module's."""
    layers = {"u_init.conv": "u_init", "ul_init.0.conv": "ul_init_above", "ul_init.1.conv": "ul_init_left", "nin_out.lin_a": "output"}
    level = "level"
    for i in range(NUM_LEVELS):
        up_index = NUM_LEVELS - 1 - i  # the port counts its way up from the coarsest level
        num_up = num_layers + (i < NUM_LEVELS - 1)
        for theirs, ours, count in ((f"up_layers.{i}", "down", num_layers), (f"down_layers.{up_index}", "up", num_up)):
            for stream, j in ((stream, j) for stream in ("u", "ul") for j in range(count)):
                there, here = f"{theirs}.{stream}_stream.{j}", f"{level}.{ours}_{stream}.{j}"
                layers |= {f"{there}.conv_input.conv": f"{here}.conv_input", f"{there}.conv_out.conv": f"{here}.conv_out"}
                if stream == "ul" or ours == "up":
                    layers[f"{there}.nin_skip.lin_a"] = f"{here}.nin_skip"
        if i < NUM_LEVELS - 1:
            for stream in ("u", "ul"):
                layers[f"downsize_{stream}_stream.{i}.conv"] = f"{level}.shrink_{stream}"
                layers[f"upsize_{stream}_stream.{up_index - 1}.deconv"] = f"{level}.grow_{stream}"
        level += ".inner"
    parts = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1", "bias": "bias"}
    return {f"{there}.{part}": f"{here}.{name}" for there, here in layers.items() for part, name in parts.items()}
