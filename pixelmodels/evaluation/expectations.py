"""What a model expects of an image: bits and entropy of each pixel, the expected image and the likeliest levels.

All of it is *teacher-forced*: the distribution of each pixel is the one given the pixels before it as the image has them. So it is
exact, as the likelihood is: the bits of the pixels are those of the image, and the entropy of a pixel is what its bits are on average
over all that the model holds possible there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.context import check_context
from pixelmodels.models.context_images import GivenPixels
from pixelmodels.models.orders import in_order, turned, turned_back
from pixelmodels.models.turns import check_order
from pixelmodels.products import products
from pixelmodels.sampling.raster import evaluating

MOST_ENTRIES = 1 << 18  # of a table over levels that is held at a time


@dataclass(frozen=True)
class Expectations:
    """What a model expects of each pixel of some images, given the pixels before it."""

    surprise_bits_BHW: Tensor  # -log2 of the probability of the pixel (all its channels); float64
    entropy_bits_BHW: Tensor  # of the distribution of its levels, summed over channels, each given the channels before it; float64
    expected_BCHW: Tensor  # mean of that distribution, in levels; float64
    likeliest_BCHW: Tensor  # its likeliest level, of several the lowest; int64

    def each(self) -> Iterator[Expectations]:
        """Of one image after the other, as a batch of one."""
        for index in range(len(self.surprise_bits_BHW)):
            yield Expectations(*(getattr(self, field.name)[index : index + 1] for field in fields(self)))


@torch.no_grad()
def expectations(model: PixelModel, x_BCHW: Tensor, context: Context | None = None, *, order: int | None = None) -> Expectations:
    """Surprise, entropy, mean and mode of every pixel given the ones before it in an order.

    The sum of an image's surprise is `log_prob` (of several orders `log_prob_of_order`) in bits. Of a multi-scale model the pixels of the
    small image come first, and the others know all of them. Pixels of a small image that is given are certain: 0 bits, 0 entropy.

    Args: `order`, of a model of several, which has to be given: a mixture of orders says nothing of a single pixel.
    Raises `UserError` for images, a context or an order that do not fit the model.
    """
    turned_BCHW, given, order_B = framed(model, x_BCHW, context, order)
    with evaluating(model), products("ieee", model.device):
        params_BPHW = model(turned_BCHW, given)
        log_prob_BHW = model.log_prob_map_of(params_BPHW, turned_BCHW, given)
        known = model.given_pixels(given)
        found = [
            [_of_levels(log_NL) for log_NL in _tables(model, params_BPHW, turned_BCHW, channel)] for channel in range(model.spec.channels)
        ]
    kinds = [[torch.cat(parts).view(log_prob_BHW.shape) for parts in zip(*of_channel, strict=True)] for of_channel in found]
    entropy_BCHW, expected_BCHW, likeliest_BCHW = (torch.stack(kind, 1) for kind in zip(*kinds, strict=True))
    maps = Expectations(0.0 - log_prob_BHW.double() / math.log(2), entropy_BCHW.sum(1) / math.log(2), expected_BCHW, likeliest_BCHW)
    if known is not None:
        maps = _with_certain(maps, known)
    if order_B is None:
        return maps
    return Expectations(*(turned_back(getattr(maps, field.name), order_B) for field in fields(maps)))


def framed(model: PixelModel, x_BCHW: Tensor, context: Context | None, order: int | None) -> tuple[Tensor, Context | None, Tensor | None]:
    """Images and their context as the model takes them, on its device, and by which order they are turned (None: there is only one).

    Raises `UserError` for what does not fit, and where an order has to be said.
    """
    num_orders = model.context_spec.num_orders
    if order is not None:
        check_order(order, num_orders)
    model.spec.check(x_BCHW)
    model.spec.check_values(x_BCHW)
    check_context(context, model.context_spec, len(x_BCHW))
    x_BCHW = x_BCHW.to(model.device)
    context = None if context is None else context.to(model.device)
    if num_orders == 1:
        return x_BCHW, context, None
    if order is None:
        raise UserError(f"a pixel costs something in one order only, not in a mixture of {num_orders}; give order, 0..{num_orders - 1}")
    order_B = torch.full((len(x_BCHW),), order, device=model.device)
    given = in_order(context, order_B)
    assert isinstance(given, Context)
    return turned(x_BCHW, order_B), given, order_B


def level_tables(model: PixelModel, params_BPHW: Tensor, x_BCHW: Tensor) -> Iterator[Tensor]:
    """Of each channel in turn its exact log-probabilities over levels at every pixel; nats, float64, B L H W.

    Those of a channel are given the channels before it as the images have them.
    """
    batch, _, height, width = params_BPHW.shape
    for channel in range(model.spec.channels):
        log_NL = torch.cat(list(_tables(model, params_BPHW, x_BCHW, channel)))
        yield log_NL.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _tables(model: PixelModel, params_BPHW: Tensor, x_BCHW: Tensor, channel: int) -> Iterator[Tensor]:
    """One channel's log-probabilities over levels, N L, of some pixels after the other: image by image, row by row."""
    own_BPHW = params_BPHW[:, model.params_of_group[channel]] if model.num_groups > 1 else params_BPHW
    at_once = max(1, MOST_ENTRIES // model.spec.levels)
    parts = (values.permute(0, 2, 3, 1).flatten(0, 2).split(at_once) for values in (own_BPHW, x_BCHW))
    for params_NP, x_NC in zip(*parts, strict=True):
        yield model.likelihood.table(params_NP.double(), channel, x_NC.long())


def _of_levels(log_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (nats), mean and mode of some distributions, N each."""
    p_NL = log_NL.exp()
    p_NL = p_NL / p_NL.sum(1, keepdim=True)  # the total differs from 1 by rounding
    levels_L = torch.arange(log_NL.shape[1], dtype=p_NL.dtype, device=p_NL.device)
    return torch.special.entr(p_NL).sum(1), (p_NL * levels_L).sum(1), p_NL.argmax(1)


def _with_certain(maps: Expectations, known: GivenPixels) -> Expectations:
    """Pixels that the context gives have no entropy, and are what they are; what they cost, 0, the likelihood has told."""
    mask_B1HW = known.mask_BHW[:, None]
    return replace(
        maps,
        entropy_bits_BHW=maps.entropy_bits_BHW.masked_fill(known.mask_BHW, 0.0),
        expected_BCHW=torch.where(mask_B1HW, known.x_BCHW.double(), maps.expected_BCHW),
        likeliest_BCHW=torch.where(mask_B1HW, known.x_BCHW, maps.likeliest_BCHW),
    )
