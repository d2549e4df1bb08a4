"""Splits that do not fit in memory, streamed through Ray Data shard by shard.

What is guaranteed: an epoch's order is a function of (seed, epoch) and of the shards alone, whatever the number of workers, and a run
that goes on in the middle of an epoch reads on at the right row. Shards come in an order that is shuffled anew each epoch; rows are
shuffled within windows of `WINDOW_SHARDS` shards that follow each other, so two images of distant shards never swap places.

Each worker reads every shard of the epoch and keeps its own rows: only those are sent to it and decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pixelmodels.data import Dataset, binarize_dynamic, decode_labels, decode_rows, decode_vectors
from pixelmodels.data.rows import Rows, Share
from pixelmodels.data.shards import columns_of
from pixelmodels.errors import UserError

_ERROR = "error"  # column of what a task gives that could not read its shards
WINDOW_SHARDS = 4  # shards whose rows are shuffled together, and held in memory by one task


class StreamedFeed:
    """A worker's rows of large splits; see `feeds.Feed`."""

    def __init__(self, dataset: Dataset, share: Share, *, seed: int, batch_size: int) -> None:
        self._dataset, self._share, self._seed, self._batch_size = dataset, Share(share.rank, share.count), seed, batch_size

    def training_rows(self, epoch: int, first_step: int) -> Iterator[tuple[Rows, int]]:
        """See `Feed`."""
        dataset, total, begin = self._dataset, self._dataset.num_images("train"), first_step * self._batch_size
        ends = np.append(self._order(epoch)[1][WINDOW_SHARDS::WINDOW_SHARDS], total)  # of windows
        rows = _Cutter(_stream(partial(self._window, epoch, begin), np.flatnonzero(ends > begin).tolist()), _no_rows(dataset.vector_size))
        for start in range(begin, total, self._batch_size):
            stop = min(start + self._batch_size, total)
            first, last = self._share.share(start, stop)
            table = rows.take(last - first)
            yield drawn(rows_of(table, dataset), dataset, self._seed, epoch, table["index"].to_numpy()), stop - start

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in an epoch's order, and the place in the epoch of each one's first row."""
        sizes = np.diff(_offsets(self._dataset, "train"))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(sizes))
        return order, np.cumsum(sizes[order]) - sizes[order]

    def _window(self, epoch: int, begin: int, number: int) -> pa.Table:
        """This worker's rows of a window from place `begin` of the epoch on, in its order; column index has their places in the split."""
        shards, start = (column[number * WINDOW_SHARDS :][:WINDOW_SHARDS] for column in self._order(epoch))
        table = pa.concat_tables([_read_shard(self._dataset, "train", shard) for shard in shards])
        rows, indices = self._shuffled(epoch, number)
        places = start[0] + np.arange(len(rows))
        step_starts = places // self._batch_size * self._batch_size
        step_ends = np.minimum(step_starts + self._batch_size, self._dataset.num_images("train"))
        first, last = self._share.share(step_starts, step_ends)
        mine = (first <= places) & (places < last) & (places >= begin)
        return table.take(pa.array(rows[mine])).append_column("index", pa.array(indices[mine]))

    def _shuffled(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a window in the epoch's order, by their places in the window's table and by those in the split."""
        offsets = _offsets(self._dataset, "train")
        shards = self._order(epoch)[0][number * WINDOW_SHARDS :][:WINDOW_SHARDS]
        indices = np.concatenate([np.arange(offsets[shard], offsets[shard + 1]) for shard in shards])
        rows = np.random.default_rng([self._seed, epoch, number]).permutation(len(indices))
        return rows, indices[rows]

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """See `Feed`."""
        num_windows = -(-len(self._dataset.shards("train")) // WINDOW_SHARDS)
        whole = np.concatenate([self._shuffled(epoch, number)[1] for number in range(num_windows)])
        return whole[step * self._batch_size :][: self._batch_size]

    def rows_in_order(self, split: str, batch_size: int) -> Iterator[Rows]:
        """See `Feed`."""
        dataset, offsets = self._dataset, _offsets(self._dataset, split)
        first, last = self._share.share(0, dataset.num_images(split))

        def read(shard: int) -> pa.Table:
            begin, end = np.clip((first, last), offsets[shard], offsets[shard + 1]) - offsets[shard]
            return _read_shard(dataset, split, shard).slice(begin, end - begin)

        shards = [shard for shard in range(len(offsets) - 1) if offsets[shard] < last and offsets[shard + 1] > first]
        rows = _Cutter(_stream(read, shards), _no_rows(dataset.vector_size))
        for start in range(first, last, batch_size):
            yield rows_of(rows.take(min(batch_size, last - start)), dataset)


def _offsets(dataset: Dataset, split: str) -> np.ndarray:
    """The place in the split of each shard's first image; and, at the end, the number of images."""
    return np.cumsum([0, *(shard["num_images"] for shard in dataset.shards(split))])


def rows_of(table: pa.Table, dataset: Dataset) -> Rows:
    """Rows out of a table with columns image, label and, where the data set has vectors, vector."""
    return Rows(
        decode_rows(table["image"], dataset.spec.shape),
        decode_labels(table["label"]) if dataset.num_classes else None,
        decode_vectors(table["vector"], dataset.vector_size) if dataset.vector_size else None,
    )


def drawn(rows: Rows, dataset: Dataset, seed: int, epoch: int, indices_N: np.ndarray) -> Rows:
    """Training rows with their images drawn for this epoch where they are stored as grey; `indices_N`, their places in the split."""
    if not dataset.train_images_are_grey:
        return rows
    return replace(rows, images_NCHW=binarize_dynamic(rows.images_NCHW, seed=seed, epoch=epoch, indices_N=indices_N))


class _Cutter:
    """Tables that come one after the other, taken in pieces of any length, of none too; `empty` is a piece of none."""

    def __init__(self, tables: Iterator[pa.Table], empty: pa.Table) -> None:
        self._tables, self._empty = tables, empty
        self._rest = empty

    def take(self, count: int) -> pa.Table:
        """The next `count` rows; raises `RuntimeError` when there are fewer."""
        parts = []
        while count:
            if not len(self._rest):
                following = next(self._tables, None)
                if following is None:
                    raise RuntimeError(f"the stream ended {count} images early")
                self._rest = following
                continue
            part = self._rest.slice(0, count)
            self._rest = self._rest.slice(len(part))
            parts.append(part)
            count -= len(part)
        return pa.concat_tables(parts) if parts else self._empty


def _no_rows(vector_size: int) -> pa.Table:
    """What a worker is given of a step without images of its own: the columns of `StreamedFeed._window`."""
    types = {"image": pa.binary(), "label": pa.int32(), "vector": pa.list_(pa.float32(), max(1, vector_size)), "index": pa.int64()}
    return pa.schema([(name, types[name]) for name in columns_of(vector_size, "index")]).empty_table()


def _stream(read: Callable[[int], pa.Table], numbers: list[int]) -> Iterator[pa.Table]:
    """`read` of each number, one task each, in their order; raises the `UserError` that one of them raises."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True

    def task(batch: pa.Table) -> pa.Table:
        try:
            return read(batch["number"][0].as_py())
        except UserError as error:  # told as it is: Ray Data would wrap it in the whole traceback
            return pa.table({_ERROR: [str(error)]})

    with ray.data.DataContext.current(context):
        items = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=max(1, len(numbers)))
        tables = items.map_batches(task, batch_size=1, batch_format="pyarrow")
        for table in tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            if _ERROR in table.column_names:
                raise UserError(table[_ERROR][0].as_py())
            yield table


def _read_shard(dataset: Dataset, split: str, number: int) -> pa.Table:
    shard = dataset.shards(split)[number]
    path = f"{dataset.folder}/{shard['file']}"
    try:
        data = dataset.storage.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != shard["sha256"]:
            raise ValueError("its sha256 is not the manifest's")
        return pq.read_table(pa.BufferReader(data), columns=columns_of(dataset.vector_size)).replace_schema_metadata(None)
    except (FileNotFoundError, ValueError, pa.ArrowException) as error:
        raise dataset.damaged(path, error) from error
