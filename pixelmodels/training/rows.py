"""Images with what they are conditioned on, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
        columns = (self.images_NCHW, self.labels_N, self.vectors_NV)
        images_NCHW, *others = (None if column is None else column[indices_N] for column in columns)
        assert images_NCHW is not None
        return Rows(images_NCHW, *others)
