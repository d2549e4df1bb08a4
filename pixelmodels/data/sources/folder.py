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
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.decoding import BadImage, decode, read_header, was_left_unturned, was_put_aside_as_grey, was_read_otherwise
from pixelmodels.data.folder_names import arrange, reading_of
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.recognition import instead
from pixelmodels.data.source import Listing, Survey, unreadable
from pixelmodels.errors import UserError
from pixelmodels.storage import FileEntry, Storage, why

FILES_PER_TASK = 256  # part of the digest's definition: changing it changes every folder's fingerprint
BYTES_PER_PIXEL = 8  # a file with more bytes than this for each pixel of the largest image is not read at all
READS_AHEAD = 16  # files of a bucket that one task fetches at a time
# What earlier versions made of a file, by the name that the digest has for it.
_EARLIER = {"read_otherwise": was_read_otherwise, "left_unturned": was_left_unturned, "put_aside_as_grey": was_put_aside_as_grey}


class Folder:
    """Source `folder`; raises `UserError` when there is no path, no such folder or no image in it."""

    def __init__(self, config: DatasetConfig) -> None:
        if not config.path:
            raise UserError("source 'folder' needs the folder's path; give --path FOLDER, s3://bucket/prefix or gs://bucket/prefix")
        self.storage = Storage(config.path)
        self.with_labels = config.labels
        self.own_splits = config.splits == "auto"
        self.max_pixels = config.max_pixels
        self.channels = config.channels

    def listing(self) -> Listing:
        """Where the folder is, and all paths, sizes and times; not to be trusted later if a file has just changed."""
        entries, num_hidden = self._entries()
        listing = Listing.of(self.storage.root, entries, ("path", "size", "modified_ns", "is_regular"), num_hidden)
        if reading := reading_of((entry.path for entry in entries), self.with_labels, self.own_splits):
            return replace(listing, digest=hashlib.sha256(f"{listing.digest}\0{reading}".encode()).hexdigest())
        return listing

    def survey(self, listing: Listing | None = None) -> Survey:
        """Read every listed file once: digest of its content, and what its first bytes say that it is."""
        listing = listing or self.listing()
        entries = [entry for entry in listing.entries if entry.is_regular]
        files = [(entry.path, entry.size) for entry in entries]
        results = map_records(self._survey_files, [{"files": files[i : i + FILES_PER_TASK]} for i in range(0, len(files), FILES_PER_TASK)])
        skipped = {path: reason for result in results for path, reason in result["bad"]}
        skipped |= {entry.path: "not a regular file" for entry in listing.entries if not entry.is_regular}
        keys = [entry.path for entry in entries if entry.path not in skipped]
        if not keys:
            first = f", the first is '{min(skipped)}': {skipped[min(skipped)]}" if skipped else ""
            no_images = f"folder '{self.storage.root}' has no images ({len(skipped)} other files{first})"
            raise UserError(f"{no_images}; give a folder with image files{instead(self.storage, 'folder')}")
        arrangement = arrange(keys, self.with_labels, self.own_splits, self.storage.root)
        shape_HWC = next(tuple(result["first"]) for result in results if result["first"])
        earlier = {name: [path for result in results for path in result["earlier"][name]] for name in _EARLIER}
        if (self.channels or shape_HWC[2]) != 1:
            del earlier["put_aside_as_grey"]
        changes = arrangement.news | {name: paths for name, paths in earlier.items() if paths}
        news = json.dumps(changes, sort_keys=True) if changes else ""
        return Survey(
            digest=hashlib.sha256(("".join(result["digest"] for result in results) + news).encode()).hexdigest(),
            digest_of=f"path, size and content of every file{', and what earlier versions read otherwise' if news else ''}",
            keys=keys,
            splits=arrangement.splits,
            labels=arrangement.labels,
            label_names=arrangement.label_names,
            shape_HWC=shape_HWC,
            skipped=skipped,
            num_hidden=listing.num_hidden,
        )

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8 | BadImage]:
        for data in self._read(keys):
            try:
                yield data if isinstance(data, BadImage) else decode(data, channels, size, self.max_pixels)
            except BadImage as error:
                yield error

    def _entries(self) -> tuple[list[FileEntry], int]:
        """All files sorted by path, and how many more are hidden."""
        if self.storage.is_local and not self.storage.exists():
            raise UserError(f"folder '{self.storage.root}' does not exist; give --path FOLDER, s3://bucket/prefix or gs://bucket/prefix")
        if self.storage.is_file(""):
            raise UserError(f"'{self.storage.root}' is a file; give the folder that holds it")
        try:
            everything = sorted(self.storage.files())
        except UnicodeError as error:
            raise UserError(
                f"folder '{self.storage.root}' holds a file whose name is not UTF-8 ({getattr(error, 'object', '')!r}); rename it"
            ) from error
        except OSError as error:
            no_listing = f"folder '{self.storage.root}' cannot be listed ({why(error)})"
            raise UserError(f"{no_listing}; check its name and your rights to read it") from error
        seen = [entry for entry in everything if not any(part.startswith(".") for part in entry.path.split("/"))]
        if not seen:
            raise UserError(f"folder '{self.storage.root}' has no images (no files at all); give a folder with image files")
        return seen, len(everything) - len(seen)

    def _survey_files(self, task: Record) -> Record:
        digest, bad, first = hashlib.sha256(), [], None
        earlier: dict[str, list[str]] = {name: [] for name in _EARLIER}
        limit = self.max_pixels * BYTES_PER_PIXEL
        reader = self._read([path for path, size in task["files"] if size <= limit])
        for path, size in task["files"]:
            digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
            try:
                if size > limit:
                    raise BadImage(f"{size} bytes are too many for an image of at most {self.max_pixels} pixels")
                data = next(reader)
                if isinstance(data, BadImage):
                    raise data
                digest.update(hashlib.sha256(data).digest())
                shape_HWC = read_header(data, self.max_pixels)
                first = first or shape_HWC
                for name, was_so in _EARLIER.items():
                    if was_so(data, self.max_pixels):
                        earlier[name].append(path)
            except BadImage as error:
                bad.append((path, str(error)))
        return {"digest": digest.hexdigest(), "bad": bad, "earlier": earlier, "first": first}

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
            return BadImage(f"cannot be read: {type(error).__name__}")
        except FileNotFoundError as error:
            reason = f"'{self.storage.uri(key)}' was listed, but a worker cannot see it"
            raise UserError(f"{reason}; every host must see --path, or the folder changed: run the same command again") from error
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.storage, key, error) from error
