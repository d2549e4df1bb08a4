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

    def put(self, indices_N: np.ndarray, rows: Rows, from_N: np.ndarray) -> None:
        """Overwrite the rows of these indices by others' rows `from_N`."""
        self.images_NCHW[indices_N] = rows.images_NCHW[from_N]
        for mine, theirs in ((self.labels_N, rows.labels_N), (self.vectors_NV, rows.vectors_NV)):
            if mine is not None and theirs is not None:
                mine[indices_N] = theirs[from_N]

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """One or more pieces of a split, one after the other, in arrays of their own."""
        images_NCHW = np.concatenate([part.images_NCHW for part in parts])
        columns = zip(*[(part.labels_N, part.vectors_NV) for part in parts], strict=True)
        return Rows(images_NCHW, *[None if column[0] is None else np.concatenate(column) for column in columns])


@dataclass
class Share:
    """One of those who share images out among them, in the order of their ranks."""

    rank: int = 0
    count: int = 1

    def share(self, start: Place, stop: Place) -> tuple[Place, Place]:
        """This one's part of a range (or of each of many): the parts are disjoint, cover it, and differ by one at most."""
        size = stop - start
        return start + self.rank * size // self.count, start + (self.rank + 1) * size // self.count
