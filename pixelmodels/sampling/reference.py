"""The reference sampler: one forward pass of the whole image for every sub-pixel. The oracle, not a tool."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelmodels.models import PixelModel
from pixelmodels.models.context import Given, order_alone
from pixelmodels.models.orders import in_order, turned, turned_back
from pixelmodels.products import products
from pixelmodels.sampling.choosing import Choice, check_options, choose
from pixelmodels.sampling.noise import noise
from pixelmodels.sampling.orders import order_of_image
from pixelmodels.sampling.raster import evaluating


def reference_sample(
    model: PixelModel,
    n: int,
    *,
    seed: int,
    first: int = 0,
    context: Given = None,
    guidance: float = 0.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    known_NCHW: Tensor | None = None,
    known_mask_NHW: Tensor | None = None,
    num_pixels: int | None = None,
    order: int | None = None,
) -> Tensor:
    """Draw the images that `sample` and the engine draw, the slow way; uint8 levels shaped N C H W.

    Args: as of `sample` and of the engine's `Request`, known pixels for each of the `n` images. `num_pixels`: only so many, the
    first ones of the model's order; the others stay 0.
    """
    check_options(model, guidance, temperature, top_p)
    u_NHWU, choice = noise(model, n, seed, first), Choice.of([(guidance, temperature, top_p)] * n, model.device)
    channels, height, width = model.spec.shape
    order_N = None
    if model.context_spec.num_orders > 1:
        masks = [None] * n if known_mask_NHW is None else [mask_HW.numpy() for mask_HW in known_mask_NHW.cpu()]
        orders = [order_of_image(model, seed, first + i, masks[i], order) for i in range(n)]
        order_N = torch.tensor(orders, device=model.device)
        context = in_order(context, order_N)
        if known_NCHW is not None and known_mask_NHW is not None:
            known_NCHW, known_mask_NHW = turned(known_NCHW, order_N), turned(known_mask_NHW, order_N)
    given_pixels = model.given_pixels(context)
    contexts = (context, order_alone(context)) if guidance else (context,)
    x_NCHW = torch.zeros(n, channels, height, width, dtype=torch.uint8, device=model.device)
    with evaluating(model), torch.no_grad(), products("ieee", model.device):
        for place in torch.argsort(model.pixel_ranks().flatten())[:num_pixels].tolist():
            r, c = divmod(place, width)
            for k in range(channels):
                if k < model.num_groups:  # else the channels before are told to the likelihood alone
                    mine = model.params_of_group[k]
                    params = [model(x_NCHW, given)[:, mine, r, c] for given in contexts]
                x_N = choose(model.likelihood, params, k, x_NCHW[:, :, r, c], u_NHWU[:, r, c], choice)
                if known_NCHW is not None and known_mask_NHW is not None:
                    x_N = torch.where(known_mask_NHW[:, r, c], known_NCHW[:, k, r, c], x_N)
                if given_pixels is not None:
                    x_N = torch.where(given_pixels.mask_BHW[:, r, c], given_pixels.x_BCHW[:, k, r, c], x_N)
                x_NCHW[:, k, r, c] = x_N.to(torch.uint8)
    return x_NCHW if order_N is None else turned_back(x_NCHW, order_N)
