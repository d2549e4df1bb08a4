"""PixelCNN++ (arXiv:1701.05517): gated residual layers at three resolutions, with short-cuts between the ways down and up.

Two streams: `u` sees the rows above (a row stream), `ul` the pixels above and to the left (a pixel stream). The
network goes down to a quarter of the resolution and up again; each layer on the way up takes in what the layer at
its place on the way down gave. Layers correspond one to one to those of public ports (`from_port`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pixelmodels.errors import UserError
from pixelmodels.layers.base import Forward, Layer, PixelPass, RowPass, Strided, TakeRow
from pixelmodels.layers.convolution import CausalConv, CausalLinear, RowConv, RowLinear, one_group
from pixelmodels.layers.pixelcnn_pp import LeftColumnConv, SplitLinear
from pixelmodels.layers.strided import PixelGrowConv, PixelShrinkConv, RowGrowConv, RowShrinkConv
from pixelmodels.likelihoods import Likelihood, LikelihoodConfig, build_likelihood
from pixelmodels.models.base import CONTEXT_FEATURES, Features, PixelModel
from pixelmodels.models.checks import check_config
from pixelmodels.models.context import ContextSpec, PositionLinear, projection
from pixelmodels.shapes import ImageSpec

NUM_LEVELS = 3


@dataclass(frozen=True)
class PixelCNNPPConfig:
    """Hyperparameters of `pixelcnn_pp`; the paper's for CIFAR-10 are 160 features and 5 layers a level, dropout 0.5."""

    num_layers: int = 2  # gated residual layers of each level on the way down; one more on the way up at the finer levels
    num_features: int = 32  # maps of each stream
    dropout: float = 0.0  # inside the residual layers

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
        self.conv_input = weight_norm(RowConv(2 * p, p, (2, 3)))
        self.nin_skip = weight_norm(RowLinear(2 * p, p)) if has_skip else None
        self.conv_out = weight_norm(RowConv(2 * p, 2 * p, (2, 3)))
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
        self.conv_input = weight_norm(CausalConv(wide, one_group(p), (2, 2), "B", right=0))
        self.nin_skip = weight_norm(SplitLinear(p, p) if has_skip else RowLinear(2 * p, p))
        self.conv_out = weight_norm(CausalConv(wide, wide, (2, 2), "B", right=0))
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
        p, resolution, num_down = model.config.num_features, 2**index, model.config.num_layers
        num_up = num_down + (index < NUM_LEVELS - 1)
        self.down_u = nn.ModuleList(_AboveLayer(model, has_skip=False) for _ in range(num_down))
        self.down_ul = nn.ModuleList(_HereLayer(model, has_skip=False) for _ in range(num_down))
        self.up_u = nn.ModuleList(_AboveLayer(model, has_skip=True) for _ in range(num_up))
        self.up_ul = nn.ModuleList(_HereLayer(model, has_skip=True) for _ in range(num_up))
        self.inner: _Level | None = None
        if index < NUM_LEVELS - 1:
            self.shrink_u, self.shrink_ul = weight_norm(RowShrinkConv(p, p)), weight_norm(PixelShrinkConv(p, p))
            self.grow_u, self.grow_ul = weight_norm(RowGrowConv(p, p)), weight_norm(PixelGrowConv(p, p))
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
        for layer in self.down_ul:
            ul = cast(_HereLayer, layer).here(run, ul, None)
            shortcuts.append(ul)
        if self.inner is None:
            ul = shortcuts.pop()
        else:
            ul = run.strided(Strided(self.shrink_ul, self.grow_ul), lambda y: cast(_Level, self.inner).here(run, y), ul)
        for layer in self.up_ul:
            ul = cast(_HereLayer, layer).here(run, ul, shortcuts.pop())
        return ul


class PixelCNNPP(PixelModel):
    """Two streams at three resolutions; the likelihood, by habit a mixture of logistics, orders the channels."""

    config_class = PixelCNNPPConfig
    orders_channels = False
    period = 2 ** (NUM_LEVELS - 1)

    def __init__(self, config: PixelCNNPPConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, context_spec)
        p, num_in = config.num_features, len(self.input_groups)
        self.u_init = weight_norm(RowConv(num_in, p, (2, 3)))
        self.ul_init_above = weight_norm(RowConv(num_in, p, (1, 3)))
        self.ul_init_left = weight_norm(LeftColumnConv(num_in, p))
        self.level = _Level(self, 0)
        self.output = weight_norm(CausalLinear(one_group(p), self.param_groups))

    def above(self, run: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        # above row 0 there is nothing: its outputs are zeros, without the bias (the channel of ones is 0 there)
        seen = x[..., -1:]
        extras: dict[Layer, Tensor] = {self.ul_init_left: run.above(self.ul_init_above, x) * seen}
        self.level.above(run, run.above(self.u_init, x) * seen, context, extras)
        return extras

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        return run(self.output, F.elu(self.level.here(run, run(self.ul_init_left, x))))

    def reach(self) -> Tensor:
        # Every layer's kernel reaches as far as its resolution is coarse: on booleans, as the layers are wired.
        return _Reach(self).of_output()


class _Reach:
    """What each feature depends on, as booleans H W (feature) H W (image), through the network's levels."""

    def __init__(self, model: PixelCNNPP):
        self.model = model
        self.height, self.width = (model._padded(size) for size in model.spec.shape[1:])

    def look(self, reach: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
        """The union over places at (rows down, columns right) of each feature, outside of which there is nothing."""
        height, width = reach.shape[:2]
        result = torch.zeros_like(reach)
        for down, right in offsets:
            to_r, to_c = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
            from_r, from_c = slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right))
            result[to_r, to_c] |= reach[from_r, from_c]
        return result

    def of_output(self) -> Tensor:
        """H W (output) C H W (input), real pixels only."""
        height, width = self.height, self.width
        image = torch.eye(height * width, dtype=torch.bool).view(height, width, height, width)
        image[self.model.spec.height :] = False  # what is added to the image depends on nothing
        image[:, self.model.spec.width :] = False
        u = self.look(image, [(-1 - i, j) for i in (0, 1) for j in (-1, 0, 1)])
        ul = self.look(image, [(-1, j) for j in (-1, 0, 1)] + [(-i, -1) for i in (0, 1)])
        _, ul = self.level(self.model.level, u, ul)
        real = ul[: self.model.spec.height, : self.model.spec.width, : self.model.spec.height, : self.model.spec.width]
        return real[:, :, None].repeat(1, 1, self.model.spec.channels, 1, 1)

    def residual_u(self, u: Tensor, skip: Tensor | None) -> Tensor:
        """A residual layer of the row stream: two convolutions, the first beside the short-cut."""
        offsets = [(-i, j) for i in (0, 1) for j in (-1, 0, 1)]
        y = self.look(u, offsets)
        return u | self.look(y if skip is None else y | skip, offsets)

    def residual_ul(self, ul: Tensor, aside: Tensor) -> Tensor:
        """A residual layer of the pixel stream."""
        offsets = [(-i, -j) for i in (0, 1) for j in (0, 1)]
        return ul | self.look(self.look(ul, offsets) | aside, offsets)

    def level(self, level: _Level, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams through a level and all below it."""
        shortcuts = [(u, ul)]
        for _ in level.down_u:
            u = self.residual_u(u, None)
            ul = self.residual_ul(ul, u)
            shortcuts.append((u, ul))
        if level.inner is None:
            u, ul = shortcuts.pop()
        else:
            small_u = self.look(u, [(-i, j) for i in (0, 1) for j in (-1, 0, 1)])[::2, ::2]
            small_ul = self.look(ul, [(-i, -j) for i in (0, 1) for j in (0, 1)])[::2, ::2]
            small_u, small_ul = self.level(level.inner, small_u, small_ul)
            u, ul = self.grow(small_u, 3), self.grow(small_ul, 2)
        for _ in level.up_u:
            skip_u, skip_ul = shortcuts.pop()
            u = self.residual_u(u, skip_u)
            ul = self.residual_ul(ul, u | skip_ul)
        return u, ul

    def grow(self, small: Tensor, columns: int) -> Tensor:
        """A transposed convolution of stride two with 2 x `columns` taps, its sides cut off evenly."""
        height, width = small.shape[:2]
        large = torch.zeros(2 * height, 2 * width + 2, *small.shape[2:], dtype=torch.bool)
        for row in (0, 1):
            for column in range(columns):
                large[row::2, column : column + 2 * width : 2] |= small
        margin = columns // 2 if columns % 2 else 0
        return large[:, margin : margin + 2 * width]


def from_port(state_dict: Mapping[str, Tensor], *, channels: int, height: int, width: int) -> PixelCNNPP:
    """The model whose weights a public PyTorch port of PixelCNN++ saved (256 levels), in the type of its weights.

    Raises `UserError` where the names or shapes are not those of such a port.
    """
    try:
        num_features = state_dict["nin_out.lin_a.weight_v"].shape[1]
        num_outputs = state_dict["nin_out.lin_a.weight_v"].shape[0]
    except KeyError as error:
        raise UserError(f"the weights have no {error}; give the state_dict of a PixelCNN++ port with weight_g and weight_v") from error
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
        model.load_state_dict({names[name]: value for name, value in state_dict.items()})
    except RuntimeError as error:
        raise UserError(f"the port's weights do not fit: {str(error).splitlines()[-1].strip()}") from error
    return model.eval()


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
