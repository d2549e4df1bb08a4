"""A small image that is given is made of pixels of the image itself: those are known, as in a multi-scale model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelmodels.models.context import ContextBlend, Given, whole_factors
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
    """The pixels of images of shape `spec` that a context has accepted by `check_context` gives; None where it gives none.

    Args: `small`, the shape of the small images that the model was built for. Of two contexts that are blended, what both give.
    """
    if small is None or context is None:
        return None
    if isinstance(context, ContextBlend):
        first, second = (given_pixels(one, small, spec) for one in (context.first, context.second))
        if first is None or second is None:
            return None
        agree_BHW = (first.x_BCHW == second.x_BCHW).all(1)
        return GivenPixels(first.x_BCHW, first.mask_BHW & second.mask_BHW & agree_BHW)
    small_BCHW = context.small_BCHW
    if small_BCHW is None:
        return None
    (every_row, every_column), _ = whole_factors(small, spec)
    batch, (_, height, width) = len(small_BCHW), spec.shape
    x_BCHW = torch.zeros(batch, *spec.shape, dtype=torch.long, device=small_BCHW.device)
    x_BCHW[..., ::every_row, ::every_column] = small_BCHW.long()
    mask_BHW = torch.zeros(batch, height, width, dtype=torch.bool, device=small_BCHW.device)
    mask_BHW[:, ::every_row, ::every_column] = (small_BCHW >= 0).all(1)
    return GivenPixels(x_BCHW, mask_BHW)
