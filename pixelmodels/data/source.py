"""What a source of images gives to `prepare`; each file in `sources/` holds one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pixelmodels.data.decoding import BadImage
from pixelmodels.storage import FileEntry

UInt8 = npt.NDArray[np.uint8]

RACY_S = 5  # a change this recent may be followed by another one that a bucket's clock does not tell apart


@dataclass(frozen=True)
class Skipped:
    """An input that is put aside."""

    key: str  # where it is
    reason: str  # why it is no image


@dataclass(frozen=True)
class Listing:
    """What a source of files looks like from outside, before any of them is read."""

    digest: str  # changes with the source
    is_settled: bool  # whether the digest can be trusted later: no file changed so recently that another change may go unseen
    entries: list[FileEntry]  # every file, sorted by path
    num_hidden: int  # files left out because their name starts with a dot


@dataclass(frozen=True)
class Survey:
    """All that is known of a source before its images are decoded; the lists run in parallel, sorted by key."""

    digest: str  # SHA-256 of the content; the fingerprint's share of the source
    digest_of: str  # what it was taken of, in words
    keys: list[str]  # names every image that seems readable
    splits: list[str | None]  # the source's own split of each image; None where it has none
    labels: list[int | None]  # index into `label_names`
    label_names: tuple[str, ...]  # empty when the source has no labels, or none were asked for
    height: int  # rows of the source's images (of a folder: of the first one)
    width: int  # columns
    channels: int  # 1 or 3
    levels: int  # values of the pixels that `load` gives
    skipped: list[Skipped]  # inputs that are no images
    num_hidden: int = 0  # files left out because their name starts with a dot


class Source(Protocol):
    """A source of images; picklable, and built from a `DatasetConfig`."""

    def listing(self) -> Listing | None:
        """All files, found without reading them; None when `survey` itself is cheap."""

    def survey(self, listing: Listing | None = None) -> Survey:
        """Look at everything once (at what `listing` names, if it is given), through Ray Data where it is large.

        Raises `UserError` when there is nothing.
        """

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8 | BadImage]:
        """Pixels of each key in order, as H,W,C in `[0, survey.levels)`.

        `channels` and `size` are what will be made of them: a source that decodes files does both, others may ignore them.
        """
