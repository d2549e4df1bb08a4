"""Images with what they are conditioned on, as arrays; and which of them are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Place = TypeVar("Place", int, np.ndarray)


@dataclass(frozen=True)
class Rows:
    """Some images with their labels and vectors."""

    images_NCHW: np.ndarray  # uint8 levels
    labels_N: np.ndarray | None = None  # int32, -1 where an image has none; None when the data set has no labels
    vectors_NV: np.ndarray | None = None  # float32, NaN where an image has none; None when the data set has no vectors

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def part(self, start: int, stop: int) -> Rows:
        """Rows start..stop."""
        return self.at(slice(start, stop))

    def at(self, indices_N: np.ndarray | slice) -> Rows:
        """The rows of these indices, in their order."""
        labels_N, vectors_NV = (None if column is None else column[indices_N] for column in (self.labels_N, self.vectors_NV))
        return Rows(self.images_NCHW[indices_N], labels_N, vectors_NV)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """One or more pieces of a split, one after the other, in arrays of their own."""

        def column(name: str) -> np.ndarray | None:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        return Rows(np.concatenate([part.images_NCHW for part in parts]), column("labels_N"), column("vectors_NV"))


@dataclass
class Share:
    """One of those who share images out among them, in the order of their ranks."""

    rank: int = 0
    count: int = 1

    def share(self, start: Place, stop: Place) -> tuple[Place, Place]:
        """This one's part of a range (or of each of many): the parts are disjoint, cover it, and differ by one at most."""
        size = stop - start
        return start + self.rank * size // self.count, start + (self.rank + 1) * size // self.count
