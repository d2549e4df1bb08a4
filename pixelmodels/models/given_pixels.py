"""A small image that is given is made of pixels of the image itself: those are known, as in a multi-scale model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelmodels.models.context import ABSENT, ContextBlend, Given, whole_factors
from pixelmodels.shapes import ImageSpec


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
