"""How well a score tells anomalous images from normal ones: areas under curves, with bootstrap intervals.

AUROC: the chance that an anomalous image scores higher than a normal one (ties count half). AUPRC: the average precision, anomalous
images being the ones that are looked for; of a score that tells nothing it is their share. FPR at 95% TPR: the share of normal images
that are told at the highest threshold at which at least 95% of the anomalous ones are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pixelmodels.pictures import figure, figure_png, plain

Float64 = npt.NDArray[np.float64]
TPR = 0.95
LEVEL = 0.95  # of intervals
_AT_ONCE = 2_000_000  # weights that are held


@dataclass(frozen=True)
class Interval:
    """A figure of two sets, and where 95% of those of resampled sets lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Separation:
    """What one score tells of two sets of images."""

    auroc: Interval
    auprc: Interval
    fpr_at_95_tpr: Interval


def separation(normal_N: Float64, anomalous_M: Float64, *, num_resamples: int = 1000, seed: int = 0) -> Separation:
    """Compare scores of normal and of anomalous images; higher is more anomalous.

    Intervals are percentiles of resamples, of each set with replacement; where the sets do not overlap they have no width, which says
    nothing of images that are in neither. Raises `ValueError` for an empty set, or a score that is NaN.
    """
    if not len(normal_N) or not len(anomalous_M) or np.isnan(normal_N).any() or np.isnan(anomalous_M).any():
        raise ValueError("two sets are compared by one score or more of each, and none of them may be NaN")
    is_anomalous = np.repeat([False, True], [len(normal_N), len(anomalous_M)])
    scores = np.concatenate([normal_N, anomalous_M])
    fpr, tpr, _ = roc_curve(is_anomalous, scores, drop_intermediate=False)
    values = (roc_auc_score(is_anomalous, scores), average_precision_score(is_anomalous, scores), fpr[np.argmax(tpr >= TPR)])
    ends_3E = np.quantile(_resampled(scores, is_anomalous, num_resamples, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1).T
    intervals = [Interval(float(value), float(low), float(high)) for value, (low, high) in zip(values, ends_3E, strict=True)]
    return Separation(*intervals)


def _resampled(scores: Float64, is_anomalous: npt.NDArray[np.bool_], num_resamples: int, seed: int) -> Float64:
    """The three figures of resamples, 3 R: how many times each image is drawn is its weight."""
    rng = np.random.default_rng(seed)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each group of equal scores
    counts = np.bincount(is_anomalous, minlength=2)
    at_once = max(1, _AT_ONCE // len(scores))
    parts = []
    for start in range(0, num_resamples, at_once):
        num = min(at_once, num_resamples - start)
        weights_RN = np.zeros((num, len(scores)), np.int64)
        for kind, count in enumerate(counts):
            weights_RN[:, is_anomalous == kind] = rng.multinomial(count, np.full(count, 1 / count), size=num)
        parts.append(_figures(weights_RN[:, order], is_anomalous[order], ends))
    return np.concatenate(parts, axis=1)


def _figures(weights_RN: npt.NDArray[np.int64], is_anomalous_N: npt.NDArray[np.bool_], ends_T: npt.NDArray[np.int64]) -> Float64:
    """AUROC, AUPRC and FPR at 95% TPR of weighted images in the order of falling scores, 3 R. Args: `ends_T`, where a threshold may be."""
    found_RT, alarms_RT = (np.cumsum(weights_RN * kind, axis=1)[:, ends_T] for kind in (is_anomalous_N, ~is_anomalous_N))
    recall_RT, fpr_RT = found_RT / found_RT[:, -1:], alarms_RT / alarms_RT[:, -1:]
    more_RT, wider_RT = np.diff(recall_RT, axis=1, prepend=0), np.diff(fpr_RT, axis=1, prepend=0)
    auroc_R = (wider_RT * (recall_RT - more_RT / 2)).sum(1)
    auprc_R = (more_RT * found_RT / np.maximum(found_RT + alarms_RT, 1)).sum(1)
    at_R = np.argmax(recall_RT >= TPR, axis=1)
    return np.stack([auroc_R, auprc_R, fpr_RT[np.arange(len(fpr_RT)), at_R]])


def roc_picture(scores: Mapping[str, tuple[Float64, Float64]], title: str, first: Sequence[str] = ()) -> bytes:
    """ROC curves of scores by name, each of normal and of anomalous images, as a PNG file. Args: `first`, names drawn in bold."""
    drawn = figure(5.2, 5)
    axes = drawn.add_subplot()
    axes.set_title(plain(title), loc="left", fontsize=10)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for name, (normal_N, anomalous_M) in scores.items():
        is_anomalous = np.repeat([0, 1], [len(normal_N), len(anomalous_M)])
        both = np.concatenate([normal_N, anomalous_M])
        fpr, tpr, _ = roc_curve(is_anomalous, both)
        label = f"{name}: AUROC {roc_auc_score(is_anomalous, both):.3f}"
        axes.plot(fpr, tpr, label=label, linewidth=2.4 if name in first else 1.2, zorder=3 if name in first else 2)
    axes.set(xlabel="normal images that are told", ylabel="anomalous images that are told", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    return figure_png(drawn)
