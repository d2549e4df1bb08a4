"""The way from one context to another, with the noise held fixed: what the condition changes, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextBlend, PixelModel
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.raster import draw


def interpolate(model: PixelModel, first: Context, second: Context, num_steps: int, *, n: int, seed: int, guidance: float = 0.0) -> Tensor:
    """`n` images at each of `num_steps` evenly spaced points from one context to another; uint8 levels, steps N C H W.

    Args: `first` and `second` are the contexts of one image each. Image i has the same noise at every step; the
    encoded contexts are mixed (section 3.3, arXiv:1606.05328, does so with the embeddings of faces).
    Raises `UserError` for fewer than 2 steps, or a context that does not fit the model.
    """
    if num_steps < 2:
        raise UserError(f"{num_steps} steps asked for; give 2 (the two ends) or more")
    rows = torch.zeros(num_steps * n, dtype=torch.long)
    share_B = torch.linspace(0, 1, num_steps, dtype=torch.float64).repeat_interleave(n)
    u_BHWU = noise(model, n, seed).repeat(num_steps, 1, 1, 1)
    blend = ContextBlend(first.rows(rows), second.rows(rows), share_B)
    return draw(model, u_BHWU, blend, guidance).unflatten(0, (num_steps, n))
