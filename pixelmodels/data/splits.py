"""Which split an image belongs to, by hash of its key: the same wherever and whenever it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from pixelmodels.data.config import SPLITS
from pixelmodels.errors import UserError

Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

NO_SPLIT = -1  # of an image whose source says none


def key_hash(key: str, seed: int, purpose: str) -> int:
    """63 bits that depend on the key, the seed and what they are for."""
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_indices(keys: Sequence[str]) -> Int64:
    """A number for each key that names the image to `binarize_dynamic`, wherever the image is read from and in any order."""
    return np.array([key_hash(key, 0, "draw") for key in keys], np.int64)


def split_hashes(keys: Sequence[str], seed: int) -> Int64:
    """What decides the split of each key where its source does not."""
    return np.array([key_hash(key, seed, "split") for key in keys], np.int64)


def split_by_hash(hashes_N: Int64, shares: Mapping[str, float], rest: str = "train") -> Int8:
    """The split of each hash, as its place in `SPLITS`: each of `shares` has a range of hashes as long as its share, `rest` what is left.

    An image keeps its split when others are added or removed, and shares are met on average. Only where a split would stay
    empty, the image whose hash is nearest to its range is moved to it. Raises `UserError` for fewer images than splits.
    """
    if len(hashes_N) <= len(shares):
        raise UserError(f"{len(hashes_N)} images cannot be split into {', '.join([rest, *shares])}; give {len(shares) + 1} or more")
    places_N = hashes_N / 2.0**63
    names, ends = [*shares, rest], list(accumulate(shares.values(), initial=0.0))
    codes = np.array([SPLITS.index(name) for name in names], np.int8)
    splits_N = codes[np.searchsorted(ends[1:], places_N, side="right")]
    for code, (start, stop) in zip(codes, pairwise([*ends, 1.0]), strict=True):
        counts = np.bincount(splits_N, minlength=len(SPLITS))
        if not counts[code]:
            spare = np.flatnonzero(counts[splits_N] > 1)
            distances = np.maximum(start - places_N[spare], places_N[spare] - stop)
            splits_N[spare[distances.argmin()]] = code
    return splits_N


def complete_splits(hashes_N: Int64, own_N: Int8, shares: Mapping[str, float]) -> Int8:
    """The source's own split of each image, as its place in `SPLITS`; one that it does not have is taken by hash from the train images.

    Args: `own_N` is `NO_SPLIT` for an image without a split; then it counts as a train image. `shares` are those of the other splits.
    """
    train = SPLITS.index("train")
    (spare,) = np.nonzero((own_N == NO_SPLIT) | (own_N == train))
    missing = {split: share for split, share in shares.items() if not (own_N == SPLITS.index(split)).any()}
    splits_N = np.where(own_N == NO_SPLIT, np.int8(train), own_N)
    splits_N[spare] = split_by_hash(hashes_N[spare], missing)
    return splits_N
