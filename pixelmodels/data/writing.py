"""Images of a source, quantized and written as shards by workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.decoding import convert_channels, fit
from pixelmodels.data.parallel import Record
from pixelmodels.data.quantization import FIXED_EPOCH, UInt8, binarize_dynamic, dequantize, quantize
from pixelmodels.data.shards import IMAGES_PER_DRAW, encode_shard
from pixelmodels.data.source import Source
from pixelmodels.data.splits import draw_indices
from pixelmodels.data.vectors import VectorFile
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage, why

GREY_LEVELS = 256


@dataclass(frozen=True)
class ImageForm:
    """What the images of a data set are."""

    channels: int  # 1 or 3
    size: tuple[int, int]  # (height, width)
    levels: int  # values of the images that a model sees
    binarize: str  # none, threshold or dynamic; a threshold is what quantization to two levels is

    @staticmethod
    def of(config: DatasetConfig, shape_HWC: tuple[int, int, int], source_levels: int) -> ImageForm:
        """What a config makes of the images of a source; `shape_HWC` is theirs, or the first one's."""
        height, width, channels = shape_HWC
        binarize = "threshold" if config.binarize == "none" and config.levels == 2 else config.binarize
        levels = 2 if binarize != "none" else config.levels or source_levels
        return ImageForm(config.channels or channels, config.size or (height, width), levels, binarize)

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.size, self.channels)

    @property
    def levels_before_draws(self) -> int:
        """Values of images before any are drawn: grey 0..255 for dynamic binarization."""
        return GREY_LEVELS if self.binarize == "dynamic" else self.levels

    def stored_levels(self, split: str) -> int:
        """Values of a split's images in its shards: of dynamic binarization, train images are drawn anew each epoch, by whoever trains."""
        return GREY_LEVELS if self.binarize == "dynamic" and split == "train" else self.levels

    def shaped(self, pixels_HWC: UInt8, source_levels: int) -> UInt8:
        """Channels, size and levels before draws; pixels that need no change have none."""
        if pixels_HWC.shape == self.shape_HWC and source_levels == self.levels_before_draws:
            return pixels_HWC
        grey_HWC = dequantize(pixels_HWC, source_levels) if source_levels != GREY_LEVELS else pixels_HWC
        return quantize(fit(convert_channels(grey_HWC, self.channels), self.size), self.levels_before_draws)


class Loader(Protocol):
    """Where the images of shards come from; picklable, and called on the workers."""

    def __call__(self, task: Record) -> tuple[UInt8, list[str]]:
        """Images N,H,W,C of one shard's record, before any are drawn, and their keys."""


@dataclass(frozen=True)
class SourceLoader:
    """Images that a source gives by key."""

    source: Source
    source_levels: int  # values of the source's pixels
    form: ImageForm

    def __call__(self, task: Record) -> tuple[UInt8, list[str]]:
        """See `Loader`; the record has the images' `keys`."""
        images = [
            self.form.shaped(pixels, self.source_levels) for pixels in self.source.load(task["keys"], self.form.channels, self.form.size)
        ]
        return np.stack(images), task["keys"]


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shard that a record describes; picklable, and called on the workers."""

    load: Loader  # where images come from
    storage: Storage  # where shards go
    folder: str  # of the data set, below the storage root
    form: ImageForm
    seed: int  # of the fixed draws of dynamic binarization
    vectors: VectorFile | None = None  # where the images' vectors are
    vector_size: int = 0  # their length; 0: none

    def __call__(self, task: Record) -> Record:
        """Write one shard and tell its file, number of images, bytes and sha256.

        A whole shard of an earlier run, whose record is beside it, is left as it is.
        """
        if task["may_be_whole"] and (record := self._whole(task["file"])):
            return record
        images_NHWC, keys = self.load(task)
        split, labels = task["split"], [None if label < 0 else int(label) for label in task["labels"]]
        if not len(images_NHWC) == len(keys) == len(labels):
            raise RuntimeError(
                f"{len(labels)} images of '{task['file']}' were asked for, and {len(keys)} found; give the same command again"
            )
        if self.form.binarize == "dynamic" and split != "train":
            indices_N = draw_indices(keys)
            for start in range(0, len(keys), IMAGES_PER_DRAW):
                part = slice(start, start + IMAGES_PER_DRAW)
                images_NHWC[part] = binarize_dynamic(images_NHWC[part], seed=self.seed, epoch=FIXED_EPOCH, indices_N=indices_N[part])
        vectors_NV = None if self.vectors is None else self.vectors.read(task["vector_rows"], self.vector_size)
        data = encode_shard(images_NHWC, labels, keys, self.form.stored_levels(split), vectors_NV)
        write(self.storage, f"{self.folder}/{task['file']}", data)
        result = {"split": split, "file": task["file"], "num_images": len(keys), "num_unlabelled": labels.count(None)}
        result |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_record(self.storage, f"{self.folder}/{record_of(task['file'])}", result)
        return result

    def _whole(self, file: str) -> Record | None:
        record = read_record(self.storage, f"{self.folder}/{record_of(file)}")
        return record if record and is_whole(self.storage, self.folder, [record]) else None


def record_of(file: str) -> str:
    """Name of the record that is written after a file, and says that the file is whole."""
    return f"{file.partition('.')[0]}.json"


def write_record(storage: Storage, path: str, record: Record) -> None:
    """Write what is told of files that have just been written whole."""
    write(storage, path, json.dumps(record).encode())


def read_record(storage: Storage, path: str) -> Record | None:
    """A record that an earlier run wrote; None where there is none that can be read."""
    with suppress(FileNotFoundError, ValueError):
        record = json.loads(storage.read_bytes(path))
        return record if isinstance(record, dict) else None
    return None


def is_whole(storage: Storage, folder: str, files: Sequence[Record]) -> bool:
    """Whether files in a folder are what their entries say: `file`, `num_bytes`, `sha256`."""

    def digests() -> Iterator[bool]:
        for entry in files:
            data = storage.read_bytes(f"{folder}/{entry['file']}")
            yield len(data) == entry["num_bytes"] and hashlib.sha256(data).hexdigest() == entry["sha256"]

    with suppress(FileNotFoundError):
        return all(digests())
    return False


def write(storage: Storage, path: str, data: bytes) -> None:
    """Write a file of a data set that is not finished; raises `UserError` where there is no room, or no right to."""
    try:
        storage.write_bytes(path, data)
    except (OSError, pa.ArrowException) as error:
        no_file = f"'{storage.uri(path)}' ({len(data):,} bytes) cannot be written ({why(error)})"
        raise UserError(
            f"{no_file}; make room for it, or mend that, and give the same command again; finished data sets are as they were"
        ) from error
