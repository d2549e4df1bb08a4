"""The reference sampler: one forward pass of the whole image for every sub-pixel. The oracle, not a tool."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelmodels.models import PixelModel
from pixelmodels.models.context import Given
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.raster import check_guidance, choose, evaluating


def reference_sample(model: PixelModel, n: int, *, seed: int, context: Given = None, guidance: float = 0.0) -> Tensor:
    """Draw the images that `sample` draws, the slow way; uint8 levels shaped N C H W."""
    check_guidance(model, guidance)
    u_NHWU = noise(model, n, seed)
    channels, height, width = model.spec.shape
    groups = torch.tensor(model.param_groups, device=model.device)
    x_NCHW = torch.zeros(n, channels, height, width, dtype=torch.uint8, device=model.device)
    with evaluating(model), torch.no_grad():
        for place in torch.argsort(model.order().flatten()).tolist():
            r, c = divmod(place, width)
            for k in range(channels):
                mine = groups == k if model.num_groups > 1 else slice(None)
                params = [model(x_NCHW, given)[:, mine, r, c] for given in ((context, None) if guidance else (context,))]
                x_NCHW[:, k, r, c] = choose(model.likelihood, params, k, x_NCHW[:, :, r, c], u_NHWU[:, r, c], guidance).to(torch.uint8)
    return x_NCHW
