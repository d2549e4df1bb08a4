"""The code of levels: a proper one, the same for every arrangement, and of the lengths that its probabilities give."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pixelmodels.anomalies import level_code
from pixelmodels.anomalies.level_code import WEIGHTS, level_bits


def by_hand(channel_P: np.ndarray, levels: int, weight: float) -> float:
    """Bits of one channel, level after level."""
    counts, bits = np.zeros(levels), 0.0
    for level in channel_P:
        bits -= math.log2((counts[level] + weight) / (counts.sum() + weight * levels))
        counts[level] += 1
    return bits


def test_bits_are_those_of_levels_coded_one_after_the_other() -> None:
    images = np.random.default_rng(0).integers(0, 7, (3, 2, 4, 5)).astype(np.uint8)
    images[1] = 6
    expected = [
        sum(min(by_hand(channel.ravel(), 7, weight) for weight in WEIGHTS) + math.log2(len(WEIGHTS)) for channel in image)
        for image in images
    ]
    assert level_bits(images, 7).tolist() == pytest.approx(expected)


def test_few_levels_are_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(2).integers(0, 256, (7, 3, 4, 5)).astype(np.uint8)
    whole, sizes, count = level_bits(images, 256).tolist(), list[int](), np.bincount

    def counted(cells: np.ndarray, minlength: int) -> np.ndarray:
        sizes.append(cells.size)
        return count(cells, minlength=minlength)

    monkeypatch.setattr(level_code, "AT_ONCE", 60)
    monkeypatch.setattr(np, "bincount", counted)
    assert level_bits(images, 256).tolist() == whole and sizes == [60] * 7


def test_it_is_a_code_whose_lengths_allow_no_more_than_all_images() -> None:
    """Kraft's inequality, over all 3^4 images of four pixels and three levels; with one weight it is an equality."""
    images = np.array(list(itertools.product(range(3), repeat=4)), np.uint8).reshape(-1, 1, 2, 2)
    assert (2.0 ** -level_bits(images, 3)).sum() <= 1


@pytest.mark.parametrize("weight", WEIGHTS)
def test_with_one_weight_all_probability_is_used(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_code, "WEIGHTS", (weight,))
    images = np.array(list(itertools.product(range(3), repeat=4)), np.uint8).reshape(-1, 1, 2, 2)
    assert (2.0 ** -level_bits(images, 3)).sum() == pytest.approx(1)


def test_where_levels_are_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (4, 3, 6, 6)).astype(np.uint8)
    shuffled = rng.permuted(images.reshape(4, 3, -1), axis=2).reshape(images.shape)
    assert level_bits(images, 256).tolist() == level_bits(shuffled, 256).tolist()
    flat = np.full((1, 1, 16, 16), 9, np.uint8)
    noise = rng.integers(0, 256, flat.shape).astype(np.uint8)
    assert level_bits(flat, 256)[0] < 24 and 8 * 256 * 0.95 < level_bits(noise, 256)[0] < 8 * 256 * 1.03
