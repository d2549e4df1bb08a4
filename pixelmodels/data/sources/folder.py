"""A folder or bucket of image files, at any depth; a key is a file's path below the folder.

- Every file is tried, whatever its name; what is no image is put aside. Files and folders whose name starts with a dot
  are left out, and counted.
- Own splits: when files lie below top folders `train`, and `validation` (or `val`, `valid`) or `test`, these are the splits, and
  a split that is missing is taken from train by hash; an image elsewhere is then an error. Otherwise all splits are by hash of the key.
- A label is the name of the first sub-folder (below the split's folder, if there is one). A file in none has no label.
- The digest is taken of every file's path, size and content; not of times, owners or where the folder is.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.decoding import BadImage, decode, read_header
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.source import RACY_S, Listing, Skipped, Survey, UInt8
from pixelmodels.errors import UserError
from pixelmodels.storage import FileEntry, Storage

FILES_PER_TASK = 256  # part of the digest's definition: changing it changes every folder's fingerprint
BYTES_PER_PIXEL = 8  # a file with more bytes than this for each pixel of the largest image is not read at all
READS_AHEAD = 16  # files of a bucket that one task fetches at a time
SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


class Folder:
    """Source `folder`; raises `UserError` when there is no path, no such folder or no image in it."""

    def __init__(self, config: DatasetConfig) -> None:
        if not config.path:
            raise UserError("source 'folder' needs the folder's path; give --path FOLDER or --path s3://bucket/prefix")
        self.storage = Storage(config.path)
        self.with_labels = bool(config.labels)
        self.own_splits = config.splits == "auto"
        self.max_pixels = config.max_pixels

    def listing(self) -> Listing:
        """Where the folder is, and all paths, sizes and times; not to be trusted later if a file has just changed."""
        entries, num_hidden = self._entries()
        digest = hashlib.sha256(self.storage.root.encode("utf-8", "surrogateescape"))
        for entry in entries:
            digest.update(f"\0{entry.path}\0{entry.size}\0{entry.modified_ns}\0{entry.is_regular}".encode("utf-8", "surrogateescape"))
        newest_ns = max(entry.modified_ns for entry in entries)
        is_settled = newest_ns < time.time_ns() - RACY_S * 1_000_000_000
        return Listing(digest.hexdigest(), is_settled, entries, num_hidden)

    def survey(self, listing: Listing | None = None) -> Survey:
        """Read every listed file once: digest of its content, and what its first bytes say that it is."""
        listing = listing or self.listing()
        entries = [entry for entry in listing.entries if entry.is_regular]
        tasks = [
            {"number": number, "files": [(entry.path, entry.size) for entry in entries[start : start + FILES_PER_TASK]]}
            for number, start in enumerate(range(0, len(entries), FILES_PER_TASK))
        ]
        results = sorted(map_records(self._survey_files, tasks), key=lambda result: int(result["number"]))
        bad = {path: reason for result in results for path, reason in result["bad"]}
        bad |= {entry.path: "not a regular file" for entry in listing.entries if not entry.is_regular}
        keys = [entry.path for entry in entries if entry.path not in bad]
        skipped = [Skipped(path, bad[path]) for path in sorted(bad)]
        if not keys:
            first = f", the first is '{skipped[0].key}': {skipped[0].reason}" if skipped else ""
            no_images = f"folder '{self.storage.root}' has no images ({len(skipped)} other files{first})"
            raise UserError(f"{no_images}; give a folder with image files")
        height, width, channels = next(result["first"] for result in results if result["first"])
        splits, below = self._splits(keys)
        labels, label_names = self._labels(below)
        return Survey(
            digest=hashlib.sha256("".join(result["digest"] for result in results).encode()).hexdigest(),
            digest_of="path, size and content of every file",
            keys=keys,
            splits=splits,
            labels=labels,
            label_names=label_names,
            height=height,
            width=width,
            channels=channels,
            levels=256,
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
            raise UserError(f"folder '{self.storage.root}' does not exist; give --path FOLDER or --path s3://bucket/prefix")
        if self.storage.is_file(""):
            raise UserError(f"'{self.storage.root}' is a file; give the folder that holds it")
        try:
            everything = sorted(self.storage.files())
        except UnicodeError as error:
            raise UserError(
                f"folder '{self.storage.root}' holds a file whose name is not UTF-8 ({getattr(error, 'object', '')!r}); rename it"
            ) from error
        except OSError as error:
            reason = str(error).splitlines()[0][:160]
            no_listing = f"folder '{self.storage.root}' cannot be listed ({reason})"
            raise UserError(f"{no_listing}; check its name and your rights to read it") from error
        seen = [entry for entry in everything if not any(part.startswith(".") for part in entry.path.split("/"))]
        if not seen:
            raise UserError(f"folder '{self.storage.root}' has no images (no files at all); give a folder with image files")
        return seen, len(everything) - len(seen)

    def _survey_files(self, task: Record) -> Record:
        digest, bad, first = hashlib.sha256(), [], None
        limit = self.max_pixels * BYTES_PER_PIXEL
        small = [path for path, size in task["files"] if size <= limit]
        contents = dict.fromkeys(small)
        reader = self._read(small)
        for path, size in task["files"]:
            digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
            if path not in contents:
                bad.append((path, f"{size} bytes are too many for an image of at most {self.max_pixels} pixels"))
                continue
            data = next(reader)
            try:
                if isinstance(data, BadImage):
                    raise data
                digest.update(hashlib.sha256(data).digest())
                header = read_header(io.BytesIO(data), self.max_pixels)
                first = first or (header.height, header.width, header.channels)
            except BadImage as error:
                bad.append((path, str(error)))
        return {"number": task["number"], "digest": digest.hexdigest(), "bad": bad, "first": first}

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

    def _splits(self, keys: Sequence[str]) -> tuple[list[str | None], list[str]]:
        """Each file's own split, if the folder has splits, and its path below the split's folder."""
        tops = [key.partition("/")[0] if "/" in key else "" for key in keys]
        own = [SPLIT_FOLDERS.get(top) for top in tops]
        found = {split for split in own if split is not None}
        if not self.own_splits or "train" not in found or len(found) == 1:
            return [None] * len(keys), list(keys)
        if None in own:
            stray = (
                f"folder '{self.storage.root}' has splits of its own ({', '.join(sorted(found))}), but '{keys[own.index(None)]}' is in none"
            )
            raise UserError(f"{stray}; move it into one, or give --splits hash")
        return own, [key.partition("/")[2] for key in keys]

    def _labels(self, paths: Sequence[str]) -> tuple[list[int | None], tuple[str, ...]]:
        if not self.with_labels:
            return [None] * len(paths), ()
        classes = [path.partition("/")[0] if "/" in path else None for path in paths]
        names = sorted({name for name in classes if name is not None})
        if not names:
            no_labels = f"folder '{self.storage.root}' has no sub-folders to take labels from"
            raise UserError(f"{no_labels}; leave labels out, or sort the files into sub-folders")
        index = {name: i for i, name in enumerate(names)}
        return [None if name is None else index[name] for name in classes], tuple(names)
