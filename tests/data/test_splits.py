from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelmodels.data.splits import complete_splits, split_by_hash
from pixelmodels.errors import UserError

SHARES = {"test": 0.1, "validation": 0.2}


def test_shares_are_met_on_average() -> None:
    counts = Counter(split_by_hash([f"image-{i}" for i in range(20_000)], SHARES, seed=0))
    assert abs(counts["test"] - 2000) < 5 * 42 and abs(counts["validation"] - 4000) < 5 * 57


def test_an_image_keeps_its_split_when_others_come() -> None:
    few, many = [f"k{i}" for i in range(200)], [f"k{i}" for i in range(500)]
    assert split_by_hash(many, SHARES, 0)[:200] == split_by_hash(few, SHARES, 0)
    assert split_by_hash(few, SHARES, 1) != split_by_hash(few, SHARES, 0)


@given(st.sets(st.text(min_size=1), min_size=3, max_size=12), st.integers(0, 5))
def test_no_split_is_empty(keys: set[str], seed: int) -> None:
    ordered = sorted(keys)
    splits = split_by_hash(ordered, SHARES, seed)
    assert set(splits) == {"train", "validation", "test"}
    assert dict(zip(ordered[::-1], split_by_hash(ordered[::-1], SHARES, seed), strict=True)) == dict(zip(ordered, splits, strict=True))


def test_too_few_images_are_told() -> None:
    with pytest.raises(UserError, match="2 images cannot be split"):
        split_by_hash(["a", "b"], SHARES, 0)


def test_own_splits_are_kept_and_missing_ones_taken_from_train() -> None:
    keys = [f"k{i}" for i in range(100)]
    own: list[str | None] = ["test" if i < 10 else "train" for i in range(100)]
    splits = complete_splits(keys, own, SHARES, 0)
    assert splits[:10] == ["test"] * 10 and "test" not in splits[10:]
    assert 5 <= splits.count("validation") <= 35
    complete: list[str | None] = ["train", "validation", "test"]
    assert complete_splits(["a", "b", "c"], complete, SHARES, 0) == complete
