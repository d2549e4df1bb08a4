"""What every architecture is: wiring of causal layers, written once, and the passes that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.errors import UserError, unknown
from pixelmodels.layers.base import Layer
from pixelmodels.layers.channel_groups import Groups, group_runs
from pixelmodels.layers.wiring import Forward, PixelPass, Record, RowPass, TakeRow
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.context import ContextSpec, Given, check_context
from pixelmodels.models.context_encoder import (
    ContextEncoder,
    ContextProjection,
    Features,
    PositionLinear,
    added_of,
    projection,
    scaled_image,
)
from pixelmodels.models.context_images import GivenPixels, given_pixels
from pixelmodels.models.turns import check_num_orders
from pixelmodels.products import products
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters; `UserError` for a count below 1, a kernel without a middle, or a dropout that is not a share."""

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith("kernel_size") and (value < 3 or value % 2 == 0):
                raise UserError(f"{name} {value} has no middle; give an odd number from 3")
            if (name.startswith("num_") or name.endswith("_features")) and value < 1:
                raise UserError(f"{name} {value} is too small; give 1 or more")
            if name == "dropout" and not 0 <= value < 1:
                raise UserError(f"dropout {value} is not a share; give 0 or more, less than 1")


@dataclass(frozen=True)
class Stage:
    """One raster pass over an image, or over some of its pixels."""

    model: PixelModel
    every: int  # k: it draws every k-th row and column; what stages before it drew of these is known to it
    context: Callable[[Given, Tensor], Given]  # the stage's, from the image's and what is drawn of it so far (levels, B C H W)


class PixelModel(nn.Module):
    """An exact distribution over images: a product of one-pixel distributions, in raster order or stage by stage.

    A subclass says how its layers are wired (`above` for its row streams, `here` for its pixel streams) and
    which earlier pixels an output depends on (`reach`). Everything else is derived here, once for all.
    """

    config_class: ClassVar[type[Any]]
    orders_channels: ClassVar[bool]  # whether its layers can order R -> G -> B themselves
    draws_small: ClassVar[bool] = False  # whether it draws a small image of its own, so that none can be given
    period: ClassVar[int] = 1  # rows after which the phases of its strides repeat

    def __init__(self, config: Any, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__()
        self.config, self.spec, self.likelihood, self.context_spec = config, spec, likelihood, context_spec
        if self.draws_small and context_spec.small is not None:
            raise UserError(f"{type(self).__name__} draws a small image of its own; leave 'small' out of the context")
        small = context_spec.small
        if small is not None and (small.channels, small.levels) != (spec.channels, spec.levels):
            raise UserError(
                f"a small image has {small.channels} channels and {small.levels} levels, the image {spec.channels} and {spec.levels}; "
                "its pixels are pixels of the image: give them alike, or give it as 'image'"
            )
        network_orders = spec.channels > 1 and not likelihood.orders_channels
        if network_orders and not self.orders_channels:
            raise UserError(
                f"likelihood '{likelihood.config.name}' does not order the {spec.channels} channels and neither does "
                f"{type(self).__name__}; use discretized_logistic_mixture"
            )
        for image in (spec, *([] if context_spec.image is None else [context_spec.image])):
            check_num_orders(context_spec.num_orders, image)
        self.encoder = ContextEncoder(context_spec, spec) if context_spec.has_features else None
        self.num_groups = spec.channels if network_orders else 1
        # a channel of ones tells padding from mid-grey; it belongs to no colour, so every group may see it
        self.input_groups = (*(range(spec.channels) if network_orders else (0,) * spec.channels), -1)
        self.param_groups = likelihood.param_channels if network_orders else (0,) * likelihood.num_params
        self.params_of_group = [_one_slice(self.param_groups, g) for g in range(self.num_groups)]
        # straight to the parameters: a given image's levels come there exactly, whatever the layers have learned so far
        self.direct = projection(context_spec, likelihood.num_params)
        if self.direct is not None:
            nn.init.zeros_(self.direct.weight)

    def context_features(self, context: Given, batch: int, small_BHWC: Tensor | None = None) -> Features:
        """What each layer takes of the context of `batch` images, at the layer's resolution.

        `small_BHWC` are the inputs of the small image that is given, instead of its levels.
        """
        if self.encoder is None:
            return {}
        c_BHWD = self.encoder(context, batch, small_BHWC)
        return {module: module(self._at_resolution(c_BHWD, module)) for module in self.context_projections()}

    def context_projections(self) -> Iterator[ContextProjection]:
        """The linear maps whose features of the context layers take, in the order of registration."""
        return (module for module in self.modules() if isinstance(module, ContextProjection))

    def _at_resolution(self, c_BHWD: Tensor, module: PositionLinear) -> Tensor:
        """Features of the context as a layer sees them: padded as the image is, and averaged over what a stride leaves out."""
        height, width = c_BHWD.shape[1:3]
        if (height, width) == (1, 1):
            return c_BHWD
        padded = F.pad(c_BHWD, (0, 0, 0, self.padded(width) - width, 0, self.padded(height) - height))
        if module.resolution == 1:
            return padded
        return F.avg_pool2d(padded.permute(0, 3, 1, 2), module.resolution).permute(0, 2, 3, 1)

    # --- what an architecture defines ---

    def above(self, do: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        """Row streams, from the image shifted down a row; what each layer of the pixel streams adds of them and of the context.

        Without row streams that is what the projections of the context give their layers.
        """
        return added_of(context)

    def here(self, do: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        """Pixel streams, from the image to the parameters (channel-last)."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """The raster passes that draw an image, one after the other; this model's own unless it is made of several."""
        return (Stage(self, 1, lambda context, x_BCHW: context),)

    def pixel_ranks(self) -> Tensor:
        """In which order pixels are drawn: their ranks, integers, H W."""
        height, width = self.spec.shape[1:]
        return torch.arange(height * width).view(height, width)

    def reach(self) -> Tensor:
        """Which sub-pixels each pixel's parameters depend on, declared: boolean H W (output) C H W (input).

        The pixel itself is not counted; where the network orders the channels a parameter also depends on the
        earlier channels of its own pixel.
        """
        raise NotImplementedError

    def initialize(self, x_BCHW: Tensor, context: Given = None) -> None:
        """Data-dependent initialization from a batch of training images; nothing for architectures that have none.

        A function of the weights and the batch, without dropout. Raises `UserError` for no images, and where `log_prob` does.
        """

    # --- the whole image ---

    def padded(self, size: int) -> int:
        """The next size that the strides divide; what is added is zeros, and never counted."""
        return -(-size // self.period) * self.period

    def inputs(self, x_BCHW: Tensor) -> Tensor:
        """Levels to the network's inputs: on [-1, 1], channel-last, with a channel of ones."""
        return scaled_image(x_BCHW, self.spec, self.dtype)

    def forward(self, x_BCHW: Tensor, context: Given = None) -> Tensor:
        """Parameters of every pixel's distribution, P channels: `params_BPHW`."""
        self.spec.check(x_BCHW)
        return self.network(self.inputs(x_BCHW), context)

    def network(self, image_BHWC: Tensor, context: Given, small_BHWC: Tensor | None = None) -> Tensor:
        """`forward` from the network's inputs on: differentiable in the image. `small_BHWC`: see `context_features`."""
        return self._whole(image_BHWC, context, small_BHWC)

    def _whole(self, image_BHWC: Tensor, context: Given, small_BHWC: Tensor | None, record: Record | None = None) -> Tensor:
        """The layers as `above` and `here` wire them, on whole images of padded size; `record`: see `Forward`."""
        batch, height, width = image_BHWC.shape[:3]
        features = self.context_features(context, batch, small_BHWC)
        image_BHWC = F.pad(image_BHWC, (0, 0, 0, self.padded(width) - width, 0, self.padded(height) - height))
        extras = self.above(Forward(image_BHWC), shifted_down(image_BHWC), features)
        params_BHWP = self.here(Forward(image_BHWC, extras, record), image_BHWC)
        if self.direct is not None:
            params_BHWP = params_BHWP + features[self.direct]
        return params_BHWP.permute(0, 3, 1, 2)[..., :height, :width]

    def log_prob_map(self, x_BCHW: Tensor, context: Given = None) -> Tensor:
        """Log-probability of every pixel (all its channels) given the ones before it; nats, B H W.

        Of a small image that is given the pixels are certain: 0 where `x_BCHW` has them so, minus infinity elsewhere.
        """
        return self.log_prob_map_of(self.forward(x_BCHW, context), x_BCHW, context)

    def log_prob_map_of(self, params_BPHW: Tensor, x_BCHW: Tensor, context: Given = None) -> Tensor:
        """`log_prob_map`, from what `forward` gave for these images."""
        if params_BPHW.dtype in (torch.bfloat16, torch.float16):
            params_BPHW = params_BPHW.float()
        with torch.autocast(params_BPHW.device.type, enabled=False):
            log_prob_BHW = self.likelihood.log_prob_map(params_BPHW, x_BCHW)
        known = self.given_pixels(context)
        return log_prob_BHW if known is None else known.condition(log_prob_BHW, x_BCHW)

    def given_pixels(self, context: Given) -> GivenPixels | None:
        """The pixels that a context gives: those of a small image; None where it gives none."""
        known = given_pixels(context, self.context_spec.small, self.spec)
        return known if known is None else known.to(self.device)

    def log_prob(self, x_BCHW: Tensor, context: Given = None) -> Tensor:
        """Exact log-probability of each image, in nats, summed over C, H and W; shaped B.

        `x_BCHW` holds integers in [0, levels). Raises `UserError` for a wrong shape, type or level, or a context
        that the model was not built for. On a GPU products are IEEE float32, whatever torch is set to.
        Of a model of several orders: of images that are turned as `context` says; see `orders` for likelihoods of the images themselves.
        """
        self.spec.check_values(x_BCHW)
        check_context(context, self.context_spec, len(x_BCHW))
        with products("ieee", self.device):
            return self.log_prob_map(x_BCHW, context).sum((1, 2))

    # --- activations ---

    def features(self, x_BCHW: Tensor, layer: str | int, context: Given = None) -> Tensor:
        """Activations of the pixel stream after a layer, `h_BFHW`: what the network made of the pixels before each.

        Args: `layer`, a name of `feature_names` or its index (negative: from the last).
        A map may be coarser than the image: one of ceil(H / s) rows holds at (r, c) what is known before pixel (s r, s c). Where the
        network orders the channels, the F features are in the channels' even groups, and also know their own pixel's earlier channels.
        Raises `UserError` for an unknown layer, or images or a context that `forward` refuses.
        """
        maps = self.all_features(x_BCHW, context)
        names = tuple(maps)
        if isinstance(layer, int):
            if not -len(names) <= layer < len(names):
                raise UserError(f"layer {layer} is out of range; give {-len(names)}..{len(names) - 1}, or one of {', '.join(names)}")
            return maps[names[layer]]
        if layer not in maps:
            raise unknown("layer", layer, names)
        return maps[layer]

    def all_features(self, x_BCHW: Tensor, context: Given = None, each: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """`features` of every layer by name, in order of depth, from one pass; `each` makes of a map what is kept of it."""
        self.spec.check(x_BCHW)
        check_context(context, self.context_spec, len(x_BCHW))
        return self.network_features(self.inputs(x_BCHW), context, each)

    def network_features(
        self, image_BHWC: Tensor, context: Given, each: Callable[[Tensor], Tensor] | None = None, small_BHWC: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`all_features` from the network's inputs on: differentiable in the image. `small_BHWC`: see `context_features`."""
        height, width = image_BHWC.shape[1:3]
        found: dict[str, Tensor] = {}

        def record(name: str, h_BHWF: Tensor) -> None:
            if name in found:
                raise ValueError(f"two features are called '{name}'; give each its own name")
            stride = self.padded(height) // h_BHWF.shape[1]
            h_BFHW = h_BHWF.permute(0, 3, 1, 2)[..., : -(-height // stride), : -(-width // stride)]
            found[name] = h_BFHW if each is None else each(h_BFHW)

        self._whole(image_BHWC, context, small_BHWC, record)
        return found

    @torch.no_grad()
    def feature_names(self) -> tuple[str, ...]:
        """The layers that `features` knows, in order of depth; found by recording one blank image."""
        x_1CHW = torch.zeros(1, *self.spec.shape, dtype=torch.uint8, device=self.device)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # dropout, where the model is being trained
            return tuple(self.all_features(x_1CHW))

    # --- its tensors and layers ---

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def layers(self) -> Iterator[Layer]:
        """Every layer that has passes, in the order of registration."""
        return (module for module in self.modules() if isinstance(module, Layer))

    # --- what it costs ---

    @property
    def num_parameters(self) -> int:
        """Numbers that training sets."""
        return sum(p.numel() for p in self.parameters())


def shifted_down(image_BHWC: Tensor) -> Tensor:
    """The image moved down a row, zeros above: row streams see it so, once, at their entry."""
    return F.pad(image_BHWC, (0, 0, 0, 0, 1, 0))[:, :-1]


def active_flops_per_image(model: PixelModel) -> float:
    """Floating-point operations of one forward pass of one image that the masks keep (2 for a multiply-add)."""
    total = 0.0
    for stage in model.stages():
        pixels = stage.model.spec.height * stage.model.spec.width
        total += sum(layer.active_flops(pixels / layer.resolution**2) for layer in stage.model.layers())
    return total


def _one_slice(param_groups: Groups, group: int) -> slice:
    """Where the parameters of a group are, which must be beside each other."""
    runs = group_runs(param_groups, group)
    if len(runs) != 1:
        raise ValueError(f"the parameters of channel {group} are in {len(runs)} places; give `param_channels` with each channel's together")
    return runs[0]
