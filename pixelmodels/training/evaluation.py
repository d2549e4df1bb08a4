"""Exact likelihoods of a split: every image scored once, by whichever worker, and summed in float64."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import ContextSpec, PixelModel
from pixelmodels.training.conditioning import to_tensors
from pixelmodels.training.rows import Rows
from pixelmodels.training.workers import Workers


@dataclass(frozen=True)
class Scores:
    """The likelihood of a split."""

    nll_nats: float  # mean nats an image
    bits_per_dim: float  # mean bits a sub-pixel
    bits_per_dim_stderr: float  # standard error of that mean over the images


def score(model: PixelModel, batches: Iterator[Rows], num_images: int, workers: Workers, device: torch.device) -> np.ndarray:
    """Nats of each image of a split given its whole context, in its order, known to every worker: float64, shape (num_images,).

    Args: `batches`, this worker's share of the split in order (see `Feed.rows_in_order`).
    """
    nll_nats_N = np.zeros(num_images)
    position, _ = workers.share(0, num_images)
    for rows in batches:
        nll_nats_N[position : position + len(rows)] = score_rows(model, rows, device)
        position += len(rows)
    return workers.sum(nll_nats_N)  # each entry is one worker's value and the others' zeros: exact


@torch.no_grad()
def score_rows(model: PixelModel, rows: Rows, device: torch.device, *, with_context: bool = True) -> np.ndarray:
    """Nats of each of some images under a model in evaluation mode, given its whole context or none, as float64; in float32 throughout."""
    x_BCHW, context = to_tensors(rows, device, model.context_spec if with_context else ContextSpec())
    log_prob_B = model.log_prob(x_BCHW, context)
    return -log_prob_B.double().cpu().numpy()


def summarize(nll_nats_N: np.ndarray, num_subpixels: int) -> Scores:
    """Mean nats and bits/dim of a split, with the standard error of the mean."""
    mean = float(nll_nats_N.mean())
    stderr = float(nll_nats_N.std(ddof=1) / np.sqrt(len(nll_nats_N))) if len(nll_nats_N) > 1 else 0.0
    return Scores(mean, float(bits_per_dim(mean, num_subpixels)), float(bits_per_dim(stderr, num_subpixels)))


def nats_table(keys: Sequence[str], labels_N: np.ndarray | None, nll_nats_N: np.ndarray, num_subpixels: int) -> bytes:
    """A Parquet file of the nats of each image: columns key, label (null where there is none), nll_nats, bits_per_dim."""
    labels = np.full(len(keys), -1) if labels_N is None else labels_N
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "label": pa.array([int(label) if label >= 0 else None for label in labels], pa.int32()),
        "nll_nats": pa.array(nll_nats_N, pa.float64()),
        "bits_per_dim": pa.array(bits_per_dim(torch.tensor(nll_nats_N), num_subpixels).numpy(), pa.float64()),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
