"""Sources that are a few large files of a known format, each with many images: what mnist, cifar10 and the like share.

A key is `<part>/<number>`, the image's place in its file, counted from 0. Files are looked at (size, magic, labels) before an
image is decoded, one task a file, and hold no pickles. The digest is taken of every file's content, unpacked where it is packed, and
of the names of the classes: they say what a label means.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from pixelmodels.data.block import Block
from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.recognition import instead
from pixelmodels.data.source import Listing, Survey, unreadable
from pixelmodels.data.unpacked import Unpacked
from pixelmodels.errors import UserError, unknown
from pixelmodels.storage import FileEntry, Storage

_BUFFER_BYTES = 1 << 20  # asked of a bucket at a time


@dataclass(frozen=True)
class Part:
    """Some images of one split, in one file."""

    name: str  # first part of their keys; names sort in the order of the parts
    split: str | None  # train, validation or test; None where there are no splits
    images: str  # file that holds them
    labels: str | None = None  # file that holds their labels, where that is another one


@dataclass(frozen=True)
class Contents:
    """What is found in a part when it is looked at."""

    count: int  # images
    shape: tuple[int, int, int]  # (height, width, channels) of each
    labels: Sequence[Any] | None  # class of each image, from 0 (after `settled`); None where there are none
    digest: str  # SHA-256 of the content
    largest: int = 255  # an upper bound of its pixels


class PackedSource:
    """A source of known files in one folder; raises `UserError` when there is no path, or a file is missing or not what it should be."""

    name: str  # of the source
    about: str  # where people get the files
    names_file: str | None = None  # file that names the classes, where one does
    variants: tuple[str, ...] = ()  # what `DatasetConfig.variant` may be

    def __init__(self, config: DatasetConfig) -> None:
        if not config.path:
            raise UserError(f"source '{self.name}' needs the folder with its files; give --path FOLDER ({self.about})")
        if config.variant is not None and self.variants and config.variant not in self.variants:
            raise unknown(f"variant of source '{self.name}'", config.variant, self.variants)
        self.storage = Storage(config.path)
        self.with_labels = config.labels is not False
        self.variant = config.variant
        self.max_pixels = config.max_pixels
        self.unpacked: Unpacked | None = None  # where large packed parts are put aside, if they are

    # --- what a format defines ---

    def parts(self) -> list[Part]:
        """The parts whose files are there, in order; raises `UserError` for one that is missing (see `find`)."""
        raise NotImplementedError

    def look(self, part: Part) -> Contents:
        """Check a part's files as far as can be done without decoding its images; raises `UserError` (see `bad`)."""
        raise NotImplementedError

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        """The name of each class, where these labels are used; empty where there are no labels."""
        return ()

    def block(self, part: Part) -> AbstractContextManager[Block]:
        """A part's images, open for reading."""
        raise NotImplementedError

    def read(self, part: Part, numbers: Sequence[int]) -> Iterator[UInt8]:
        """Images H,W,C of a part, by their places in increasing order."""
        with self._whole(part), self.block(part) as block:
            is_aside = self.unpacked is not None and self.unpacked.holds(block)
            yield from (self.unpacked.block(part.name, block) if self.unpacked and is_aside else block).images(numbers)

    def settled(self, found: list[Contents]) -> list[Contents]:
        """What was found in the parts, in their order, where something can only be told of all together; raises `UserError`."""
        return found

    def levels(self, found: list[Contents]) -> int:
        """Values of the pixels that `read` gives."""
        return 256

    def remarks(self, label_names: Sequence[str]) -> tuple[str, ...]:
        """Sentences about what whoever made the files may not have meant, where these classes were found."""
        return ()

    # --- what follows from it ---

    def listing(self) -> Listing:
        """Sizes and times of the files; see `Source`."""
        files = {file for part in self.parts() for file in (part.images, part.labels) if file}
        if self.with_labels and self.names_file and self.storage.is_file(self.names_file):
            files.add(self.names_file)
        return Listing.of(self.storage.root, [self._entry(file) for file in sorted(files)], ("path", "size", "modified_ns"))

    def survey(self, listing: Listing | None = None) -> Survey:
        """Read every file once."""
        parts = self._by_name()
        found = self.settled([Contents(**record) for record in map_records(self._look, [{"part": name} for name in parts])])
        shapes = {(height, width, channels) for height, width, channels in (contents.shape for contents in found)}
        if len(shapes) > 1:
            raise UserError(f"files of '{self.storage.root}' hold images of different shapes ({sorted(shapes)}); keep one kind in a folder")
        used = {label for contents in found for label in contents.labels or () if label is not None}
        names = self.label_names(used) if self.with_labels else ()
        parts_found = list(zip(parts.values(), found, strict=True))
        return Survey(
            digest=hashlib.sha256("\0".join([*(contents.digest for contents in found), *names]).encode()).hexdigest(),
            digest_of="content of every file, and names of the classes" if names else "content of every file",
            keys=[f"{part.name}/{number:07d}" for part, contents in parts_found for number in range(contents.count)],
            splits=[part.split for part, contents in parts_found for _ in range(contents.count)],
            labels=[label for contents in found for label in (names and contents.labels) or [None] * contents.count],
            label_names=names,
            shape_HWC=shapes.pop(),
            levels=self.levels(found),
            remarks=self.remarks(names),
        )

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8]:
        """Pixels of each key; see `Source`."""
        parts = self._by_name()
        for name, group in groupby(keys, key=lambda key: key.partition("/")[0]):
            yield from self.read(parts[name], [int(key.partition("/")[2]) for key in group])

    def _look(self, task: Record) -> Record:
        part = self._by_name()[task["part"]]
        with self._whole(part):
            contents = self.look(part)
        if not contents.count or not math.prod(contents.shape):
            raise self.bad(part.images, f"it holds {contents.count} images of {' x '.join(map(str, contents.shape))}")
        return asdict(contents)

    @contextmanager
    def _whole(self, part: Part) -> Iterator[None]:
        """Tell in one line that a file is shorter, or longer, than it should be."""
        try:
            yield
        except EOFError as error:
            raise self.bad(part.images, str(error)) from error

    def _by_name(self) -> dict[str, Part]:
        return {part.name: part for part in sorted(self.parts(), key=lambda part: part.name)}

    # --- for the formats ---

    def pieces(self, part: Part, block: Block) -> Iterator[bytes]:
        """All bytes of a part's images (see `Block.pieces`), which are put aside where `read` would have to unpack them again and again."""
        is_aside = self.unpacked is not None and self.unpacked.holds(block)
        return self.unpacked.keeping(part.name, block) if self.unpacked and is_aside else block.pieces()

    def find(self, *names: str) -> str:
        """The first of some names that is a file in the folder; `UserError` where none is."""
        for name in names:
            if self.storage.is_file(name):
                return name
        missing = f"'{self.storage.uri(names[0])}' is missing"
        needed = f"source '{self.name}' needs it, from {self.about}: give their folder with --path"
        raise UserError(f"{missing}; {needed}{instead(self.storage, self.name)}")

    def read_bytes(self, file: str) -> bytes:
        """All bytes of a file; `UserError` where it cannot be read."""
        with self.reading(file):
            return self.storage.read_bytes(file)

    @contextmanager
    def open(self, file: str) -> Iterator[io.BufferedReader]:
        """A file, open for random access; `UserError` where it cannot be read."""
        with self.reading(file), self.storage.open_input(file) as stream, io.BufferedReader(stream, _BUFFER_BYTES) as buffered:
            yield buffered

    def check_size(self, file: str, block: Block) -> None:
        """Raise `UserError` for images that are too large to be decoded."""
        height, width, _ = block.shape_HWC
        if height * width > self.max_pixels:
            raise self.bad(file, f"images of {height} x {width} pixels; --max-pixels allows {self.max_pixels}")

    @contextmanager
    def reading(self, file: str) -> Iterator[None]:
        """Tell in one line which file cannot be read."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.storage, file, error) from error

    def bad(self, file: str, reason: str) -> UserError:
        """The error for a file that is not what its name says."""
        return UserError(f"'{self.storage.uri(file)}' is not a whole file of '{self.name}' ({reason}); get it again, from {self.about}")

    def _entry(self, file: str) -> FileEntry:
        filesystem, full = self.storage.fs_and_path(file)
        info = filesystem.get_file_info(full)
        if info.size is None:
            raise UserError(f"'{self.storage.uri(file)}' is gone; run the same command again")
        return FileEntry(file, int(info.size), int(info.mtime_ns or 0))
