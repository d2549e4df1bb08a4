"""Copies of validation and test images among the train images of a data set, found by all cores (`duplicates.py` says what they are)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pixelmodels.data.dataset import Dataset
from pixelmodels.data.duplicates import BANDS, Copies, Int64, Near, Sketches, find_copies, near_in_band
from pixelmodels.data.parallel import Record, map_records, map_with_arrays
from pixelmodels.data.processes import end_processes
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.writing import Loader

OTHERS = ("test", "validation")  # splits whose copies among the train images are looked for
EXACT, NEAR = "exact", "near"
_COLUMNS = {"train_key": pa.string(), "split": pa.string(), "key": pa.string(), "kind": pa.string(), "distance": pa.float32()}

KeysAt = Callable[[str, Int64], list[str]]  # keys of the images at some places of a split


@dataclass(frozen=True)
class SplitCopies:
    """The copies of one split's images among train images, or those of another split."""

    split: str
    copies: Copies  # of train images, by their place in their split, among the split's

    def counts(self) -> dict[str, int]:
        """Train images with an exact copy and with a near one only, the split's images with them, and pairs that were not compared."""
        num_exact = int(self.copies.is_exact_M.sum())
        return {
            "train_exact": num_exact,
            "train_near": len(self.copies.row_M) - num_exact,
            "exact": self.copies.num_others_exact,
            "near": self.copies.num_others_near,
            "not_compared": self.copies.num_left_out,
        }


@dataclass(frozen=True)
class _ShardSketcher:
    """Sketches of the shard of a prepared data set that a record names; called on the workers."""

    dataset: Dataset

    def __call__(self, task: Record) -> Record:
        images_NCHW = self.dataset.read_shard(task["split"], task["number"]).images_NCHW
        return {"sketches": Sketches.of(images_NCHW.transpose(0, 2, 3, 1), self.dataset.spec.levels)}


@dataclass(frozen=True)
class Sketcher:
    """Sketches of the images that a record tells a loader to load; called on the workers."""

    load: Loader
    levels: int  # of the loaded images

    def __call__(self, task: Record) -> Record:
        """See `Loader` for the record."""
        images_NHWC: UInt8 = self.load(task)[0]
        return {"sketches": Sketches.of(images_NHWC, self.levels)}


@dataclass(frozen=True)
class _BandSearch:
    images: Sketches
    others: Sketches

    def __call__(self, task: Record) -> Record:
        return {"near": near_in_band(self.images, self.others, task["band"])}


def copies_in(dataset: Dataset) -> list[SplitCopies]:
    """The copies of each other split of a prepared data set among its train images.

    Raises `ValueError` where train images are stored as grey and the others as they were drawn: these cannot be compared.
    """
    if dataset.train_images_are_grey:
        raise ValueError("images that were drawn cannot be compared with grey ones")
    tasks = {split: [{"split": split, "number": n} for n in range(len(dataset.shards(split)))] for split in ("train", *OTHERS)}
    try:
        return copies_between(_ShardSketcher(dataset), tasks)
    finally:
        end_processes()


def copies_between(
    sketch: Callable[[Record], Record], tasks: Mapping[str, Iterable[Record]], *, with_near: bool = True
) -> list[SplitCopies]:
    """The copies of each other split among train images; see `sketches_of` and `copies_among`."""
    return copies_among(sketches_of(sketch, tasks), with_near=with_near)


def sketches_of(sketch: Callable[[Record], Record], tasks: Mapping[str, Iterable[Record]]) -> dict[str, Sketches]:
    """The sketches of each split's images; none where a split has no images.

    Args: `sketch` gives the sketches of a record's images, as `Sketcher` does; `tasks`, the records of each split, in the order of its
    images. The driver holds some 140 bytes of each image.
    """
    counts = {split: 0 for split in tasks}

    def named() -> Iterator[Record]:
        for split, records in tasks.items():
            for record in records:
                counts[split] += 1
                yield record

    parts = [result["sketches"] for result in map_records(sketch, named())]
    ends = np.cumsum(list(counts.values()))
    of_split = {split: parts[end - counts[split] : end] for split, end in zip(counts, ends.tolist(), strict=True)}
    return {split: Sketches.joined(some) for split, some in of_split.items()} if all(of_split.values()) else {}


def copies_among(sketches: Mapping[str, Sketches], among: str = "train", *, with_near: bool = True) -> list[SplitCopies]:
    """The copies of each other split's images among those of one; `with_near`, whether near copies are looked for, too.

    Each worker sees the sketches in shared memory.
    """
    in_bands = _in_bands if with_near else _in_none
    return [SplitCopies(split, find_copies(sketches[among], some, in_bands)) for split, some in sketches.items() if split != among]


def _in_bands(images: Sketches, others: Sketches) -> Iterator[Near]:
    for result in map_with_arrays(_BandSearch(images, others), ({"band": band} for band in BANDS)):
        yield result["near"]


def _in_none(images: Sketches, others: Sketches) -> Iterator[Near]:
    return iter(())


def with_copies(found: Sequence[SplitCopies]) -> Int64:
    """Places of the train images that have a copy in any other split."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(one.copies.row_M for one in found)]))


def table_of(found: Sequence[SplitCopies], keys_at: KeysAt) -> pa.Table:
    """A row for each train image and split in which it has a copy, the nearest: train_key, split, key, kind and distance (of 255)."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for one in found:
        copies = one.copies
        columns["train_key"] += keys_at("train", copies.row_M)
        columns["split"] += [one.split] * len(copies.row_M)
        columns["key"] += keys_at(one.split, copies.other_M)
        columns["kind"] += _kinds(copies.is_exact_M)
        columns["distance"] += copies.distance_M.tolist()
    return pa.table([pa.array(columns[name], kind) for name, kind in _COLUMNS.items()], names=list(_COLUMNS))


def table_file(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _kinds(is_exact_M: npt.NDArray[np.bool_]) -> list[str]:
    return [EXACT if is_exact else NEAR for is_exact in is_exact_M.tolist()]
