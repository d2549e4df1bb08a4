from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from pixelmodels.evaluation.nats import ImageNats, bootstrap_interval, compare, read_nats


def scored(keys: tuple[str, ...], nll_nats_N: np.ndarray) -> ImageNats:
    return ImageNats(keys, nll_nats_N, nll_nats_N / np.log(2))


def test_images_are_paired_by_key_in_any_order() -> None:
    challenger = scored(("b", "a", "c"), np.array([2.0, 1.0, 3.0]))
    champion = scored(("c", "b", "a"), np.array([5.0, 2.5, 1.25]))
    found = compare(challenger, champion, num_subpixels=4, num_resamples=500)
    np.testing.assert_allclose(found.bits_N, np.array([-0.25, -0.5, -2.0]) / (4 * np.log(2)), rtol=1e-12)
    assert found.mean == pytest.approx(found.bits_N.mean()) and found.low <= found.mean <= found.high
    swapped = compare(champion, challenger, num_subpixels=4, num_resamples=500)
    assert swapped.mean == -found.mean


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("a", "b"), r"1 only in the champion's \(such as 'c'\)"),
        (("a", "b", "d"), r"1 only in the challenger's \(such as 'd'\); 1 only in the champion's \(such as 'c'\)"),
    ],
)
def test_other_images_are_refused(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(scored(keys, np.zeros(len(keys))), scored(("a", "b", "c"), np.zeros(3)), 1)


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([0.0, np.nan, 1.0]), np.array([0.0, np.inf])])
def test_what_gives_no_interval_is_told(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an interval needs two or more"):
        bootstrap_interval(values, 0.95, 100, 0)


def test_no_difference_is_an_interval_of_one_point() -> None:
    assert bootstrap_interval(np.zeros(9), 0.95, 100, 0) == (0.0, 0.0)
    assert bootstrap_interval(np.full(9, -0.5), 0.95, 100, 0) == (-0.5, -0.5)


SKEWED_N = np.random.default_rng(5).gamma(0.5, size=60) - 0.6  # so that plain percentiles are another interval


@pytest.fixture(scope="module")
def resampled() -> Any:
    """SciPy's bootstrap of the mean, whose resamples serve every level and method."""
    return stats.bootstrap((SKEWED_N,), np.mean, n_resamples=100_000, method="percentile", rng=np.random.default_rng(1))


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_it_is_the_bca_interval_of_scipy(level: float, resampled: Any) -> None:
    low, high = bootstrap_interval(SKEWED_N, level, 100_000, 0)
    expected, percentiles = (
        stats.bootstrap(
            (SKEWED_N,), np.mean, confidence_level=level, n_resamples=0, bootstrap_result=resampled, method=method
        ).confidence_interval
        for method in ("BCa", "percentile")
    )
    assert abs(low - expected.low) < 0.25 * abs(percentiles.low - expected.low)
    assert abs(high - expected.high) < 0.25 * abs(percentiles.high - expected.high)


def test_it_is_a_function_of_the_seed_and_of_no_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values_N = np.random.default_rng(0).normal(size=30)
    one = bootstrap_interval(values_N, 0.95, 1000, 3)
    assert one == bootstrap_interval(values_N, 0.95, 1000, 3) != bootstrap_interval(values_N, 0.95, 1000, 4)
    monkeypatch.setattr("pixelmodels.evaluation.nats._DRAWS_AT_ONCE", 31)
    assert one == bootstrap_interval(values_N, 0.95, 1000, 3)


def test_about_95_of_100_intervals_hold_the_mean() -> None:
    rng, held = np.random.default_rng(2), 0
    for number in range(400):
        low, high = bootstrap_interval(rng.normal(1.0, size=50), 0.95, 400, number)
        held += low <= 1 <= high
    assert 0.90 < held / 400 < 0.975


def test_tables_that_are_none_are_told() -> None:
    with pytest.raises(ValueError, match="no table of keys and nats"):
        read_nats(b"PAR1 not really")
    without, twice = {"key": ["a"]}, {"key": ["a", "a"], "nll_nats": [1.0, 2.0], "bits_per_dim": [1.0, 2.0]}
    for columns, message in ((without, "no table of keys and nats"), (twice, "a key comes twice")):
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        with pytest.raises(ValueError, match=message):
            read_nats(sink.getvalue())
