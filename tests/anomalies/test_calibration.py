"""A threshold means a false-alarm rate, whatever the scores are."""

from __future__ import annotations

import numpy as np
import pytest

from pixelmodels.anomalies.calibration import TAIL, Band, Combined, p_values, threshold


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


@pytest.mark.parametrize(("scores", "normal"), [([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_p_values_need_normal_scores(scores: list[float], normal: list[float]) -> None:
    with pytest.raises(ValueError, match="need normal scores"):
        p_values(np.array(scores), np.array(normal))


def test_a_band_has_its_tails_outside_and_its_ends_deviate_by_one() -> None:
    normal = np.random.default_rng(2).exponential(size=1001)
    band = Band.of(normal, "both")
    for share in ((normal < band.low).mean(), (normal > band.high).mean()):
        assert share == pytest.approx(TAIL, abs=0.001)
    assert band.deviation(np.array([band.low, band.middle, band.high])).tolist() == pytest.approx([1, 0, 1])
    assert band.deviation(np.array([band.middle - 1, band.middle + 1])).tolist() == pytest.approx(
        [1 / (band.middle - band.low), 1 / (band.high - band.middle)]
    )


def test_a_band_of_equal_values_tells_all_others() -> None:
    found = Band.of(np.full(5, 7.0), "both").deviation(np.array([7.0, 7.1, 6.9]))
    assert found[0] == 0 and (found[1:] > 1000).all()


def test_only_high_values_deviate_where_only_these_are_unusual() -> None:
    normal = np.random.default_rng(5).exponential(size=101)
    both, high = (Band.of(normal, side) for side in ("both", "high"))
    values = np.array([both.middle + 3, both.high, both.middle, both.low])
    assert high.deviation(values)[:3].tolist() == both.deviation(values)[:3].tolist()
    assert high.deviation(values)[3] == pytest.approx((both.low - both.middle) / (both.high - both.middle))
    assert high.deviation(values)[3] < 0 < both.deviation(values)[3]


def test_what_is_combined_is_the_largest_deviation() -> None:
    rng = np.random.default_rng(3)
    normal = {"a": rng.normal(size=400), "b": rng.normal(5, 2, 400), "c": np.zeros(400)}
    largest = Combined.of(normal, {"a": "both", "b": "high"})
    new = {"a": np.array([0.0, -8.0, 0.0, 0.0]), "b": np.array([5.0, 5.0, 25.0, -25.0]), "c": np.ones(4)}
    expected = np.maximum(Band.of(normal["a"], "both").deviation(new["a"]), Band.of(normal["b"], "high").deviation(new["b"]))
    assert largest(new).tolist() == expected.tolist()
    found = p_values(largest(new), largest(normal))
    assert found[1:3].tolist() == [1 / 401, 1 / 401] and found[0] > 0.5 and found[3] > 0.5


def test_false_alarms_of_the_largest_deviation_come_at_the_rate() -> None:
    """Bands are of the same normal images: 400 draws of 100 of them, and 100 new ones; five standard deviations."""
    rng, rates = np.random.default_rng(4), []
    for _ in range(400):
        normal, new = ({"a": rng.normal(size=100), "b": rng.exponential(size=100)} for _ in range(2))
        both = Combined.of(normal, {"a": "both", "b": "high"})
        rates.append((p_values(both(new), both(normal)) <= 0.1).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=5 * np.std(rates) / 20 + 0.01)
