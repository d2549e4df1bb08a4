"""Likelihoods of a model of several orders: of each one, and of their mixture.

The probability of an image by order o is what the model gives the turned image (`turns`), told the order: p_o(x) = p(T_o x | o). The
ensemble is the mixture of all K orders with equal weights, p(x) = sum_o p_o(x) / K: a distribution over images too, of which one draws
by drawing the order first (after arXiv:2006.12486). A model itself (`log_prob`, `forward`) only ever sees turned images.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models.base import PixelModel
from pixelmodels.models.context import Context, ContextBlend, Given
from pixelmodels.models.turns import check_order, places, places_back


def turned(values: Tensor, order_B: Tensor) -> Tensor:
    """Images (B C H W) or masks (B H W), each turned as its order (0 for -1) has it."""
    return _taken(values, torch.from_numpy(places(*values.shape[-2:]).copy()), order_B)


def turned_back(values: Tensor, order_B: Tensor) -> Tensor:
    """The inverse of `turned`."""
    return _taken(values, torch.from_numpy(places_back(*values.shape[-2:]).copy()), order_B)


def _taken(values: Tensor, places_KP: Tensor, order_B: Tensor) -> Tensor:
    flat = values.flatten(-2)
    index_BP = places_KP.to(values.device)[order_B.to(values.device).long().clamp(min=0)]
    index = index_BP.view(len(values), *[1] * (flat.dim() - 2), index_BP.shape[1]).expand_as(flat)
    return flat.gather(-1, index).view_as(values)


def in_order(context: Given, order_B: Tensor) -> Given:
    """A context of images as a model takes it that is given the turned images: given images turned likewise, and the order told.

    Raises `UserError` for a small image: every k-th pixel of an image is not every k-th pixel of the turned one.
    """
    if isinstance(context, ContextBlend):
        first, second = (_in_order(one, order_B) for one in (context.first, context.second))
        return replace(context, first=first, second=second)
    return _in_order(context or Context(), order_B)


def _in_order(context: Context, order_B: Tensor) -> Context:
    if context.small_BCHW is not None and bool((order_B > 0).any()):
        raise UserError("a small image is given and its pixels are not those of a turned image; use order 0, or leave it out")
    image_BCHW = None if context.image_BCHW is None else turned(context.image_BCHW, order_B)
    return replace(context, image_BCHW=image_BCHW, order_B=order_B)


def log_prob_map_of_order(model: PixelModel, x_BCHW: Tensor, context: Given = None, *, order: int) -> Tensor:
    """Log-probability of every pixel (all its channels) given the ones before it in an order; nats, B H W, as the image has them."""
    order_B = _order_of_all(model, x_BCHW, order)
    if order_B is None:
        return model.log_prob_map(x_BCHW, context)
    return turned_back(model.log_prob_map(turned(x_BCHW, order_B), in_order(context, order_B)), order_B)


def log_prob_of_order(model: PixelModel, x_BCHW: Tensor, context: Given = None, *, order: int) -> Tensor:
    """Exact log-probability of each image by one order, in nats, shaped B.

    Raises `UserError` for an order that the model does not have, and where `PixelModel.log_prob` does.
    """
    order_B = _order_of_all(model, x_BCHW, order)
    if order_B is None:
        return model.log_prob(x_BCHW, context)
    model.spec.check(x_BCHW)
    return model.log_prob(turned(x_BCHW, order_B), in_order(context, order_B))


def log_probs_of_orders(model: PixelModel, x_BCHW: Tensor, context: Given = None) -> Tensor:
    """`log_prob_of_order` of every order that the model has, one pass after the other: nats, B K."""
    num_orders = model.context_spec.num_orders
    return torch.stack([log_prob_of_order(model, x_BCHW, context, order=order) for order in range(num_orders)], 1)


def mixed(log_prob_BK: Tensor) -> Tensor:
    """The log of the mean of K probabilities: of their mixture with equal weights; nats, B."""
    num = log_prob_BK.shape[1]
    return log_prob_BK[:, 0] if num == 1 else log_prob_BK.logsumexp(1) - math.log(num)


def ensemble_log_prob(model: PixelModel, x_BCHW: Tensor, context: Given = None) -> Tensor:
    """Exact log-probability of each image under the mixture of all orders, in nats, shaped B; of one order that order's own.

    Of several orders in float64. Raises `UserError` where `PixelModel.log_prob` does.
    """
    log_prob_BK = log_probs_of_orders(model, x_BCHW, context)
    return mixed(log_prob_BK if log_prob_BK.shape[1] == 1 else log_prob_BK.double())


def _order_of_all(model: PixelModel, x_BCHW: Tensor, order: int) -> Tensor | None:
    """One order for each image; None for a model that is not told any."""
    check_order(order, model.context_spec.num_orders)
    return None if model.context_spec.num_orders == 1 else torch.full((len(x_BCHW),), order, device=x_BCHW.device)
