"""Images for the workers of a run: from memory when a split is small, streamed by tasks of the cluster when it is large.

The rows of a training step are a function of (seed, epoch, step) and nothing else; the workers of a run share them
out in rank order, so that their number changes who scores an image and never which images a step has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from pixelmodels.data import SPLITS, Dataset
from pixelmodels.data.rows import Rows, Share
from pixelmodels.data.streaming import StreamedFeed, Tasks, Windows, WindowTasks, drawn

RESIDENT_BYTES = 512 << 20  # splits of less are read once by each worker


class Feed(Protocol):
    """Where a worker's images come from."""

    def begin(self, epoch: int) -> None:
        """Start to read what an epoch begins with; call it when all workers have their rows of the epoch before."""
        ...

    def training_rows(self, epoch: int, first_step: int) -> Iterator[tuple[Rows, int]]:
        """This worker's rows of each step of an epoch, from `first_step` on, with the step's rows over all workers."""
        ...

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """The places in the train split of all images of a step of an epoch, whoever scores them."""
        ...

    def rows_in_order(self, split: str, batch_size: int) -> Iterator[Rows]:
        """This worker's share of a split, in the split's own order."""
        ...


class ResidentFeed:
    """Splits held in memory; an epoch's order is one permutation of all training images."""

    def __init__(self, dataset: Dataset, share: Share, *, seed: int, batch_size: int) -> None:
        self._dataset, self._share, self._seed, self._batch_size = dataset, share, seed, batch_size
        self._splits: dict[str, Rows] = {}

    def begin(self, epoch: int) -> None:
        """See `Feed`."""

    def training_rows(self, epoch: int, first_step: int) -> Iterator[tuple[Rows, int]]:
        """See `Feed`."""
        rows = self._split("train")
        order = epoch_order(self._seed, epoch, len(rows))
        for start in range(first_step * self._batch_size, len(rows), self._batch_size):
            stop = min(start + self._batch_size, len(rows))
            first, last = self._share.share(start, stop)
            indices = order[first:last]
            yield drawn(rows.at(indices), self._dataset, self._seed, epoch, indices), stop - start

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """See `Feed`."""
        return epoch_order(self._seed, epoch, self._dataset.num_images("train"))[step * self._batch_size :][: self._batch_size]

    def rows_in_order(self, split: str, batch_size: int) -> Iterator[Rows]:
        """See `Feed`."""
        rows = self._split(split)
        first, last = self._share.share(0, len(rows))
        for start in range(first, last, batch_size):
            yield rows.part(start, min(start + batch_size, last))

    def _split(self, split: str) -> Rows:
        if split not in self._splits:
            self._splits[split] = self._dataset.read(split).rows
        return self._splits[split]


class SizedFeed:
    """Each split from memory or streamed, by its size.

    Args: `resident_bytes`, of which a split has more that is streamed, `RESIDENT_BYTES` unless given; `shared`, called where a
    split is streamed, which gives tasks that all workers share (each has its own unless given).
    """

    def __init__(
        self,
        dataset: Dataset,
        share: Share,
        *,
        seed: int,
        batch_size: int,
        resident_bytes: int | None = None,
        shared: Callable[[Windows], Tasks] | None = None,
    ) -> None:
        least = RESIDENT_BYTES if resident_bytes is None else resident_bytes
        is_streamed = {split: dataset.split_bytes(split) >= least for split in SPLITS}
        tasks = shared(Windows(dataset, seed, batch_size, share.count)) if shared and any(is_streamed.values()) else None
        resident = ResidentFeed(dataset, share, seed=seed, batch_size=batch_size)
        streamed = StreamedFeed(dataset, share, seed=seed, batch_size=batch_size, tasks=tasks)
        self._of: dict[str, Feed] = {split: streamed if is_streamed[split] else resident for split in SPLITS}

    def begin(self, epoch: int) -> None:
        """See `Feed`."""
        self._of["train"].begin(epoch)

    def training_rows(self, epoch: int, first_step: int) -> Iterator[tuple[Rows, int]]:
        """See `Feed`."""
        return self._of["train"].training_rows(epoch, first_step)

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """See `Feed`."""
        return self._of["train"].indices(epoch, step)

    def rows_in_order(self, split: str, batch_size: int) -> Iterator[Rows]:
        """See `Feed`."""
        return self._of[split].rows_in_order(split, batch_size)


def first_rows(dataset: Dataset, *, seed: int, batch_size: int) -> Rows:
    """All rows of a run's first step, whichever workers score them later."""
    feed = SizedFeed(dataset, Share(), seed=seed, batch_size=batch_size, shared=lambda windows: WindowTasks(windows, ahead=0))
    rows, _ = next(feed.training_rows(0, 0))
    return rows


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """The order in which an epoch goes through the training images: a permutation, by seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)
