"""Which split an image belongs to, by hash of its key: the same wherever and whenever it is asked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from pixelmodels.errors import UserError


def key_hash(key: str, seed: int, purpose: str) -> int:
    """63 bits that depend on the key, the seed and what they are for."""
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_indices(keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """A number for each key that names the image to `binarize_dynamic`, wherever the image is read from and in any order."""
    return np.array([key_hash(key, 0, "draw") for key in keys], np.int64)


def split_by_hash(keys: Sequence[str], shares: Mapping[str, float], seed: int, rest: str = "train") -> list[str]:
    """The split of each key: each split of `shares` has a range of hashes as long as its share, `rest` has what is left.

    An image keeps its split when others are added or removed, and shares are met on average. Only where a split would stay
    empty, the key whose hash is nearest to its range is moved to it. Raises `UserError` for fewer keys than splits.
    """
    if len(keys) <= len(shares):
        names = ", ".join([rest, *shares])
        raise UserError(f"{len(keys)} images cannot be split into {names}; give {len(shares) + 1} or more")
    places = [key_hash(key, seed, "split") / 2**63 for key in keys]
    ends = accumulate(shares.values(), initial=0.0)
    ranges = dict(zip([*shares, rest], pairwise([*ends, 1.0]), strict=True))
    splits = [next((name for name, (_, stop) in ranges.items() if place < stop), rest) for place in places]
    for name, (start, stop) in ranges.items():
        count = Counter(splits)
        if not count[name]:
            spare = [i for i, split in enumerate(splits) if count[split] > 1]
            nearest = min(spare, key=lambda i: (max(start - places[i], places[i] - stop), keys[i]))
            splits[nearest] = name
    return splits


def complete_splits(keys: Sequence[str], own: Sequence[str | None], shares: Mapping[str, float], seed: int) -> list[str]:
    """The source's own split of each key; a split that it does not have is taken by hash from the train images.

    Args: `own` is None for a key without a split; then it counts as a train image. `shares` are those of the other splits.
    """
    have = {split for split in own if split is not None}
    spare = [i for i, split in enumerate(own) if split in (None, "train")]
    missing = {split: share for split, share in shares.items() if split not in have}
    splits = [split or "train" for split in own]
    for i, split in zip(spare, split_by_hash([keys[i] for i in spare], missing, seed), strict=True):
        splits[i] = split
    return splits
