"""Sources that are a few large files of a known format, each with many images: what mnist, cifar10 and the like share.

A key is `<part>/<number>`, the image's place in its file, counted from 0. Files are looked at (size, magic, labels) before an
image is decoded, one task a file, and hold no pickles. The digest is taken of every file's content, unpacked where it is packed, and
of the names of the classes: they say what a label means.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pyarrow import fs

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.source import RACY_S, Listing, Survey, UInt8
from pixelmodels.errors import UserError
from pixelmodels.storage import FileEntry, Storage


@dataclass(frozen=True)
class Part:
    """Some images of one split, in one file."""

    name: str  # first part of their keys; names sort in the order of the parts
    split: str  # train, validation or test
    images: str  # file that holds them
    labels: str | None = None  # file that holds their labels, where that is another one


@dataclass(frozen=True)
class Contents:
    """What is found in a part when it is looked at."""

    count: int  # images
    shape: tuple[int, int, int]  # (height, width, channels) of each
    labels: list[int] | None  # of each image, from 0; None where there are none
    digest: str  # SHA-256 of the content


class PackedSource:
    """A source of known files in one folder; raises `UserError` when there is no path, or a file is missing or not what it should be."""

    name: str  # of the source
    about: str  # where people get the files
    names_file: str | None = None  # file that names the classes, where one does
    levels = 256

    def __init__(self, config: DatasetConfig) -> None:
        if not config.path:
            raise UserError(f"source '{self.name}' needs the folder with its files; give --path FOLDER ({self.about})")
        self.storage = Storage(config.path)
        self.with_labels = config.labels is not False

    # --- what a format defines ---

    def parts(self) -> list[Part]:
        """The parts whose files are there, in order; raises `UserError` for one that is missing (see `find`)."""
        raise NotImplementedError

    def look(self, part: Part) -> Contents:
        """Check a part's files as far as can be done without decoding its images; raises `UserError` (see `bad`)."""
        raise NotImplementedError

    def label_names(self) -> tuple[str, ...]:
        """The name of each class; empty where there are no labels."""
        raise NotImplementedError

    def read(self, part: Part, numbers: Sequence[int]) -> Iterator[UInt8]:
        """Images H,W,C of a part, by their places in increasing order."""
        raise NotImplementedError

    # --- what follows from it ---

    def listing(self) -> Listing:
        """Sizes and times of the files; see `Source`."""
        files = {file for part in self.parts() for file in (part.images, part.labels) if file}
        if self.with_labels and self.names_file and self.storage.is_file(self.names_file):
            files.add(self.names_file)
        entries = [self._entry(file) for file in sorted(files)]
        digest = hashlib.sha256(self.storage.root.encode("utf-8", "surrogateescape"))
        for entry in entries:
            digest.update(f"\0{entry.path}\0{entry.size}\0{entry.modified_ns}".encode())
        is_settled = max(entry.modified_ns for entry in entries) < time.time_ns() - RACY_S * 1_000_000_000
        return Listing(digest.hexdigest(), is_settled, entries, 0)

    def survey(self, listing: Listing | None = None) -> Survey:
        """Read every file once."""
        parts = sorted(self.parts(), key=lambda part: part.name)
        found = sorted(map_records(self._look, [{"number": i} for i in range(len(parts))]), key=lambda result: int(result["number"]))
        shapes = {tuple(result["shape"]) for result in found}
        if len(shapes) > 1:
            raise UserError(f"files of '{self.storage.root}' hold images of different shapes ({sorted(shapes)}); keep one kind in a folder")
        (height, width, channels) = shapes.pop()
        names = self.label_names() if self.with_labels else ()
        keys: list[str] = []
        splits: list[str | None] = []
        labels: list[int | None] = []
        for part, result in zip(parts, found, strict=True):
            keys += [f"{part.name}/{number:07d}" for number in range(result["count"])]
            splits += [part.split] * result["count"]
            labels += result["labels"] if names else [None] * result["count"]
        return Survey(
            digest=hashlib.sha256("\0".join([*(result["digest"] for result in found), *names]).encode()).hexdigest(),
            digest_of="content of every file, and names of the classes" if names else "content of every file",
            keys=keys,
            splits=splits,
            labels=labels,
            label_names=names,
            height=height,
            width=width,
            channels=channels,
            levels=self.levels,
            skipped=[],
        )

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8]:
        """Pixels of each key; see `Source`."""
        parts = {part.name: part for part in self.parts()}
        for name, group in groupby(keys, key=lambda key: key.partition("/")[0]):
            yield from self.read(parts[name], [int(key.partition("/")[2]) for key in group])

    def _look(self, task: Record) -> Record:
        part = sorted(self.parts(), key=lambda part: part.name)[task["number"]]
        found = self.look(part)
        return {"number": task["number"], "count": found.count, "shape": found.shape, "labels": found.labels, "digest": found.digest}

    # --- for the formats ---

    def find(self, *names: str) -> str:
        """The first of some names that is a file in the folder; `UserError` where none is."""
        for name in names:
            if self.storage.is_file(name):
                return name
        missing = f"'{self.storage.uri(names[0])}' is missing"
        raise UserError(f"{missing}; source '{self.name}' needs it, from {self.about}: give their folder with --path")

    def bad(self, file: str, reason: str) -> UserError:
        """The error for a file that is not what its name says."""
        return UserError(f"'{self.storage.uri(file)}' is not a whole file of '{self.name}' ({reason}); get it again, from {self.about}")

    def sha256(self, file: str) -> str:
        """SHA-256 of a file's bytes, read a piece at a time."""
        with self.storage.open_input(file) as stream:
            digest = hashlib.sha256()
            while piece := stream.read(1 << 22):
                digest.update(piece)
        return digest.hexdigest()

    def _entry(self, file: str) -> FileEntry:
        filesystem, full = self.storage.fs_and_path(file)
        info: fs.FileInfo = filesystem.get_file_info(full)
        return FileEntry(file, int(info.size), int(info.mtime_ns or 0))
