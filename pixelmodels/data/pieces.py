"""Sources of encoded images, read once: each unit of work is decoded into pieces, of which shards are cut later.

Which split an image belongs to, and its label, are known when all have been seen. So a worker writes the images of its unit, decoded and
quantized, as pieces (Arrow IPC files of columns key and image) below `preparing/<hash>/`, and after them a record of what it found; keys
stay in the pieces. A unit whose record and pieces are whole is not read again by a later run of the same listing and options.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pixelmodels.data.decoding import BadImage, decode, read_header
from pixelmodels.data.encoded import Encoded, EncodedSource
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.source import Listing
from pixelmodels.data.splits import Int64, key_hash
from pixelmodels.data.writing import ImageForm, is_whole, read_record, write, write_record
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

PREPARING = "preparing"  # folder below the storage root; what is in it is removed when a data set is whole
PIECE_BYTES = 16 << 20  # of the images of a piece, at most (but one image): what a worker holds in memory, several times over
DECODING_VERSION = 1  # raised when images are decoded into other pixels: pieces of earlier versions are not gone on from
KEPT_S = 7 * 24 * 3600  # seconds for which pieces are kept that no run goes on with
_RECORD = ".json"  # ends the name of the record of a unit
_UNSETTLED = "-unsettled"  # ends the name of a folder of pieces that no other run may go on from
# What is told of each image that can be opened, in their order.
_COLUMNS = {"group": np.int32, "split_hash": np.int64, "is_image": np.bool_, "image_hash": np.uint64}


class Rejected(NamedTuple):
    """An input that is no image: a row of the data set's table of these."""

    key: str
    reason: str
    stage: str  # where that was found: listing, reading, header (it cannot be opened), pixels (it cannot be decoded)
    kind: str  # of reason; see `decoding.Kind`

    @staticmethod
    def of(key: str, error: BadImage, stage: str) -> Rejected:
        """An input that was found to be no image."""
        return Rejected(key, str(error), stage, error.kind)


@dataclass(frozen=True)
class PieceWriter:
    """Reads, decodes and writes the unit that a record describes; picklable, and called on the workers."""

    source: EncodedSource
    storage: Storage
    folder: str  # of the pieces, below the storage root
    form: ImageForm
    seed: int  # of the splits by hash

    def __call__(self, task: Record) -> Record:
        """Write the pieces of a unit, then its record, and give that: see `Decoded.of`; one that is there and whole is left as it is."""
        name = unit_name(task["number"])
        path = f"{self.folder}/{name}{_RECORD}"
        if task["may_be_whole"] and (record := read_record(self.storage, path)) and is_whole(self.storage, self.folder, record["pieces"]):
            return record
        unit = _Unit(self, name)
        digest = self.source.digest(task["unit"])
        for image in self.source.read(task["unit"]):
            digest.add(image)
            unit.add(image)
        record = unit.record() | {"digest": digest.hexdigest()}
        write_record(self.storage, path, record)
        return record


@dataclass
class _Unit:
    """What is made of a unit while it is read."""

    writer: PieceWriter
    name: str
    num_read: int = 0
    images: list[UInt8] = field(default_factory=list)  # of the piece that is not written yet
    keys: list[str] = field(default_factory=list)
    pieces: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    noted: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)  # key of the first image of each group that can be opened
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})

    def add(self, image: Encoded) -> None:
        self.num_read += 1
        source, form, pixels_HWC = self.writer.source, self.writer.form, None
        if isinstance(image.data, BadImage):
            self.rejected.append(Rejected.of(image.key, image.data, "reading"))
            return
        try:
            pixels_HWC = decode(image.data, form.channels, form.size, source.max_pixels)
        except BadImage as error:
            try:
                read_header(image.data, source.max_pixels)
            except BadImage as none:
                self.rejected.append(Rejected.of(image.key, none, "header"))
                return
            self.rejected.append(Rejected.of(image.key, error, "pixels"))
        if image.group not in self.groups:
            self.groups[image.group] = len(self.groups)
            self.examples.append(image.key)
        for name in source.notes(image):
            self.noted.setdefault(name, []).append(image.key)
        image_hash = 0
        if pixels_HWC is not None:
            pixels_HWC = form.shaped(pixels_HWC, source.levels)
            image_hash = _hash(pixels_HWC)
            self.images.append(pixels_HWC)
            self.keys.append(image.key)
            if (len(self.images) + 1) * pixels_HWC.nbytes > PIECE_BYTES:
                self._write_piece()
        row = (self.groups[image.group], key_hash(image.key, self.writer.seed, "split"), pixels_HWC is not None, image_hash)
        for values, value in zip(self.columns.values(), row, strict=True):
            values.append(value)

    def record(self) -> Record:
        if self.images:
            self._write_piece()
        columns = {name: _packed(np.array(self.columns[name], kind)) for name, kind in _COLUMNS.items()}
        return {
            "num_read": self.num_read,
            "pieces": self.pieces,
            "rejected": self.rejected,
            "noted": self.noted,
            "groups": list(self.groups),
            "examples": self.examples,
            "columns": columns,
        }

    def _write_piece(self) -> None:
        data = _encode_piece(self.keys, np.stack(self.images))
        file = f"{self.name}-{len(self.pieces):04d}.arrow"
        write(self.writer.storage, f"{self.writer.folder}/{file}", data)
        entry = {"file": file, "num_images": len(self.keys), "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.pieces.append(entry)
        self.images, self.keys = [], []


def _hash(pixels_HWC: UInt8) -> int:
    """64 bits of a hash of an image's values: the same for images that are the same."""
    return int.from_bytes(hashlib.blake2b(pixels_HWC.tobytes(), digest_size=8).digest(), "big")


def _packed(values_N: npt.NDArray[Any]) -> str:
    return base64.b64encode(values_N.tobytes()).decode()


def _encode_piece(keys: list[str], images_NHWC: UInt8) -> bytes:
    num, size = len(images_NHWC), math.prod(images_NHWC.shape[1:])
    images = pa.Array.from_buffers(pa.binary(size), num, [None, pa.py_buffer(np.ascontiguousarray(images_NHWC))])
    batch = pa.record_batch([pa.array(keys, pa.string()), images], ["key", "image"])
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, batch.schema) as file:
        file.write(batch)
    return stream.getvalue()


@dataclass(frozen=True)
class PieceLoader:
    """Images that are rows of pieces."""

    storage: Storage
    folder: str
    form: ImageForm

    def __call__(self, task: Record) -> tuple[UInt8, list[str]]:
        """See `writing.Loader`; the record has `pieces`: of each its file, and the rows of it that are images of the shard."""
        num = len(task["labels"])
        images_NHWC, keys = np.empty((num, *self.form.shape_HWC), np.uint8), list[str]()
        for file, rows_M in task["pieces"]:
            batch = self._batch(file)
            stored = batch["image"]
            flat = np.frombuffer(stored.buffers()[1], np.uint8, len(stored) * stored.type.byte_width)
            images_NHWC[len(keys) : len(keys) + len(rows_M)] = flat.reshape(-1, *self.form.shape_HWC)[rows_M]
            keys += batch["key"].take(pa.array(rows_M)).to_pylist()
        return images_NHWC, keys

    def keys(self, files: Iterable[str]) -> Iterator[str]:
        """The keys of all images of some pieces, in their order."""
        for file in files:
            yield from self._batch(file)["key"].to_pylist()

    def _batch(self, file: str) -> pa.RecordBatch:
        """A piece; a local one is mapped, so that only the rows that are used are read."""
        path = f"{self.folder}/{file}"
        try:
            stream = pa.memory_map(self.storage.uri(path)) if self.storage.is_local else pa.BufferReader(self.storage.read_bytes(path))
        except FileNotFoundError as error:
            gone = f"'{self.storage.uri(path)}' is gone, or this host does not see it"
            raise UserError(f"{gone}; give a --storage that every host sees, prepare one folder at a time, and run it again") from error
        return pa.ipc.open_file(stream).get_batch(0)


@dataclass(frozen=True)
class Decoded:
    """What all units have told; arrays run in parallel, in the order of the data set, and hold every image that can be opened."""

    digests: list[str]  # of the units
    num_read: int
    noted: dict[str, list[str]]
    examples: dict[str, str]  # key of the first image of each group
    pieces: list[str]  # files
    piece_ends: Int64  # number of images in all pieces up to each one
    rejected: list[Rejected]
    columns: dict[str, npt.NDArray[Any]]  # see `_COLUMNS`; `group` is the place in `examples`

    @staticmethod
    def of(records: Iterable[Record]) -> Decoded:
        """Out of the records of units, in their order."""
        digests, pieces, counts, rejected, num_read = list[str](), list[str](), list[int](), list[Rejected](), 0
        noted, examples, numbers = dict[str, list[str]](), dict[str, str](), dict[str, int]()
        columns: dict[str, list[npt.NDArray[Any]]] = {name: [np.empty(0, kind)] for name, kind in _COLUMNS.items()}
        for record in records:
            digests.append(record["digest"])
            num_read += record["num_read"]
            rejected += [Rejected(*entry) for entry in record["rejected"]]
            for name, keys in record["noted"].items():
                noted.setdefault(name, []).extend(keys)
            for piece in record["pieces"]:
                pieces.append(piece["file"])
                counts.append(piece["num_images"])
            for group, key in zip(record["groups"], record["examples"], strict=True):
                numbers.setdefault(group, len(numbers))
                examples.setdefault(group, key)
            renumber = np.array([numbers[group] for group in record["groups"]], np.int32)
            for name, kind in _COLUMNS.items():
                values_N: npt.NDArray[Any] = np.frombuffer(base64.b64decode(record["columns"][name]), kind)
                columns[name].append(renumber[values_N] if name == "group" else values_N)
        whole = {name: np.concatenate(parts) for name, parts in columns.items()}
        num_in = len(whole["is_image"]) + sum(entry.stage != "pixels" for entry in rejected)
        if num_in != num_read or sum(counts) != whole["is_image"].sum():
            raise RuntimeError(f"{num_read} images were read, and {num_in} are accounted for: {sum(counts)} of them in pieces")
        return Decoded(digests, num_read, noted, examples, pieces, np.cumsum(counts, dtype=np.int64), rejected, whole)

    @cached_property
    def _ranks_N(self) -> Int64:
        """How many images are in pieces before each one."""
        return np.cumsum(self.columns["is_image"]) - 1

    def rows(self, places_M: Int64) -> Record:
        """What a shard's record holds of images at these places, one or more: the pieces that they are in, and their rows there."""
        ranks_M = self._ranks_N[places_M]
        in_piece_M = np.searchsorted(self.piece_ends, ranks_M, side="right")
        starts = np.concatenate([[0], self.piece_ends])
        numbers, firsts = np.unique(in_piece_M, return_index=True)
        parts = np.split(ranks_M, firsts[1:])
        return {"pieces": [(self.pieces[n], part - starts[n]) for n, part in zip(numbers, parts, strict=True)]}


def first_shape(source: EncodedSource, units: Iterable[Record]) -> tuple[int, int, int] | None:
    """Height, width and channels of the first image that can be opened; None where there is none."""
    for image in chain.from_iterable(map(source.read, units)):
        if not isinstance(image.data, BadImage):
            with suppress(BadImage):
                return read_header(image.data, source.max_pixels)
    return None


def folder_of(source: EncodedSource, listing: Listing, form: ImageForm, seed: int) -> str:
    """Where the pieces of a listing are, below the storage root."""
    made_of = [DECODING_VERSION, type(source).__name__, listing.digest, form.shape_HWC, form.levels_before_draws, source.max_pixels, seed]
    name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    return f"{PREPARING}/{name}{'' if listing.is_settled else _UNSETTLED}"


def whole_units(storage: Storage, folder: str) -> set[str]:
    """Names of the units that an earlier run has decoded; what is left of an unsettled listing is removed."""
    storage.delete(f"{folder.removesuffix(_UNSETTLED)}{_UNSETTLED}")
    return {name.removesuffix(_RECORD) for name in storage.list(folder) if name.endswith(_RECORD)}


def remove_old_pieces(storage: Storage) -> None:
    """Remove what runs have left that nobody has gone on with for `KEPT_S`: folders that have changed since, other options."""
    newest: dict[str, int] = {}
    for entry in storage.files(PREPARING):
        name = entry.path.partition("/")[0]
        newest[name] = max(newest.get(name, 0), entry.modified_ns)
    for name, modified_ns in newest.items():
        if modified_ns < time.time_ns() - KEPT_S * 1_000_000_000:
            storage.delete(f"{PREPARING}/{name}")


def decode_units(writer: PieceWriter, units: Sequence[Record], before: set[str]) -> Iterator[Record]:
    """The records of all units, in their order."""
    tasks = ({"number": n, "unit": units[n], "may_be_whole": unit_name(n) in before} for n in range(len(units)))
    return map_records(writer, tasks)


def unit_name(number: int) -> str:
    """What the files of a unit begin with."""
    return f"{number:08d}"
