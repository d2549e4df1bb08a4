"""Exact likelihoods of a split: every image scored once, by whichever worker, and summed in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import ContextSpec, PixelModel
from pixelmodels.models.orders import log_prob_of_order, log_probs_of_orders, mixed


@dataclass(frozen=True)
class Scores:
    """The likelihood of a split."""

    nll_nats: float  # mean nats an image
    bits_per_dim: float  # mean bits a sub-pixel
    bits_per_dim_stderr: float  # standard error of that mean over the images
    raster_bits_per_dim: float | None = None  # of a model of several orders, by the raster order alone: the others are of their mixture


def score_rows(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool = True) -> np.ndarray:
    """Nats of each of some images under a model in evaluation mode, given its whole context or none, as float64; in float32 throughout.

    A model of several orders is scored as the mixture of all of them (`models.orders`), which is what it draws from.
    """
    return mixed_nats(score_orders(model, rows, device, with_context=with_context))


@torch.no_grad()
def score_orders(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool = True, order: int | None = None) -> np.ndarray:
    """The same by each order that the model has, one pass after the other, so that it takes the memory of one: float64, N K.

    Args: `order`, the only one that is scored.
    """
    x_BCHW, context = to_tensors(rows, device, model.context_spec if with_context else ContextSpec())
    if order is None:
        log_prob_BK = log_probs_of_orders(model, x_BCHW, context)
    else:
        log_prob_BK = log_prob_of_order(model, x_BCHW, context, order=order)[:, None]
    return 0.0 - log_prob_BK.double().cpu().numpy()  # certain is 0, not -0


def mixed_nats(nats_NK: np.ndarray) -> np.ndarray:
    """Nats of images under the mixture of all orders, from their nats by each one."""
    return 0.0 - mixed(torch.from_numpy(0.0 - nats_NK)).numpy()


def standard_error(values_N: np.ndarray) -> float | None:
    """Of the mean of some values; None for one value alone."""
    return float(values_N.std(ddof=1) / math.sqrt(len(values_N))) if len(values_N) > 1 else None


def summarize(nll_nats_N: np.ndarray, num_subpixels: int) -> Scores:
    """Mean nats and bits/dim of a split, with the standard error of the mean."""
    mean = float(nll_nats_N.mean())
    stderr = standard_error(nll_nats_N) or 0.0
    return Scores(mean, float(bits_per_dim(mean, num_subpixels)), float(bits_per_dim(stderr, num_subpixels)))


def summarize_orders(nats_NK: np.ndarray, num_subpixels: int) -> Scores:
    """`summarize` of the mixture of all orders, from the nats of images by each one; with the raster order's own where there are others."""
    scores = summarize(mixed_nats(nats_NK), num_subpixels)
    if nats_NK.shape[1] == 1:
        return scores
    return replace(scores, raster_bits_per_dim=float(bits_per_dim(float(nats_NK[:, 0].mean()), num_subpixels)))
