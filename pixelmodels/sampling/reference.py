"""The reference sampler: one forward pass of the whole image for every sub-pixel. The oracle, not a tool."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelmodels.models import Context, PixelModel
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.raster import evaluating


def reference_sample(model: PixelModel, n: int, *, seed: int, context: Context | None = None) -> Tensor:
    """Draw the images that `sample` draws, the slow way; uint8 levels shaped N C H W."""
    u_NHWU = noise(model, n, seed)
    channels, height, width = model.spec.shape
    groups = torch.tensor(model.param_groups, device=model.device)
    x_NCHW = torch.zeros(n, channels, height, width, dtype=torch.uint8, device=model.device)
    with evaluating(model), torch.no_grad():
        for r in range(height):
            for c in range(width):
                for k in range(channels):
                    params_NP = model(x_NCHW, context)[:, :, r, c]
                    params_NP = params_NP[:, groups == k] if model.num_groups > 1 else params_NP
                    x_N = model.likelihood.draw(params_NP, k, x_NCHW[:, :, r, c], u_NHWU[:, r, c])
                    x_NCHW[:, k, r, c] = x_N.to(torch.uint8)
    return x_NCHW
