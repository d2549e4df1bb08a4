"""What every architecture is: wiring of causal layers, written once, and the passes that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.errors import UserError, unknown
from pixelmodels.layers.base import CausalLayer, Forward, Frame, Layer, PixelPass, Place, Recording, RowPass, TakeRow, Weights
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.canvas import Canvas, Stage
from pixelmodels.models.context import (
    ContextEncoder,
    ContextProjection,
    ContextSpec,
    Features,
    Given,
    PositionLinear,
    check_context,
    projection,
    scaled_image,
)
from pixelmodels.models.given_pixels import GivenPixels, given_pixels
from pixelmodels.shapes import ImageSpec

CONTEXT_FEATURES = 32  # D: features of the encoded context
WholeRun = TypeVar("WholeRun", bound=Forward)


def _as_given(context: Given, x_BCHW: Tensor) -> Given:
    return context


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
        self.encoder = ContextEncoder(context_spec, spec, CONTEXT_FEATURES) if context_spec else None
        self.num_groups = spec.channels if network_orders else 1
        # a channel of ones tells padding from mid-grey; it belongs to no colour, so every group may see it
        self.input_groups = (*(range(spec.channels) if network_orders else (0,) * spec.channels), -1)
        self.param_groups = likelihood.param_channels if network_orders else (0,) * likelihood.num_params
        self.params_of_group = [[i for i, group in enumerate(self.param_groups) if group == g] for g in range(self.num_groups)]
        # straight to the parameters: a given image's levels come there exactly, whatever the layers have learned so far
        self.direct = projection(context_spec, CONTEXT_FEATURES, likelihood.num_params)
        if self.direct is not None:
            nn.init.zeros_(self.direct.weight)

    def context_features(self, context: Given, batch: int, small_BHWC: Tensor | None = None) -> Features:
        """What each layer takes of the context of `batch` images, at the layer's resolution.

        `small_BHWC` are the inputs of the small image that is given, instead of its levels.
        """
        if self.encoder is None:
            return {}
        c_BHWD = self.encoder(context, batch, small_BHWC)
        return {module: module(self._at_resolution(c_BHWD, module)) for module in self.modules() if isinstance(module, ContextProjection)}

    def _at_resolution(self, c_BHWD: Tensor, module: PositionLinear) -> Tensor:
        """Features of the context as a layer sees them: padded as the image is, and averaged over what a stride leaves out."""
        height, width = c_BHWD.shape[1:3]
        if (height, width) == (1, 1):
            return c_BHWD
        padded = F.pad(c_BHWD, (0, 0, 0, self._padded(width) - width, 0, self._padded(height) - height))
        if module.resolution == 1:
            return padded
        return F.avg_pool2d(padded.permute(0, 3, 1, 2), module.resolution).permute(0, 2, 3, 1)

    # --- what an architecture defines ---

    def above(self, run: Forward | RowPass, x: Tensor, context: Features) -> dict[Layer, Tensor]:
        """Row streams, from the image shifted down a row; what each layer of the pixel streams adds of them."""
        return {}

    def here(self, run: Forward | PixelPass | TakeRow, x: Tensor) -> Tensor:
        """Pixel streams, from the image to the parameters (channel-last)."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """The raster passes that draw an image, one after the other; this model's own unless it is made of several."""
        return (Stage(self, 1, _as_given),)

    def order(self) -> Tensor:
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

    def _padded(self, size: int) -> int:
        """The next size that the strides divide; what is added is zeros, and never counted."""
        return -(-size // self.period) * self.period

    def inputs(self, x_BCHW: Tensor) -> Tensor:
        """Levels to the network's inputs: on [-1, 1], channel-last, with a channel of ones."""
        return scaled_image(x_BCHW, self.spec.levels, self.dtype)

    def forward(self, x_BCHW: Tensor, context: Given = None) -> Tensor:
        """Parameters of every pixel's distribution, P channels: `params_BPHW`."""
        self.spec.check(x_BCHW)
        return self.network(self.inputs(x_BCHW), context)

    def network(self, image_BHWC: Tensor, context: Given) -> Tensor:
        """`forward` from the network's inputs on: differentiable in the image."""
        return self.wired(image_BHWC, self.context_features(context, image_BHWC.shape[0]))

    def wired(self, image_BHWC: Tensor, context: Features) -> Tensor:
        """The layers as `above` and `here` wire them, on whole images."""
        height, width = image_BHWC.shape[1:3]
        _, params_BHWP = self._run(Forward, image_BHWC, context)
        return params_BHWP.permute(0, 3, 1, 2)[..., :height, :width]

    def _run(
        self, run_of: Callable[[Tensor, Mapping[Layer, Tensor]], WholeRun], image_BHWC: Tensor, context: Features
    ) -> tuple[WholeRun, Tensor]:
        """A run of the whole image and the parameters that it gave, both of padded size."""
        height, width = image_BHWC.shape[1:3]
        image_BHWC = F.pad(image_BHWC, (0, 0, 0, self._padded(width) - width, 0, self._padded(height) - height))
        run = run_of(image_BHWC, self.above(Forward(image_BHWC), shifted_down(image_BHWC), context))
        params_BHWP = self.here(run, image_BHWC)
        return run, params_BHWP if self.direct is None else params_BHWP + context[self.direct]

    def log_prob_map(self, x_BCHW: Tensor, context: Given = None) -> Tensor:
        """Log-probability of every pixel (all its channels) given the ones before it; nats, B H W.

        Of a small image that is given the pixels are certain: 0 where `x_BCHW` has them so, minus infinity elsewhere.
        """
        params_BPHW = self.forward(x_BCHW, context)
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
        that the model was not built for.
        """
        self.spec.check_values(x_BCHW)
        check_context(context, self.context_spec, len(x_BCHW))
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

    def all_features(
        self, x_BCHW: Tensor, context: Given = None, each: Callable[[Tensor], Tensor] = lambda h_BFHW: h_BFHW
    ) -> dict[str, Tensor]:
        """`features` of every layer by name, in order of depth, from one pass; `each` makes of a map what is kept of it."""
        self.spec.check(x_BCHW)
        check_context(context, self.context_spec, len(x_BCHW))
        return self.network_features(self.inputs(x_BCHW), context, each)

    def network_features(
        self, image_BHWC: Tensor, context: Given, each: Callable[[Tensor], Tensor] = lambda h_BFHW: h_BFHW
    ) -> dict[str, Tensor]:
        """`all_features` from the network's inputs on: differentiable in the image."""
        return self.wired_features(image_BHWC, self.context_features(context, image_BHWC.shape[0]), each)

    def wired_features(self, image_BHWC: Tensor, context: Features, each: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What the layers give on whole images, as `above` and `here` wire and name them."""
        height, width = image_BHWC.shape[1:3]

        def keep(h_BHWF: Tensor) -> Tensor:
            stride = self._padded(height) // h_BHWF.shape[1]
            return each(h_BHWF.permute(0, 3, 1, 2)[..., : -(-height // stride), : -(-width // stride)])

        run, _ = self._run(partial(Recording, keep=keep), image_BHWC, context)
        return run.features

    @torch.no_grad()
    def feature_names(self) -> tuple[str, ...]:
        """The layers that `features` knows, in order of depth; found by recording one blank image."""
        x_1CHW = torch.zeros(1, *self.spec.shape, dtype=torch.uint8, device=self.device)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # dropout, where the model is being trained
            return tuple(self.all_features(x_1CHW))

    # --- passes ---

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

    @torch.no_grad()
    def prepare(self) -> dict[Layer, Weights]:
        """The weights of the passes, for as many canvases as wanted while the parameters stay as they are."""
        return {layer: {name: value.clone() for name, value in layer.prepare().items()} for layer in self.layers()}

    @torch.no_grad()
    def start(self, batch: int, context: Given = None) -> Canvas:
        """An empty canvas for `batch` images, before row 0; `UserError` for a context that does not fit the model."""
        check_context(context, self.context_spec, batch)
        channels, height, width = self.spec.shape
        rows, columns = self._padded(height), self._padded(width)
        frame = Frame(batch, rows, columns, self.device, self.dtype)
        states = {}
        for layer in self.layers():
            stride = layer.resolution
            states[layer] = layer.start(frame if stride == 1 else replace(frame, height=rows // stride, width=columns // stride))
        return Canvas(
            x_BWC=torch.zeros(batch, width, channels, dtype=torch.uint8, device=frame.device),
            image_BWC=frame.zeros(columns, channels + 1),
            above_BWC=frame.zeros(columns, channels + 1),
            row_B=torch.zeros(batch, dtype=torch.long, device=frame.device),
            context=self.context_features(context, batch),
            states=states,
        )

    def _place(self, canvas: Canvas, column: int = 0, group: int = 0) -> Place:
        return Place(canvas.phase, column, group, canvas.image_BWC, canvas.views)

    @torch.no_grad()
    def row_pass(self, weights: dict[Layer, Weights], canvas: Canvas) -> None:
        """Everything that the images' current rows take from the rows above them, for all columns."""
        run = RowPass(weights, canvas.states, self._place(canvas))
        batch_B = torch.arange(len(canvas.row_B), device=self.device)
        context = {
            module: map_BHWF[batch_B, canvas.row_B // module.resolution] if map_BHWF.shape[1] > 1 else map_BHWF[:, 0]
            for module, map_BHWF in canvas.context.items()
        }
        canvas.direct_BWP = None if self.direct is None else context[self.direct]
        extras = self.above(run, canvas.above_BWC, context)
        for layer in weights:
            if isinstance(layer, CausalLayer) and canvas.phase % layer.resolution == 0:
                layer.row(weights[layer], canvas.states[layer], extras.get(layer))
        canvas.image_BWC.zero_()
        canvas.image_BWC[:, : self.spec.width, -1] = 1

    @torch.no_grad()
    def pixel_pass(self, weights: dict[Layer, Weights], canvas: Canvas, column: int, group: int = 0) -> Tensor:
        """Parameters of one pixel of the current row, of one group where the network orders the channels; B P."""
        run = PixelPass(weights, canvas.states, self._place(canvas, column, group))
        params_BP = self.here(run, canvas.image_BWC[:, column])
        if canvas.direct_BWP is None:
            return params_BP
        direct_BP = canvas.direct_BWP[:, column if canvas.direct_BWP.shape[1] > 1 else 0]
        return params_BP + (direct_BP if self.num_groups == 1 else direct_BP[:, self.params_of_group[group]])

    def put(self, canvas: Canvas, column: int, channel: int, x_B: Tensor) -> None:
        """Fix one sub-pixel of the current row: levels, integers, B."""
        if channel not in canvas.views:
            canvas.views[channel] = (canvas.x_BWC[..., channel].unbind(1), canvas.image_BWC[..., channel].unbind(1))
        x_W, image_W = canvas.views[channel]
        x_W[column].copy_(x_B)
        image_W[column].copy_(x_B).mul_(2 / (self.spec.levels - 1)).sub_(1)

    @torch.no_grad()
    def take_row(self, weights: dict[Layer, Weights], canvas: Canvas, x_BWC: Tensor) -> Tensor:
        """Parameters of every column of the current row if it were `x_BWC` (levels); B W P.

        Nothing is final before `commit_row`: another row may be taken in instead.
        """
        canvas.x_BWC.copy_(x_BWC)
        canvas.image_BWC[:, : self.spec.width, :-1] = x_BWC.to(self.dtype) * (2 / (self.spec.levels - 1)) - 1
        params_BWP = self.here(TakeRow(weights, canvas.states, self._place(canvas)), canvas.image_BWC)
        if canvas.direct_BWP is not None:
            params_BWP = params_BWP + canvas.direct_BWP
        return params_BWP[:, : self.spec.width]

    @torch.no_grad()
    def commit_row(self, weights: dict[Layer, Weights], canvas: Canvas) -> None:
        """The current row is final: record it and go to the next (`x_BWC` stays as it is until the next row is drawn)."""
        at = self._place(canvas)
        if self._padded(self.spec.width) > self.spec.width:  # pixel passes end at the last real column, rows below may read beyond
            self.here(TakeRow(weights, canvas.states, at), canvas.image_BWC)
        for layer in weights:
            if isinstance(layer, CausalLayer) and canvas.phase % layer.resolution == 0:
                layer.commit(weights[layer], canvas.states[layer], at)
        canvas.above_BWC.copy_(canvas.image_BWC)
        canvas.row_B += 1
        canvas.phase = (canvas.phase + 1) % self.period

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
