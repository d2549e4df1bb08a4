from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelmodels.data.config import SPLITS
from pixelmodels.data.splits import NO_SPLIT, complete_splits, split_by_hash, split_hashes
from pixelmodels.errors import UserError

SHARES = {"test": 0.1, "validation": 0.2}
TRAIN, VALIDATION, TEST = range(3)


def split(keys: Sequence[str], seed: int = 0) -> list[int]:
    return split_by_hash(split_hashes(keys, seed), SHARES).tolist()


def test_shares_are_met_on_average() -> None:
    counts = np.bincount(split([f"image-{i}" for i in range(20_000)]))
    assert abs(counts[TEST] - 2000) < 5 * 42 and abs(counts[VALIDATION] - 4000) < 5 * 57 and counts.sum() == 20_000


def test_the_hash_of_a_key_decides() -> None:
    """The ranges of the two shares come first, in their order."""
    hashes_N = np.array([0, 2**63 // 10 - 1000, 2**63 // 10 + 1000, 3 * 2**63 // 10 - 1000, 3 * 2**63 // 10 + 1000, 2**63 - 1], np.int64)
    assert split_by_hash(hashes_N, SHARES).tolist() == [TEST, TEST, VALIDATION, VALIDATION, TRAIN, TRAIN]
    # No hash is in the range of the test images: the nearest one becomes one, of a split that has another.
    assert split_by_hash(hashes_N[2:], SHARES).tolist() == [TEST, VALIDATION, TRAIN, TRAIN]


def test_an_image_keeps_its_split_when_others_come() -> None:
    few, many = [f"k{i}" for i in range(200)], [f"k{i}" for i in range(500)]
    assert split(many)[:200] == split(few)
    assert split(few, 1) != split(few, 0)


@given(st.sets(st.text(min_size=1), min_size=3, max_size=12), st.integers(0, 5))
def test_no_split_is_empty(keys: set[str], seed: int) -> None:
    ordered = sorted(keys)
    splits = split(ordered, seed)
    assert set(splits) == {TRAIN, VALIDATION, TEST}
    assert dict(zip(ordered[::-1], split(ordered[::-1], seed), strict=True)) == dict(zip(ordered, splits, strict=True))


def test_too_few_images_are_told() -> None:
    with pytest.raises(UserError, match="2 images cannot be split into train, test, validation; give 3 or more"):
        split(["a", "b"])


def test_own_splits_are_kept_and_missing_ones_taken_from_train() -> None:
    hashes_N = split_hashes([f"k{i}" for i in range(100)], 0)
    own_N = np.array([TEST if i < 10 else TRAIN if i % 2 else NO_SPLIT for i in range(100)], np.int8)
    splits_N = complete_splits(hashes_N, own_N, SHARES)
    assert (splits_N[:10] == TEST).all() and (splits_N[10:] != TEST).all()
    assert 5 <= (splits_N == VALIDATION).sum() <= 35
    np.testing.assert_array_equal(splits_N[10:], split_by_hash(hashes_N[10:], {"validation": 0.2}))
    complete_N = np.arange(len(SPLITS), dtype=np.int8)
    np.testing.assert_array_equal(complete_splits(hashes_N[:3], complete_N, SHARES), complete_N)
