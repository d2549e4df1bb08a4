"""The letters that name tensor dimensions, and the shape of the images that a model is built for.

    B  images of a batch                  H  rows of an image (r counts them)
    C  channels: of an image, or features W  columns of a row (c counts them)
    P  parameters of one pixel            K  mixture components
    L  levels: one entry for each value   N  images of a data set
    G  groups of features, one a channel of the image where the model orders the channels

A tensor's name ends in its letters: `x_BCHW`, `params_BPHW`, `nll_nats_B`. Inside a network features are
channel-last, so that one expression serves a whole map `h_BHWC`, one row `h_BWC` and one pixel `h_BC`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pixelmodels.errors import UserError

MIN_LEVELS = 2
MAX_LEVELS = 256


@dataclass(frozen=True)
class ImageSpec:
    """What every image of a data set looks like: integers in `[0, levels)`, shaped (channels, height, width)."""

    channels: int  # 1 (grey) or 3 (RGB); other counts are allowed, in their own order
    height: int  # rows
    width: int  # columns
    levels: int  # values one sub-pixel can take, 2..256

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            if getattr(self, name) < 1:
                raise UserError(f"image {name} {getattr(self, name)} is too small; give 1 or more")
        if not MIN_LEVELS <= self.levels <= MAX_LEVELS:
            raise UserError(f"{self.levels} levels asked for; give {MIN_LEVELS}..{MAX_LEVELS}")

    @property
    def num_subpixels(self) -> int:
        """Sub-pixels (channel values) of one image."""
        return self.channels * self.height * self.width

    @property
    def step(self) -> float:
        """From one level to the next on [-1, 1]."""
        return 2 / (self.levels - 1)

    def scaled(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Levels as points on [-1, 1], evenly spaced."""
        return x.to(dtype) * self.step - 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    def check(self, x_BCHW: torch.Tensor) -> None:
        """Raise `UserError` unless `x_BCHW` is a batch of integer images of this shape (values are not read)."""
        if x_BCHW.ndim != 4 or tuple(x_BCHW.shape[1:]) != self.shape:
            raise UserError(f"images of shape {tuple(x_BCHW.shape)} given; this model takes (batch, {', '.join(map(str, self.shape))})")
        if x_BCHW.is_floating_point():
            raise UserError(f"images of type {x_BCHW.dtype} given; give integers in [0, {self.levels})")

    def check_values(self, x_BCHW: torch.Tensor) -> None:
        """Raise `UserError` where a level is out of range (reads the values: on a GPU it waits for them)."""
        if x_BCHW.numel():
            low, high = (int(value) for value in torch.aminmax(x_BCHW))
            if low < 0 or high >= self.levels:
                raise UserError(f"level {low if low < 0 else high} is out of range; these images have levels 0..{self.levels - 1}")
