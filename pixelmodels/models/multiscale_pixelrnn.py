"""Multi-scale PixelRNN (arXiv:1601.06759, section 3.6): a sub-sampled image first, then the image given it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import Likelihood
from pixelmodels.models.base import PixelModel, Stage
from pixelmodels.models.context import Context, ContextBlend, ContextSpec, Given
from pixelmodels.models.pixelrnn_row_lstm import PixelRNNRowLSTMConfig
from pixelmodels.models.registry import build, config_from_plain
from pixelmodels.shapes import ImageSpec


@dataclass(frozen=True)
class MultiscalePixelRNNConfig:
    """Hyperparameters of `multiscale_pixelrnn`; any architecture may stand in either place."""

    factor: int = 2  # k: the small image has every k-th row and column
    small: Any = field(default_factory=PixelRNNRowLSTMConfig)  # config of the model of the sub-sampled image
    large: Any = field(default_factory=PixelRNNRowLSTMConfig)  # config of the model of the image given the small one

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise UserError(f"factor {self.factor} leaves nothing out; give 2 or more")
        for name in ("small", "large"):  # plain values, as a file has them
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, config_from_plain(getattr(self, name)))


class MultiscalePixelRNN(PixelModel):
    """The chain rule over two stages: p(small image) x p(all other pixels | small image, earlier pixels).

    The pixels of the small image are pixels of the image: the second stage is given them, and none is counted twice.
    """

    config_class = MultiscalePixelRNNConfig
    orders_channels = True  # where its stages do: they say so themselves
    draws_small = True

    def __init__(self, config: MultiscalePixelRNNConfig, spec: ImageSpec, likelihood: Likelihood, context_spec: ContextSpec):
        super().__init__(config, spec, likelihood, ContextSpec(small=context_spec.small))
        self.context_spec = context_spec  # its stages encode what is given, each for itself
        height, width = (-(-size // config.factor) for size in spec.shape[1:])
        small_spec = replace(spec, height=height, width=width)
        self.small = build(config.small, small_spec, likelihood.config, context_spec)
        self.large = build(config.large, spec, likelihood.config, replace(context_spec, small=small_spec))

    def network(self, image_BHWC: Tensor, context: Given, small_BHWC: Tensor | None = None) -> Tensor:
        every = self.config.factor
        small_BHWC = image_BHWC[:, ::every, ::every]
        params_BPHW = self.large.network(image_BHWC, context, small_BHWC).clone()
        params_BPHW[..., ::every, ::every] = self.small.network(small_BHWC, context)
        return params_BPHW

    def network_features(
        self, image_BHWC: Tensor, context: Given, each: Callable[[Tensor], Tensor] | None = None, small_BHWC: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Of both stages, by their place and name: those of the small image at its pixels, those of the large one knowing all of it."""
        every = self.config.factor
        small_BHWC = image_BHWC[:, ::every, ::every]
        of_small = self.small.network_features(small_BHWC, context, each)
        of_large = self.large.network_features(image_BHWC, context, each, small_BHWC)
        return {f"small.{name}": h for name, h in of_small.items()} | {f"large.{name}": h for name, h in of_large.items()}

    def initialize(self, x_BCHW: Tensor, context: Given = None) -> None:
        every = self.config.factor
        self.small.initialize(x_BCHW[..., ::every, ::every], context)
        self.large.initialize(x_BCHW, with_small(context, x_BCHW[..., ::every, ::every]))

    def stages(self) -> tuple[Stage, ...]:
        def given_small(context: Given, x_BCHW: Tensor) -> Given:
            return with_small(context, x_BCHW[..., ::every, ::every])

        def within_small(stage: Stage) -> Stage:
            return Stage(stage.model, stage.every * every, lambda given, x_BCHW: stage.context(given, x_BCHW[..., ::every, ::every]))

        every = self.config.factor
        return (*map(within_small, self.small.stages()), Stage(self.large, 1, given_small))

    def pixel_ranks(self) -> Tensor:
        every, small = self.config.factor, self.small.pixel_ranks()
        rank_HW = super().pixel_ranks() + small.numel()
        rank_HW[::every, ::every] = small
        return rank_HW.flatten().argsort().argsort().view_as(rank_HW)  # without gaps

    def reach(self) -> Tensor:
        # The large model's own and all of the small image, a summary of which every pixel sees; the small image its model's.
        every = self.config.factor
        reach = self.large.reach()
        reach[..., ::every, ::every] = True
        reach[::every, ::every] = False
        reach[::every, ::every, :, ::every, ::every] = self.small.reach()
        return reach


def with_small(context: Given, small_BCHW: Tensor) -> Given:
    """A context and the small image."""
    if isinstance(context, ContextBlend):
        first, second = (replace(one, small_BCHW=small_BCHW) for one in (context.first, context.second))
        return replace(context, first=first, second=second)
    return replace(context or Context(), small_BCHW=small_BCHW)
