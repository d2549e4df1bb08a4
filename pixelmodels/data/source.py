"""What a source of images gives to `prepare`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Protocol, overload

import pyarrow as pa
import pyarrow.compute as pc

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError
from pixelmodels.storage import FileEntry, Storage, why

RACY_S = 5  # a change this recent may be followed by another one that a bucket's clock does not tell apart
_PIECE_BYTES = 16 << 20
_ROWS_AT_A_TIME = 4096  # of files of a listing: as Python's objects
_COLUMNS = pa.schema([("path", pa.large_string()), ("size", pa.int64()), ("modified_ns", pa.int64()), ("is_regular", pa.bool_())])


@dataclass
class Listing:
    """What a source of files looks like from outside, before any of them is read."""

    digest: str  # changes with the source
    is_settled: bool  # whether the digest can be trusted later: no file changed so recently that another change may go unseen
    entries: Sequence[FileEntry]  # every file, sorted by path; none after `forget_entries`
    num_hidden: int  # files left out because their name starts with a dot

    @staticmethod
    def of(root: str, entries: Sequence[FileEntry], fields: Sequence[str], num_hidden: int = 0) -> Listing:
        """The listing of files below a root, whose digest covers these fields of every file."""
        digest, newest_ns, told = hashlib.sha256(root.encode("utf-8", "surrogateescape")), 0, attrgetter(*fields)
        entries_left = iter(entries)
        while some := list(islice(entries_left, _ROWS_AT_A_TIME)):
            digest.update("".join(["\0" + "\0".join(map(str, told(entry))) for entry in some]).encode("utf-8", "surrogateescape"))
            newest_ns = max(newest_ns, *(entry.modified_ns for entry in some))
        return Listing(digest.hexdigest(), newest_ns < time.time_ns() - RACY_S * 1_000_000_000, entries, num_hidden)

    def forget_entries(self) -> None:
        """Let go of the files once all of them were read: a million take 50 MB, and twice that while the source is listed again."""
        self.entries = ()


class Files(Sequence[FileEntry]):
    """Files sorted by path, in the memory of their paths' letters and 25 bytes more for each; made into entries as they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @staticmethod
    def of(entries: Iterable[FileEntry]) -> Files:
        """Files that come in any order, taken a few at a time."""
        left, batches = iter(entries), []
        while some := list(islice(left, _ROWS_AT_A_TIME)):
            batches.append(
                pa.record_batch(
                    [pa.array(column, kind) for column, kind in zip(zip(*some, strict=True), _COLUMNS.types, strict=True)], _COLUMNS
                )
            )
        # By bytes of UTF-8, which is the order of Python's strings.
        files = Files(pa.Table.from_batches(batches, _COLUMNS).sort_by("path").combine_chunks())
        del batches
        pa.default_memory_pool().release_unused()
        return files

    def of_kind(self, *, is_regular: bool) -> Files:
        """Those that are regular, or those that are not."""
        wanted = self._table["is_regular"] if is_regular else pc.invert(self._table["is_regular"])
        return self if pc.all(wanted).as_py() else Files(self._table.filter(wanted).combine_chunks())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, place: int) -> FileEntry: ...
    @overload
    def __getitem__(self, place: slice) -> list[FileEntry]: ...
    def __getitem__(self, place: int | slice) -> FileEntry | list[FileEntry]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            columns = self._table.slice(start, max(0, stop - start)).columns
            return list(map(FileEntry, *(column.to_pylist() for column in columns)))[::step]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self[place : place + 1][0]

    def __iter__(self) -> Iterator[FileEntry]:
        for start in range(0, len(self), _ROWS_AT_A_TIME):
            yield from self[start : start + _ROWS_AT_A_TIME]


@dataclass(frozen=True)
class Survey:
    """All that is known of a source before its images are decoded; the lists run in parallel, sorted by key."""

    digest: str  # SHA-256 of the content; the fingerprint's share of the source
    digest_of: str  # what it was taken of, in words
    keys: list[str]  # names every image that seems readable
    splits: list[str | None]  # the source's own split of each image; None where it has none
    labels: list[int | None]  # index into `label_names`
    label_names: tuple[str, ...]  # empty when the source has no labels, or none were asked for
    shape_HWC: tuple[int, int, int]  # of the source's images
    levels: int = 256  # values of the pixels that `load` gives
    remarks: tuple[str, ...] = ()  # sentences about what whoever made the source may not have meant


class Source(Protocol):
    """A source of images that are no files of their own; picklable, and built from a `DatasetConfig`. See also `EncodedSource`."""

    def listing(self) -> Listing | None:
        """All files, found without reading them; None when `survey` itself is cheap."""
        return None

    def survey(self, listing: Listing | None = None) -> Survey:
        """Look at everything once (at what `listing` names, if it is given), on the cluster where it is large.

        Raises `UserError` when there is nothing.
        """

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8]:
        """Pixels of each key in order, as H,W,C in `[0, survey.levels)`.

        `channels` and `size` are what will be made of them, and may be ignored.
        """


def files_below(storage: Storage, contents: str, wanted: str, hidden: tuple[str, ...] = (".",)) -> tuple[Files, int]:
    """All files of a source, and how many more have `hidden` before their name or a folder's; raises `UserError`.

    Args: `contents` and `wanted` say what lacks where there are no files, and what to give.
    """
    marks, num_hidden = [f"/{mark}" for mark in hidden], 0

    def seen() -> Iterator[FileEntry]:
        nonlocal num_hidden
        for entry in storage.files():
            if any(mark in f"/{entry.path}" for mark in marks):
                num_hidden += 1
            else:
                yield entry

    if storage.is_local and not storage.exists():
        raise UserError(f"folder '{storage.root}' does not exist; give --path FOLDER, s3://bucket/prefix or gs://bucket/prefix")
    try:
        files = Files.of(seen())
    except UnicodeError as error:
        name = getattr(error, "object", "")
        raise UserError(f"folder '{storage.root}' holds a file whose name is not UTF-8 ({name!r}); rename it") from error
    except OSError as error:
        no_listing = f"folder '{storage.root}' cannot be listed ({why(error)})"
        raise UserError(f"{no_listing}; check its name and your rights to read it") from error
    if not files:
        raise UserError(f"folder '{storage.root}' has no {contents} (no files at all); give a folder with {wanted}")
    return files, num_hidden


def unreadable(storage: Storage, file: str, error: BaseException) -> UserError:
    """The error for a file that is there and cannot be read."""
    return UserError(f"'{storage.uri(file)}' cannot be read ({why(error)}); see to that, or take it out, and give the same command again")


def sha256_of(stream: pa.NativeFile) -> str:
    """SHA-256 of all that a stream holds, read a piece at a time."""
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()
