"""A folder or bucket of image files, at any depth; a key is a file's path below the folder.

- Every file is tried, whatever its name; what is no image is put aside. Files and folders whose name starts with a dot
  are left out, and counted.
- Splits and labels are what the names of the folders say (`folder_names.py`). A split that is missing is taken from train by hash;
  where there are none, all are by hash of the key. A file in no folder of a class has no label.
- The digest is taken of every file's path, size and content; where earlier versions took them otherwise, also of the order of the
  classes, of the splits' folders, and of which files are read in another way. Not of times, owners or where the folder is.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, overload

import pyarrow as pa

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.decoding import BadImage, is_plain, was_left_unturned, was_put_aside_as_grey, was_read_otherwise
from pixelmodels.data.encoded import Arrangement, Encoded, EncodedSource
from pixelmodels.data.folder_names import arrange, reading_of
from pixelmodels.data.parallel import Record
from pixelmodels.data.recognition import instead
from pixelmodels.data.source import Files, Listing, files_below, unreadable
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

FILES_PER_TASK = 256  # part of the digest's definition: changing it changes every folder's fingerprint
READS_AHEAD = 16  # files of a bucket that one task fetches at a time
# What earlier versions made of a file, by the name that the digest has for it.
_EARLIER = {"read_otherwise": was_read_otherwise, "left_unturned": was_left_unturned, "put_aside_as_grey": was_put_aside_as_grey}


class Folder(EncodedSource):
    """Source `folder`; raises `UserError` when there is no path, no such folder or no image in it."""

    digest_of = "path, size and content of every file"

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config)
        if not config.path:
            raise UserError("source 'folder' needs the folder's path; give --path FOLDER, s3://bucket/prefix or gs://bucket/prefix")
        self.storage = Storage(config.path)
        self.with_labels = config.labels
        self.own_splits = config.splits == "auto"

    def listing(self) -> Listing:
        """Where the folder is, and all paths, sizes and times; not to be trusted later if a file has just changed."""
        entries, num_hidden = self._entries()
        listing = Listing.of(self.storage.root, entries, ("path", "size", "modified_ns", "is_regular"), num_hidden)
        if reading := reading_of((entry.path for entry in entries), self.with_labels, self.own_splits):
            return replace(listing, digest=hashlib.sha256(f"{listing.digest}\0{reading}".encode()).hexdigest())
        return listing

    def units(self, listing: Listing) -> Sequence[Record]:
        return _Units(_files(listing).of_kind(is_regular=True))

    def rejected(self, listing: Listing) -> dict[str, BadImage]:
        return {entry.path: BadImage("not a regular file", "unreadable") for entry in _files(listing).of_kind(is_regular=False)}

    def read(self, unit: Record) -> Iterator[Encoded]:
        limit = self.most_bytes
        contents = self._read([path for path, size in unit["files"] if size <= limit])
        for path, size in unit["files"]:
            too_large = f"{size} bytes are too many for an image of at most {self.max_pixels} pixels"
            data = next(contents) if size <= limit else BadImage(too_large, "too large")
            yield Encoded(path, data, posixpath.dirname(path))

    def arrange(self, examples: dict[str, str]) -> Arrangement:
        return arrange(examples, self.with_labels, self.own_splits, self.storage.root)

    def remedy(self) -> str:
        return f"give a folder with image files{instead(self.storage, 'folder')}"

    def digest(self, unit: Record) -> _FileDigest:
        return _FileDigest(dict(unit["files"]))

    def notes(self, image: Encoded) -> tuple[str, ...]:
        if isinstance(image.data, BadImage) or is_plain(image.data):
            return ()
        return tuple(name for name, was_so in _EARLIER.items() if was_so(image.data, self.max_pixels))

    def news(self, noted: dict[str, list[str]], channels: int) -> dict[str, Any]:
        return {name: paths for name, paths in noted.items() if channels == 1 or name != "put_aside_as_grey"}

    def _entries(self) -> tuple[Files, int]:
        """All files sorted by path, and how many more are hidden."""
        if self.storage.is_file(""):
            raise UserError(f"'{self.storage.root}' is a file; give the folder that holds it")
        return files_below(self.storage, "images", "image files")

    def _read(self, keys: Sequence[str]) -> Iterator[bytes | BadImage]:
        """The bytes of each file in order; from a bucket a few files ahead, because each one waits for the network."""
        if self.storage.is_local:
            yield from map(self._read_one, keys)
            return
        with ThreadPoolExecutor(READS_AHEAD) as pool:
            waiting: deque[Future[bytes | BadImage]] = deque()
            for key in keys:
                waiting.append(pool.submit(self._read_one, key))
                if len(waiting) >= READS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _read_one(self, key: str) -> bytes | BadImage:
        try:
            return self.storage.read_bytes(key)
        except PermissionError as error:
            return BadImage(f"cannot be read: {type(error).__name__}", "unreadable")
        except FileNotFoundError as error:
            reason = f"'{self.storage.uri(key)}' was listed, but a worker cannot see it"
            raise UserError(f"{reason}; every host must see --path, or the folder changed: run the same command again") from error
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.storage, key, error) from error


def _files(listing: Listing) -> Files:
    return listing.entries if isinstance(listing.entries, Files) else Files.of(listing.entries)


@dataclass(frozen=True)
class _Units(Sequence[Record]):
    """The files of a listing in units, each made when it is asked for: their paths are in memory once."""

    entries: Files

    def __len__(self) -> int:
        return -(-len(self.entries) // FILES_PER_TASK)

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...
    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        entries = self.entries[number * FILES_PER_TASK : (number + 1) * FILES_PER_TASK]
        return {"files": [(entry.path, entry.size) for entry in entries]}


class _FileDigest:
    """SHA-256 of path, listed size and content of files, in their order."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes, self._digest = sizes, hashlib.sha256()

    def add(self, image: Encoded) -> None:
        self._digest.update(f"{image.key}\0{self._sizes[image.key]}\0".encode("utf-8", "surrogateescape"))
        if not isinstance(image.data, BadImage):
            self._digest.update(hashlib.sha256(image.data).digest())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
