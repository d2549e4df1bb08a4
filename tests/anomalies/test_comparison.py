"""Areas under curves are scikit-learn's, and intervals those of weighted images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pixelmodels.anomalies import comparison
from pixelmodels.anomalies.comparison import roc_picture, separation


def test_figures_of_a_small_case() -> None:
    """Of 4 normal and 4 anomalous images 13 of 16 pairs are right, one of them a tie."""
    found = separation(np.array([0.0, 1.0, 2.0, 5.0]), np.array([2.0, 3.0, 4.0, 6.0]))
    assert found.auroc.value == pytest.approx(12.5 / 16)
    assert found.auprc.value == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 6) / 4)
    assert found.fpr_at_95_tpr.value == 0.5  # all four are told from 2 on, where 2 and 5 are told, too


@pytest.mark.parametrize("ties", [False, True])
def test_each_resample_has_the_figures_of_its_weights(ties: bool) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, 60) + np.repeat([0, 0.7], [35, 25])
    scores = np.round(scores, 0 if ties else 9)
    is_anomalous = np.repeat([False, True], [35, 25])
    weights_RN = rng.integers(0, 3, (20, 60))
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), 59)
    found = comparison._figures(weights_RN[:, order], is_anomalous[order], ends)
    for weights_N, (auroc, auprc, fpr95) in zip(weights_RN, found.T, strict=True):
        assert auroc == pytest.approx(roc_auc_score(is_anomalous, scores, sample_weight=weights_N))
        assert auprc == pytest.approx(average_precision_score(is_anomalous, scores, sample_weight=weights_N))
        fpr, tpr, _ = roc_curve(is_anomalous, scores, sample_weight=weights_N, drop_intermediate=False)
        assert fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95)])


def test_an_interval_of_the_area_is_as_wide_as_its_known_standard_error() -> None:
    """Of two sets alike, of n images each, the area's standard error is sqrt((2n + 1) / (12 n^2))."""
    rng, num = np.random.default_rng(2), 400
    found = separation(rng.normal(size=num), rng.normal(size=num), num_resamples=2000).auroc
    assert found.low < 0.5 < found.high and found.low < found.value < found.high
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.sqrt((2 * num + 1) / (12 * num**2)), rel=0.08)


def test_resamples_are_those_of_the_seed() -> None:
    rng = np.random.default_rng(3)
    sets = rng.normal(size=30), rng.normal(1, 1, 20)
    whole = separation(*sets, seed=4, num_resamples=50)
    assert whole == separation(*sets, seed=4, num_resamples=50) != separation(*sets, seed=5, num_resamples=50)


def test_sets_apart_and_single_images() -> None:
    apart = separation(np.array([0.0, 1.0]), np.array([2.0]))
    for one, value in ((apart.auroc, 1.0), (apart.auprc, 1.0), (apart.fpr_at_95_tpr, 0.0)):
        assert (one.value, one.low, one.high) == (value, value, value)
    same = separation(np.zeros(3), np.zeros(1))
    assert (same.auroc.value, same.auprc.value, same.fpr_at_95_tpr.value) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize("sets", [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_what_cannot_be_compared_is_refused(sets: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="one score or more of each"):
        separation(*map(np.array, sets))


@pytest.mark.parametrize("title", ["title", r"/data$\q/a against /data$/b", "a$_{ against b$"])
def test_the_picture_is_a_png_file_whatever_sets_are_called(title: str) -> None:
    data = roc_picture({"nats": (np.arange(3.0), np.arange(2.0, 5.0))}, title, first=("nats",))
    assert Image.open(io.BytesIO(data)).format == "PNG"
