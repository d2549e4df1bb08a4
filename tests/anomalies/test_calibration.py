"""A threshold means a false-alarm rate, whatever the scores are."""

from __future__ import annotations

import numpy as np
import pytest

from pixelmodels.anomalies.calibration import p_values, threshold


def test_p_values_count_normal_images_that_score_as_high() -> None:
    normal = np.array([3.0, 1.0, 2.0, 2.0])
    assert p_values(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 9.0]), normal).tolist() == [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]


def test_of_all_orders_a_new_normal_image_comes_as_often_as_it_should() -> None:
    """Each of 20 scores in turn is the new one: p-values are 1/20, 2/20, ..., so that P(p <= rate) = rate at these."""
    scores = np.random.default_rng(0).normal(size=20) ** 3
    found = sorted(float(p_values(scores[i : i + 1], np.delete(scores, i))[0]) for i in range(20))
    assert found == pytest.approx((np.arange(20) + 1) / 20)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("ties", [False, True])
def test_above_the_threshold_are_those_whose_p_value_is_no_more_than_the_rate(rate: float, ties: bool) -> None:
    rng = np.random.default_rng(1)
    normal, new = rng.normal(size=199), rng.normal(size=500)
    if ties:
        normal, new = np.round(normal), np.round(new)
    least = threshold(normal, rate)
    assert least is not None
    assert np.array_equal(new > least, p_values(new, normal) <= rate)


def test_too_few_normal_images_have_no_threshold() -> None:
    assert threshold(np.zeros(98), 0.01) is None
    assert threshold(np.arange(99.0), 0.01) == 98.0  # above all of them
    assert threshold(np.arange(199.0), 0.01) == 197.0
    assert threshold(np.array([np.inf]), 0.5) is None  # that no score is above


@pytest.mark.parametrize(("scores", "normal"), [([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_p_values_need_normal_scores(scores: list[float], normal: list[float]) -> None:
    with pytest.raises(ValueError, match="need normal scores"):
        p_values(np.array(scores), np.array(normal))
