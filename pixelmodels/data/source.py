"""What a source of images gives to `prepare`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError
from pixelmodels.storage import FileEntry, Storage, why

RACY_S = 5  # a change this recent may be followed by another one that a bucket's clock does not tell apart
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class Listing:
    """What a source of files looks like from outside, before any of them is read."""

    digest: str  # changes with the source
    is_settled: bool  # whether the digest can be trusted later: no file changed so recently that another change may go unseen
    entries: list[FileEntry]  # every file, sorted by path
    num_hidden: int  # files left out because their name starts with a dot

    @staticmethod
    def of(root: str, entries: list[FileEntry], fields: Sequence[str], num_hidden: int = 0) -> Listing:
        """The listing of files below a root, whose digest covers these fields of every file."""
        digest = hashlib.sha256(root.encode("utf-8", "surrogateescape"))
        for entry in entries:
            digest.update("".join(f"\0{getattr(entry, name)}" for name in fields).encode("utf-8", "surrogateescape"))
        newest_ns = max(entry.modified_ns for entry in entries)
        return Listing(digest.hexdigest(), newest_ns < time.time_ns() - RACY_S * 1_000_000_000, entries, num_hidden)


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


def unreadable(storage: Storage, file: str, error: BaseException) -> UserError:
    """The error for a file that is there and cannot be read."""
    return UserError(f"'{storage.uri(file)}' cannot be read ({why(error)}); see to that, or take it out, and give the same command again")


def sha256_of(stream: pa.NativeFile) -> str:
    """SHA-256 of all that a stream holds, read a piece at a time."""
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()
