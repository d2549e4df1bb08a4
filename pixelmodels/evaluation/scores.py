"""Exact likelihoods of a split: every image scored once, by whichever worker, and summed in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import ContextSpec, PixelModel


@dataclass(frozen=True)
class Scores:
    """The likelihood of a split."""

    nll_nats: float  # mean nats an image
    bits_per_dim: float  # mean bits a sub-pixel
    bits_per_dim_stderr: float  # standard error of that mean over the images


@torch.no_grad()
def score_rows(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool = True) -> np.ndarray:
    """Nats of each of some images under a model in evaluation mode, given its whole context or none, as float64; in float32 throughout."""
    x_BCHW, context = to_tensors(rows, device, model.context_spec if with_context else ContextSpec())
    log_prob_B = model.log_prob(x_BCHW, context)
    return 0.0 - log_prob_B.double().cpu().numpy()  # certain is 0, not -0


def standard_error(values_N: np.ndarray) -> float | None:
    """Of the mean of some values; None for one value alone."""
    return float(values_N.std(ddof=1) / math.sqrt(len(values_N))) if len(values_N) > 1 else None


def summarize(nll_nats_N: np.ndarray, num_subpixels: int) -> Scores:
    """Mean nats and bits/dim of a split, with the standard error of the mean."""
    mean = float(nll_nats_N.mean())
    stderr = standard_error(nll_nats_N) or 0.0
    return Scores(mean, float(bits_per_dim(mean, num_subpixels)), float(bits_per_dim(stderr, num_subpixels)))
