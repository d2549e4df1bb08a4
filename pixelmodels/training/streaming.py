"""Splits that do not fit in memory, streamed through Ray Data shard by shard.

What is guaranteed: an epoch's order is a function of (seed, epoch) and of the shards alone, whatever the number of workers, and a run
that goes on in the middle of an epoch reads on at the right row. Shards come in an order that is shuffled anew each epoch; rows are
shuffled within windows of `WINDOW_SHARDS` shards that follow each other, so two images of distant shards never swap places.

Each worker reads every shard of the epoch and keeps its own rows: only those are sent to it and decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pixelmodels.data import Dataset, binarize_dynamic, decode_labels, decode_rows, decode_vectors
from pixelmodels.data.shards import columns_of
from pixelmodels.training.rows import Rows
from pixelmodels.training.workers import Workers

WINDOW_SHARDS = 4  # shards whose rows are shuffled together, and held in memory by one task


@dataclass(frozen=True)
class EpochReader:
    """Which rows of an epoch belong to one worker, and how they are read: a function of a window's number."""

    dataset: Dataset
    seed: int
    epoch: int
    batch_size: int  # images a step, over all workers
    first_step: int  # steps before this one are left out
    rank: int
    num_workers: int

    @property
    def num_windows(self) -> int:
        """Windows of the epoch."""
        return -(-len(self.dataset.shards("train")) // WINDOW_SHARDS)

    def window(self, number: int) -> tuple[list[int], int]:
        """Shards of a window, in the epoch's order, and the place of its first row in the epoch."""
        shards = self.dataset.shards("train")
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(shards))
        first = number * WINDOW_SHARDS
        start = sum(shards[index]["num_images"] for index in order[:first])
        return [int(index) for index in order[first : first + WINDOW_SHARDS]], start

    def has_rows(self, number: int) -> bool:
        """Whether a window has rows of the steps that are asked for."""
        shards, start = self.window(number)
        return start + sum(self.dataset.shards("train")[index]["num_images"] for index in shards) > self.first_step * self.batch_size

    def read(self, number: int) -> pa.Table:
        """This worker's rows of a window, in the epoch's order: the columns of the images, and index, the row's place in the split."""
        chosen, start = self.window(number)
        sizes = [shard["num_images"] for shard in self.dataset.shards("train")]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        table = pa.concat_tables([_read_shard(self.dataset, "train", index) for index in chosen])
        indices = np.concatenate([np.arange(offsets[index], offsets[index + 1]) for index in chosen])
        order = np.random.default_rng([self.seed, self.epoch, number]).permutation(len(table))
        mine = order[self._is_mine(start + np.arange(len(order)))]
        return table.take(pa.array(mine)).append_column("index", pa.array(indices[mine]))

    def _is_mine(self, places: np.ndarray) -> np.ndarray:
        """Whether this worker scores the row at each place of the epoch; the same shares as `Workers.share`."""
        first = places // self.batch_size * self.batch_size
        size = np.minimum(self.batch_size, self.dataset.num_images("train") - first)
        offset = places - first
        lower, upper = self.rank * size // self.num_workers, (self.rank + 1) * size // self.num_workers
        asked: np.ndarray = (offset >= lower) & (offset < upper) & (places >= self.first_step * self.batch_size)
        return asked


class StreamedFeed:
    """A worker's rows of large splits; see `feeds.Feed`."""

    def __init__(self, dataset: Dataset, workers: Workers, *, seed: int, batch_size: int) -> None:
        self._dataset, self._workers, self._seed, self._batch_size = dataset, workers, seed, batch_size

    def training_rows(self, epoch: int, first_step: int) -> Iterator[tuple[Rows, int]]:
        """See `Feed`."""
        dataset, workers = self._dataset, self._workers
        reader = EpochReader(dataset, self._seed, epoch, self._batch_size, first_step, workers.rank, workers.count)
        windows = [number for number in range(reader.num_windows) if reader.has_rows(number)]
        rows = _Cutter(_stream(reader.read, windows))
        total = dataset.num_images("train")
        for start in range(first_step * self._batch_size, total, self._batch_size):
            stop = min(start + self._batch_size, total)
            first, last = workers.share(start, stop)
            table = rows.take(last - first)
            part = rows_of(table, dataset)
            if dataset.train_images_are_grey:
                images = binarize_dynamic(part.images_NCHW, seed=self._seed, epoch=epoch, indices_N=table["index"].to_numpy())
                part = replace(part, images_NCHW=images)
            yield part, stop - start

    def rows_in_order(self, split: str, batch_size: int) -> Iterator[Rows]:
        """See `Feed`."""
        first, last = self._workers.share(0, self._dataset.num_images(split))
        sizes = [shard["num_images"] for shard in self._dataset.shards(split)]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        dataset = self._dataset

        def read(number: int) -> pa.Table:
            begin, end = max(first, offsets[number]) - offsets[number], min(last, offsets[number + 1]) - offsets[number]
            return _read_shard(dataset, split, number).slice(begin, end - begin)

        rows = _Cutter(_stream(read, [number for number in range(len(sizes)) if offsets[number] < last and offsets[number + 1] > first]))
        for start in range(first, last, batch_size):
            yield rows_of(rows.take(min(batch_size, last - start)), dataset)


def rows_of(table: pa.Table, dataset: Dataset) -> Rows:
    """Rows out of a table with columns image, label and, where the data set has vectors, vector."""
    return Rows(
        decode_rows(table["image"], dataset.spec.shape),
        decode_labels(table["label"]) if dataset.num_classes else None,
        decode_vectors(table["vector"], dataset.vector_size) if dataset.vector_size else None,
    )


class _Cutter:
    """Tables that come one after the other, taken in pieces of any length."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rest: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        """The next `count` rows; raises `RuntimeError` when there are fewer."""
        parts, missing = [], count
        while missing or self._rest is None:
            if self._rest is None or not len(self._rest):
                following = next(self._tables, None)
                if following is None:
                    raise RuntimeError(f"the stream ended {missing} images early")
                self._rest = following
            part = self._rest.slice(0, missing)
            self._rest = self._rest.slice(len(part))
            parts.append(part)
            missing -= len(part)
        return pa.concat_tables(parts) if parts else self._rest.slice(0, 0)


def _stream(read: Callable[[int], pa.Table], numbers: list[int]) -> Iterator[pa.Table]:
    """`read` of each number, one task each, in their order."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    with ray.data.DataContext.current(context):
        items = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=max(1, len(numbers)))
        tables = items.map_batches(_Read(read).__call__, batch_size=1, batch_format="pyarrow")
        yield from tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


class _Read:
    """A reader as a task of Ray Data."""

    def __init__(self, read: Callable[[int], pa.Table]) -> None:
        self._read = read

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._read(batch["number"][0].as_py())


def _read_shard(dataset: Dataset, split: str, number: int) -> pa.Table:
    shard = dataset.shards(split)[number]
    data = dataset.storage.read_bytes(f"{dataset.folder}/{shard['file']}")
    table = pq.read_table(pa.BufferReader(data), columns=columns_of(dataset.vector_size))
    if len(table) != shard["num_images"]:
        raise RuntimeError(
            f"shard {shard['file']} has {len(table)} images, the manifest says {shard['num_images']}; prepare the data again"
        )
    return table.replace_schema_metadata(None)
