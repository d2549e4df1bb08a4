"""Two models on the same test images: the mean difference of their likelihoods, paired image by image, with a bootstrap interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pixelmodels.data.shards import read_parquet
from pixelmodels.errors import first_line
from pixelmodels.likelihoods.bits import bits_per_dim

TEST_NATS = "test_nats.parquet"  # in a run's folder, and artifact of its MLflow run: the nats of each test image
OF_ORDERS = "nll_nats_of_orders"  # column of the nats by each order, of a model of several
_DRAWS_AT_ONCE = 4_000_000  # indices that are held at a time
_NAMED = 3  # keys that a message shows


@dataclass(frozen=True)
class ImageNats:
    """Negative log-likelihood of each test image under one model."""

    keys: tuple[str, ...]  # of the images
    nll_nats_N: npt.NDArray[np.float64]  # nats of the whole image, in the order of the keys
    bits_per_dim_N: npt.NDArray[np.float64]  # the same in bits a sub-pixel

    def at(self, keys: Sequence[str]) -> npt.NDArray[np.float64]:
        """Nats of these images, in this order; raises `KeyError` for one that was not scored."""
        position = {key: index for index, key in enumerate(self.keys)}
        return self.nll_nats_N[[position[key] for key in keys]]


@dataclass(frozen=True)
class Comparison:
    """Challenger minus champion over the same images; below zero: the challenger is better."""

    bits_N: npt.NDArray[np.float64]  # difference of each image, bits/dim
    mean: float  # bits/dim
    low: float  # lower end of the interval of that mean, bits/dim
    high: float  # upper end
    level: float  # share of such intervals that hold the true mean


def nats_table(
    keys: Sequence[str], labels_N: np.ndarray | None, nll_nats_N: np.ndarray, num_subpixels: int, nats_NK: np.ndarray | None = None
) -> bytes:
    """A Parquet file of the nats of each image: columns key, label (null where there is none), nll_nats, bits_per_dim.

    Of a model of several orders also nll_nats_of_orders, a list of K. Args: `nats_NK`, the nats by each order; None: there is one.
    """
    labels = np.full(len(keys), -1) if labels_N is None else labels_N
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "label": pa.array([int(label) if label >= 0 else None for label in labels], pa.int32()),
        "nll_nats": pa.array(nll_nats_N, pa.float64()),
        "bits_per_dim": pa.array(bits_per_dim(torch.tensor(nll_nats_N), num_subpixels).numpy(), pa.float64()),
    }
    if nats_NK is not None and nats_NK.shape[1] > 1:
        columns[OF_ORDERS] = pa.FixedSizeListArray.from_arrays(nats_NK.ravel(), nats_NK.shape[1])
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def read_nats(data: bytes) -> ImageNats:
    """What `nats_table` wrote, labels aside; raises `ValueError` for anything else, or a key that comes twice."""
    try:
        table = read_parquet(data, ["key", "nll_nats", "bits_per_dim"])
        keys = tuple(table["key"].to_pylist())
        nll_nats_N, bits_per_dim_N = (table[name].to_numpy().astype(np.float64) for name in ("nll_nats", "bits_per_dim"))
    except MemoryError:  # Arrow's is one of its own errors too
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is no table of keys and nats ({first_line(error)})") from error
    if len(set(keys)) != len(keys):
        raise ValueError("a key comes twice")
    return ImageNats(keys, nll_nats_N, bits_per_dim_N)


def difference_of_keys(first: Sequence[str], second: Sequence[str], names: tuple[str, str]) -> str | None:
    """How two lists of images differ, in words; None when they hold the same ones (in any order)."""
    only = [sorted(set(one) - set(other)) for one, other in ((first, second), (second, first))]
    said = [
        f"{len(keys)} only in {name} (such as {', '.join(map(repr, keys[:_NAMED]))})"
        for name, keys in zip(names, only, strict=True)
        if keys
    ]
    return "; ".join(said) or None


def compare(
    challenger: ImageNats, champion: ImageNats, num_subpixels: int, *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Pair two models' nats by key, and find how sure their mean difference is.

    Args: `level`, of the interval, between 0 and 1; `num_resamples` and `seed`, of the bootstrap. Raises `ValueError` when they
    were not scored on the same images, or on fewer than two.
    """
    unlike = difference_of_keys(challenger.keys, champion.keys, ("the challenger's", "the champion's"))
    if unlike is not None:
        raise ValueError(f"the test images differ: {unlike}")
    keys = sorted(challenger.keys)
    bits_N = np.asarray([bits_per_dim(float(nats), num_subpixels) for nats in challenger.at(keys) - champion.at(keys)])
    low, high = bootstrap_interval(bits_N, level, num_resamples, seed)
    return Comparison(bits_N, float(bits_N.mean()), low, high, level)


def bootstrap_interval(values_N: npt.NDArray[np.float64], level: float, num_resamples: int, seed: int) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) bootstrap interval of a mean; a function of its arguments.

    Unlike the plain percentiles it follows the skew of the differences, which a few images often cause (Efron, Better bootstrap
    confidence intervals, JASA 82, 1987, sections 2 and 4). Raises `ValueError` for fewer than two values, or one that is not finite.
    """
    if len(values_N) < 2 or not np.isfinite(values_N).all():
        raise ValueError(
            f"{len(values_N)} differences, {int((~np.isfinite(values_N)).sum())} of them not finite; an interval needs two or more"
        )
    mean = float(values_N.mean())
    centred_N = values_N - mean
    if not centred_N.any():
        return mean, mean
    means_R = _resampled_means(values_N, num_resamples, seed)
    normal = NormalDist()
    below = (np.count_nonzero(means_R < mean) + 0.5 * np.count_nonzero(means_R == mean)) / num_resamples
    half = 0.5 / num_resamples
    bias = normal.inv_cdf(float(np.clip(below, half, 1 - half)))
    acceleration = float((centred_N**3).sum() / (6 * (centred_N**2).sum() ** 1.5))  # of a mean, the jackknife has this closed form
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means_R, ends)
    return float(low), float(high)


def _resampled_means(values_N: npt.NDArray[np.float64], num_resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Means of as many values drawn with replacement."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(values_N))
    counts = [min(at_once, num_resamples - start) for start in range(0, num_resamples, at_once)]
    return np.concatenate([values_N[rng.integers(0, len(values_N), (count, len(values_N)))].mean(1) for count in counts])
