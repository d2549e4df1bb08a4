"""Images that a model is given, made of the images themselves: without their colours, or sub-sampled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

_LUMA = (299, 587, 114)  # thousandths of R, G and B; ITU-R BT.601


def grey(x_BCHW: Tensor) -> Tensor:
    """RGB images without their colours: ITU-R BT.601 luma rounded to the nearest level (halves up), integers, B 1 H W."""
    red, green, blue = x_BCHW.long().unbind(1)
    return ((_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 500) // 1000)[:, None]


def small(x_BCHW: Tensor, factor: int) -> Tensor:
    """Every `factor`-th pixel of every `factor`-th row, from the first on (multi-scale, arXiv:1601.06759): B C H/k W/k.

    Its pixels are pixels of the image.
    """
    return x_BCHW[:, :, ::factor, ::factor]


def factor_between(own: Sequence[int], given: Sequence[int]) -> int:
    """The least factor by which sub-sampling leaves images of one size (rows, columns) of images of another."""
    return max(-(-ours // theirs) for ours, theirs in zip(own, given, strict=True))
