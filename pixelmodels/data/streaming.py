"""Splits that do not fit in memory, read window by window by tasks on the cluster.

What is guaranteed: an epoch's order is a function of (seed, epoch) and of the shards alone, whatever the number of workers, and a run
that goes on in the middle of an epoch reads on at the right row. Shards come in an order that is shuffled anew each epoch; rows are
shuffled within windows of `WINDOW_SHARDS` shards that follow each other, so two images of distant shards never swap places.

The cluster reads and decodes each shard of an epoch once: one task reads a window, and leaves a part for each worker in Ray's object
store, from where a worker takes its own part and no other. The workers' tasks are started by one `WindowTasks` for all of them. A task or
an object that is lost with its machine is had again by Ray; where whoever started the tasks is lost, workers raise Ray's own error.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from pixelmodels.data import Dataset, binarize_dynamic, decode_labels, decode_rows, decode_vectors
from pixelmodels.data.rows import Rows, Share
from pixelmodels.data.shards import IMAGES_PER_DRAW, columns_of, read_parquet
from pixelmodels.errors import UserError

if TYPE_CHECKING:
    from ray import ObjectRef

WINDOW_SHARDS = 4  # shards whose rows are shuffled together, and held in memory by one task
AHEAD_BYTES = 256 << 20  # of what is read before it is asked for, in the object store; one window at least
WORKERS_PER_WINDOW = 8  # workers for which one window is read ahead; two are for fewer than 24, where there is memory for them

Key = TypeVar("Key")


class Tasks(Protocol):
    """By which workers have their rows of streamed splits; see `WindowTasks`."""

    def begin(self, epoch: int, begin: int) -> None: ...

    def part(self, epoch: int, begin: int, number: int, rank: int) -> ObjectRef: ...

    def piece(self, split: str, shard: int, rank: int) -> ObjectRef: ...


@dataclass(frozen=True)
class Windows:
    """The train split as epochs go through it: windows of shards, and each worker's rows of them."""

    dataset: Dataset  # whose shards are read
    seed: int  # of the order, and of images that are drawn anew each epoch
    batch_size: int  # images of a step over all workers
    count: int  # workers that share each step out among them

    def numbers(self, epoch: int, begin: int) -> list[int]:
        """The windows of an epoch that have rows from place `begin` of it on, in its order."""
        ends = np.append(self._order(epoch)[1][WINDOW_SHARDS::WINDOW_SHARDS], self.dataset.num_images("train"))
        return np.flatnonzero(ends > begin).tolist()

    def ahead(self) -> int:
        """How many windows are read before they are asked for: tasks that wait for a CPU, and may have an autoscaler start machines."""
        largest = WINDOW_SHARDS * max(shard["num_images"] for shard in self.dataset.shards("train"))
        window_bytes = largest * self.dataset.split_bytes("train") // self.dataset.num_images("train")
        return max(1, min(AHEAD_BYTES // window_bytes, max(2, self.count // WORKERS_PER_WINDOW)))

    def indices(self, epoch: int) -> np.ndarray:
        """The places in the split of an epoch's images, in its order."""
        return np.concatenate([self._shuffled(epoch, number)[1] for number in self.numbers(epoch, 0)])

    def read(self, epoch: int, begin: int, number: int) -> list[Rows]:
        """Each worker's rows of a window, from place `begin` of the epoch on and in its order, drawn where they are stored as grey.

        One shard is in memory beside them at a time.
        """
        shards, starts = (column[number * WINDOW_SHARDS :][:WINDOW_SHARDS] for column in self._order(epoch))
        rows, indices = self._shuffled(epoch, number)
        places = starts[0] + np.arange(len(rows))
        step_starts = places // self.batch_size * self.batch_size
        step_ends = np.minimum(step_starts + self.batch_size, self.dataset.num_images("train"))

        def of_rank(rank: int) -> np.ndarray:
            first, last = Share(rank, self.count).share(step_starts, step_ends)
            return np.flatnonzero((first <= places) & (places < last) & (places >= begin))

        of_ranks = [of_rank(rank) for rank in range(self.count)]
        by_rank = np.concatenate(of_ranks)
        goes_to = np.full(len(rows), -1)  # of each row as it is read: the place among those of all workers, the first one's first
        goes_to[rows[by_rank]] = np.arange(len(by_rank))
        whole, stop = _blank(self.dataset, len(by_rank)), 0
        for shard in shards:
            read = rows_of(_read_shard(self.dataset, "train", shard), self.dataset)
            start, stop = stop, stop + len(read)
            (wanted,) = np.nonzero(goes_to[start:stop] >= 0)
            whole.put(goes_to[start:stop][wanted], read, wanted)
        whole = drawn(whole, self.dataset, self.seed, epoch, indices[by_rank])
        ends = np.cumsum([len(mine) for mine in of_ranks]).tolist()
        return [whole.part(end - len(mine), end) for end, mine in zip(ends, of_ranks, strict=True)]

    def ranks(self, split: str) -> list[list[int]]:
        """The workers that have rows of each shard of a split that is read in its own order."""
        offsets, shares = _offsets(self.dataset, split), np.array([self._share(split, rank) for rank in range(self.count)])
        starts, stops = np.maximum(shares[:, 0], offsets[:-1, None]), np.minimum(shares[:, 1], offsets[1:, None])
        return [np.flatnonzero(has_rows).tolist() for has_rows in starts < stops]

    def read_in_order(self, split: str, shard: int, ranks: list[int]) -> list[Rows]:
        """The rows of a shard of each of these workers, which have some."""
        rows, start = rows_of(_read_shard(self.dataset, split, shard), self.dataset), _offsets(self.dataset, split)[shard]
        shares = [self._share(split, rank) for rank in ranks]
        return [rows.part(max(0, first - start), last - start) for first, last in shares]

    def _share(self, split: str, rank: int) -> tuple[int, int]:
        return Share(rank, self.count).share(0, self.dataset.num_images(split))

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in an epoch's order, and the place in the epoch of each one's first row."""
        sizes = np.diff(_offsets(self.dataset, "train"))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(sizes))
        return order, np.cumsum(sizes[order]) - sizes[order]

    def _shuffled(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a window in the epoch's order, by their places in the window and by those in the split."""
        offsets = _offsets(self.dataset, "train")
        shards = self._order(epoch)[0][number * WINDOW_SHARDS :][:WINDOW_SHARDS]
        indices = np.concatenate([np.arange(offsets[shard], offsets[shard + 1]) for shard in shards])
        rows = np.random.default_rng([self.seed, epoch, number]).permutation(len(indices))
        return rows, indices[rows]


class WindowTasks:
    """Starts the tasks that read, a few before they are asked for, and hands out their parts; where there are several workers, their actor.

    What is read is read once as long as each worker asks for what is its own in order, and once. What nobody has asked for yet of an
    epoch is dropped when another one begins, or when the same one is begun at another place.
    """

    def __init__(self, windows: Windows, ahead: int | None = None) -> None:
        import ray

        self._windows, self._at_workers = windows, ray.put(windows)
        self._ahead = windows.ahead() if ahead is None else ahead
        self._begun: tuple[int, int] | None = None  # the epoch, and the place in it where it begins
        self._last = -1  # the last window of it
        self._parts: dict[int, dict[int, ObjectRef]] = {}  # of each of its windows, by rank: those not handed out
        self._ranks: dict[str, list[list[int]]] = {}  # of each shard of splits that are read in order
        self._pieces: dict[tuple[str, int], dict[int, ObjectRef]] = {}  # of shards of those

    def begin(self, epoch: int, begin: int) -> None:
        """Start to read an epoch from place `begin` of it on; what is left of another one is dropped."""
        if self._begun != (epoch, begin):
            self._begun, self._parts, numbers = (epoch, begin), {}, self._windows.numbers(epoch, begin)
            self._last = numbers[-1]
            self._start_from(numbers[0])

    def part(self, epoch: int, begin: int, number: int, rank: int) -> ObjectRef:
        """A worker's rows of a window, as soon as they are read; see `Windows.read`."""
        self.begin(epoch, begin)
        self._start_from(number)
        if rank not in self._parts.get(number, {}):  # it was handed out before
            self._start(number)
        return _taken(self._parts, number, rank)

    def piece(self, split: str, shard: int, rank: int) -> ObjectRef:
        """A worker's rows of a shard of a split that is read in its own order."""
        if rank not in self._pieces.get((split, shard), {}):
            if split not in self._ranks:
                self._ranks[split] = self._windows.ranks(split)
            ranks = self._ranks[split][shard]
            refs = _started(_read_in_order, len(ranks), self._at_workers, split, shard, ranks)
            self._pieces[split, shard] = dict(zip(ranks, refs, strict=True))
        return _taken(self._pieces, (split, shard), rank)

    def in_a_list(self, method: str, *which: Any) -> list[ObjectRef]:
        """What a method gives for another process, which would be given the rows themselves by Ray, and not the reference."""
        return [getattr(self, method)(*which)]

    def _start_from(self, number: int) -> None:
        for later in range(number, min(number + self._ahead, self._last) + 1):
            if later not in self._parts:
                self._start(later)

    def _start(self, number: int) -> None:
        assert self._begun is not None
        refs = _started(_read_window, self._windows.count, self._at_workers, *self._begun, number)
        self._parts[number] = dict(enumerate(refs))


def _taken(parts: dict[Key, dict[int, ObjectRef]], key: Key, rank: int) -> ObjectRef:
    found = parts[key].pop(rank)
    if not parts[key]:
        del parts[key]
    return found


def _started(function: Callable[..., list[Rows]], count: int, *args: Any) -> list[ObjectRef]:
    """A task that gives `count` values."""
    import ray

    found = ray.remote(function).options(num_cpus=1, num_returns=count, scheduling_strategy="SPREAD").remote(*args)
    return found if count > 1 else [found]


def _read_window(windows: Windows, epoch: int, begin: int, number: int) -> Any:
    """A task: each worker's rows as a value of its own."""
    return _values(windows.read(epoch, begin, number))


def _read_in_order(windows: Windows, split: str, shard: int, ranks: list[int]) -> Any:
    """A task: the rows of each worker that has some."""
    return _values(windows.read_in_order(split, shard, ranks))


def _values(parts: list[Rows]) -> list[Rows] | Rows:
    return parts if len(parts) > 1 else parts[0]


class StreamedFeed:
    """A worker's rows of large splits; see `feeds.Feed`.

    Args: `tasks`, which it may share with other workers; its own unless given.
    """

    def __init__(self, dataset: Dataset, share: Share, *, seed: int, batch_size: int, tasks: Tasks | None = None) -> None:
        self._dataset, self._share = dataset, Share(share.rank, share.count)
        self._windows, self._batch_size = Windows(dataset, seed, batch_size, share.count), batch_size
        self._given = tasks

    @cached_property
    def _tasks(self) -> Tasks:
        return self._given or WindowTasks(self._windows)

    def begin(self, epoch: int) -> None:
        """See `Feed`."""
        self._tasks.begin(epoch, 0)

    def training_rows(self, epoch: int, first_step: int) -> Iterator[tuple[Rows, int]]:
        """See `Feed`."""
        total, begin = self._dataset.num_images("train"), first_step * self._batch_size
        rows = _Cutter(self._parts(epoch, begin), _blank(self._dataset, 0))
        for start in range(begin, total, self._batch_size):
            stop = min(start + self._batch_size, total)
            first, last = self._share.share(start, stop)
            yield rows.take(last - first), stop - start

    def _parts(self, epoch: int, begin: int) -> Iterator[Rows]:
        """This worker's rows of an epoch, window by window."""
        for number in self._windows.numbers(epoch, begin):
            yield _got(self._tasks.part(epoch, begin, number, self._share.rank))

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """See `Feed`."""
        return self._windows.indices(epoch)[step * self._batch_size :][: self._batch_size]

    def rows_in_order(self, split: str, batch_size: int) -> Iterator[Rows]:
        """See `Feed`."""
        first, last = self._share.share(0, self._dataset.num_images(split))
        rows = _Cutter(self._pieces(split), _blank(self._dataset, 0))
        for start in range(first, last, batch_size):
            yield rows.take(min(batch_size, last - start))

    def _pieces(self, split: str) -> Iterator[Rows]:
        """This worker's rows of a split, shard by shard; two shards are read before they are asked for."""
        waiting, rank = deque["ObjectRef"](), self._share.rank
        for shard in (shard for shard, ranks in enumerate(self._windows.ranks(split)) if rank in ranks):
            waiting.append(self._tasks.piece(split, shard, rank))
            if len(waiting) > 2:
                yield _got(waiting.popleft())
        while waiting:
            yield _got(waiting.popleft())


def _offsets(dataset: Dataset, split: str) -> np.ndarray:
    """The place in the split of each shard's first image; and, at the end, the number of images."""
    return np.cumsum([0, *(shard["num_images"] for shard in dataset.shards(split))])


def rows_of(table: pa.Table, dataset: Dataset) -> Rows:
    """Rows out of a table with columns image, label and, where the data set has vectors, vector."""
    return Rows(
        decode_rows(table["image"], dataset.shape_CHW),
        decode_labels(table["label"]) if dataset.num_classes else None,
        decode_vectors(table["vector"], dataset.vector_size) if dataset.vector_size else None,
    )


def drawn(rows: Rows, dataset: Dataset, seed: int, epoch: int, indices_N: np.ndarray) -> Rows:
    """Training rows with their images drawn for this epoch where they are stored as grey; `indices_N`, their places in the split."""
    if not dataset.train_images_are_grey:
        return rows
    images_NCHW = np.empty_like(rows.images_NCHW)
    for start in range(0, len(rows), IMAGES_PER_DRAW):
        some = slice(start, start + IMAGES_PER_DRAW)
        images_NCHW[some] = binarize_dynamic(rows.images_NCHW[some], seed=seed, epoch=epoch, indices_N=indices_N[some])
    return Rows(images_NCHW, rows.labels_N, rows.vectors_NV)


class _Cutter:
    """Rows that come in pieces one after the other, taken in pieces of any length, of none too; `empty` is a piece of none."""

    def __init__(self, pieces: Iterator[Rows], empty: Rows) -> None:
        self._pieces, self._empty = pieces, empty
        self._rest = empty

    def take(self, count: int) -> Rows:
        """The next `count` rows, in arrays of their own; raises `RuntimeError` when there are fewer."""
        parts = []
        while count:
            if not len(self._rest):
                self._rest = self._empty  # what is used up leaves the object store
                following = next(self._pieces, None)
                if following is None:
                    raise RuntimeError(f"the stream ended {count} images early")
                self._rest = following
                continue
            part = self._rest.part(0, count)
            self._rest = self._rest.part(len(part), len(self._rest))
            parts.append(part)
            count -= len(part)
        return Rows.joined(parts) if parts else self._empty


def _blank(dataset: Dataset, count: int) -> Rows:
    """Rows whose values are still to be put; none of them: what a worker is given of a step without images of its own."""
    return Rows(
        np.empty((count, *dataset.shape_CHW), np.uint8),
        np.empty(count, np.int32) if dataset.num_classes else None,
        np.empty((count, dataset.vector_size), np.float32) if dataset.vector_size else None,
    )


def _got(rows: ObjectRef) -> Rows:
    """What a task gives, whose arrays are the object store's and cannot be written; raises the `UserError` that it raised."""
    import ray

    try:
        found: Rows = ray.get(rows)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):  # told as it is, and not with the whole traceback
            raise error.cause from None
        raise
    return found


def _read_shard(dataset: Dataset, split: str, number: int) -> pa.Table:
    shard = dataset.shards(split)[number]
    path = f"{dataset.folder}/{shard['file']}"
    try:
        data = dataset.storage.read_bytes(path)
        if hashlib.sha256(data).hexdigest() != shard["sha256"]:
            raise ValueError("its sha256 is not the manifest's")
        return read_parquet(data, columns_of(dataset.vector_size)).replace_schema_metadata(None)
    except (FileNotFoundError, ValueError, pa.ArrowException) as error:
        raise dataset.damaged(path, error) from error
