"""Context that is made of images: grey and small ones of the images themselves, and the pixels that a small one gives.

A grey image is given to be coloured. A small one is every k-th pixel of the image: its pixels are pixels of the image, which the
likelihood has certain and samplers keep (`GivenPixels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models.context import ABSENT, Context, ContextBlend, ContextSpec, Given, whole_factors
from pixelmodels.shapes import ImageSpec

LUMA = (299, 587, 114)  # thousandths of R, G and B; ITU-R BT.601


def grey(x_BCHW: Tensor) -> Tensor:
    """RGB images without their colours: ITU-R BT.601 luma rounded to the nearest level (halves up), integers, B 1 H W."""
    red, green, blue = x_BCHW.long().unbind(1)
    return ((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 500) // 1000)[:, None]


def small(x_BCHW: Tensor, factor: int) -> Tensor:
    """Every `factor`-th pixel of every `factor`-th row, from the first on (multi-scale, arXiv:1601.06759): B C H/k W/k.

    Its pixels are pixels of the image.
    """
    return x_BCHW[:, :, ::factor, ::factor]


def factor_between(own: Sequence[int], given: Sequence[int]) -> int:
    """The least factor by which sub-sampling leaves images of one size (rows, columns) of images of another."""
    return max(-(-ours // theirs) for ours, theirs in zip(own, given, strict=True))


def sub_sampled(spec: ImageSpec, factor: int) -> ImageSpec:
    """What is left of images by every `factor`-th row and column."""
    return replace(spec, height=-(-spec.height // factor), width=-(-spec.width // factor))


def context_of(
    spec: ContextSpec, x_BCHW: Tensor, label_B: Tensor | None = None, vector_BV: Tensor | None = None, order_B: Tensor | None = None
) -> Context | None:
    """The whole context of images, of the kinds that a model is built for: given images are made of the images themselves.

    `image` is them without their colours, `small` sub-sampled, as `check_context_fits` sees to.

    Args: `label_B` and `vector_BV`, where the data set has them; `order_B`, by which the images are turned. None for a model without
    context.
    """
    if not spec.has_features:
        return None
    found = Context(
        order_B=order_B if spec.num_orders > 1 else None,
        label_B=label_B if spec.num_classes else None,
        vector_BV=vector_BV if spec.vector_size else None,
        image_BCHW=grey(x_BCHW) if spec.image is not None else None,
        small_BCHW=small(x_BCHW, factor_between(x_BCHW.shape[2:], spec.small.shape[1:])) if spec.small is not None else None,
    )
    return found if spec or len(found) else None


def check_makeable(spec: ContextSpec, own: ImageSpec, remedy: str) -> None:
    """Raise `UserError`, with the remedy, when the images that a model is given are not made of its own ones."""
    grey_of_own = replace(own, channels=1) if own.channels == 3 else None
    factor = 1 if spec.small is None else factor_between(own.shape[1:], spec.small.shape[1:])
    for image, makeable in ((spec.image, grey_of_own), (spec.small, sub_sampled(own, factor) if factor > 1 else None)):
        if image is not None and image != makeable:
            given = f"{image.channels}x{image.height}x{image.width} with {image.levels} levels"
            raise UserError(f"the model is given images of {given}, which cannot be made of its own images; {remedy}")


def told(spec: ContextSpec) -> str:
    """What a model is given of an image, in words."""
    parts = [f"its class of {spec.num_classes}"] if spec.num_classes else []
    parts += [f"its vector of {spec.vector_size} numbers"] if spec.vector_size else []
    parts += ["its grey image"] if spec.image is not None else []
    parts += [f"its pixels sub-sampled to {spec.small.height}x{spec.small.width}"] if spec.small is not None else []
    return " and ".join(parts) or "nothing"


@dataclass(frozen=True)
class GivenPixels:
    """What the context tells of the images of a batch."""

    x_BCHW: Tensor  # levels, integers, where they are known
    mask_BHW: Tensor  # which pixels are known, booleans

    def to(self, device: torch.device) -> GivenPixels:
        """The same on a device."""
        return GivenPixels(self.x_BCHW.to(device), self.mask_BHW.to(device))

    def condition(self, log_prob_BHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The log-probabilities of the pixels that are not known; a known pixel is certain, another value of it impossible."""
        as_given_BHW = (x_BCHW == self.x_BCHW).all(1)
        certain_BHW = torch.where(as_given_BHW, 0.0, -torch.inf).to(log_prob_BHW.dtype)
        return torch.where(self.mask_BHW, certain_BHW, log_prob_BHW)


def given_pixels(context: Given, small: ImageSpec | None, spec: ImageSpec) -> GivenPixels | None:
    """The pixels of images of shape `spec` that a context, accepted by `check_context`, gives; None where it gives none.

    Args: `small`, the shape of the small images that the model was built for. A blend gives what both of its contexts
    give, and at its ends what the one gives that it is there.
    """
    if small is None or context is None:
        return None
    if not isinstance(context, ContextBlend):
        return None if context.small_BCHW is None else _of_small(context.small_BCHW, small, spec)
    if context.first.small_BCHW is None and context.second.small_BCHW is None:
        return None
    absent_BCHW = torch.full((len(context), *small.shape), ABSENT, device=context.share_B.device)
    first, second = (
        _of_small(absent_BCHW if one.small_BCHW is None else one.small_BCHW, small, spec) for one in (context.first, context.second)
    )
    share_B11 = context.share_B.to(first.x_BCHW.device)[:, None, None]
    both_BHW = first.mask_BHW & second.mask_BHW & (first.x_BCHW == second.x_BCHW).all(1)
    mask_BHW = torch.where(share_B11 == 0, first.mask_BHW, torch.where(share_B11 == 1, second.mask_BHW, both_BHW))
    return GivenPixels(torch.where(share_B11[..., None] == 1, second.x_BCHW, first.x_BCHW), mask_BHW)


def _of_small(small_BCHW: Tensor, small: ImageSpec, spec: ImageSpec) -> GivenPixels:
    (every_row, every_column), _ = whole_factors(small, spec)
    batch, (_, height, width) = len(small_BCHW), spec.shape
    x_BCHW = torch.zeros(batch, *spec.shape, dtype=torch.long, device=small_BCHW.device)
    x_BCHW[..., ::every_row, ::every_column] = small_BCHW.long()
    mask_BHW = torch.zeros(batch, height, width, dtype=torch.bool, device=small_BCHW.device)
    mask_BHW[:, ::every_row, ::every_column] = (small_BCHW >= 0).all(1)
    return GivenPixels(x_BCHW, mask_BHW)
