"""Sources of encoded images: image files that are read once, in units of work that are one task each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.parallel import Record
from pixelmodels.data.source import Listing

BYTES_PER_PIXEL = 8  # a file with more bytes than this for each pixel of the largest image is not read at all


@dataclass(frozen=True)
class Encoded:
    """One image, before it is decoded."""

    key: str  # names the image; keys of a unit come in the order of the data set, and units in theirs
    data: bytes | BadImage  # an image file's bytes, or why there are none
    group: str = ""  # what decides its split and label: images of one group have the same


@dataclass(frozen=True)
class Arrangement:
    """Splits and labels of groups of images."""

    splits: dict[str, str | None]  # by group; None where the source has none of its own
    labels: dict[str, int | None]  # by group: index into `label_names`
    label_names: tuple[str, ...]  # empty: no labels
    news: dict[str, Any]  # part of the fingerprint where it is not empty
    remarks: tuple[str, ...] = ()  # sentences about what whoever made the source may not have meant


class Digest(Protocol):
    """SHA-256 over the images of a unit."""

    def add(self, image: Encoded) -> None:
        """Take in the next image."""

    def hexdigest(self) -> str:
        """Of all images that were added."""


class EncodedSource:
    """A source of encoded images; picklable, and built from a `DatasetConfig`."""

    levels = 256  # values of decoded pixels
    digest_of = "key, group and content of every image"
    inputs = "files"  # what messages call what is read

    def __init__(self, config: DatasetConfig) -> None:
        self.max_pixels = config.max_pixels
        self.channels = config.channels
        self.size = config.size

    @property
    def most_bytes(self) -> int:
        """Bytes of an image file, above which it is put aside unread."""
        return self.max_pixels * BYTES_PER_PIXEL

    # --- what a format defines ---

    def listing(self) -> Listing:
        """All files, found without reading them; raises `UserError` when there are none."""
        raise NotImplementedError

    def units(self, listing: Listing) -> Sequence[Record]:
        """The units of work, which JSON can hold; always the same of the same listing."""
        raise NotImplementedError

    def read(self, unit: Record) -> Iterator[Encoded]:
        """The images of a unit, on a worker; nothing is read before its size is known to be within limits."""
        raise NotImplementedError

    def arrange(self, examples: dict[str, str]) -> Arrangement:
        """Splits and labels of groups; raises `UserError` where there is nothing, or they are in doubt.

        Args: `examples`, the key of the first readable image of each group, sorted by key.
        """
        raise NotImplementedError

    # --- what most formats leave as it is ---

    def remedy(self) -> str:
        """What to do where there is no image at all."""
        return "give a folder with image files"

    def digest(self, unit: Record) -> Digest:
        """What takes the digest of a unit."""
        return KeyDigest()

    def rejected(self, listing: Listing) -> dict[str, BadImage]:
        """What a listing alone shows to be no image, by key: it is in no unit."""
        return {}

    def notes(self, image: Encoded) -> tuple[str, ...]:
        """Names under which `news` is to be given an image that is readable; empty for most."""
        return ()

    def news(self, noted: dict[str, list[str]], channels: int) -> dict[str, Any]:
        """What was noted that is part of the fingerprint beside the content: empty where nothing is.

        Args: `noted`, keys in their order by the names of `notes`; `channels` that images are decoded to.
        """
        return {}


class KeyDigest:
    """SHA-256 of key, group and content of images, in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, image: Encoded) -> None:
        """Take in the next image; what has no content counts by its key and group."""
        content = b"" if isinstance(image.data, BadImage) else hashlib.sha256(image.data).digest()
        self._digest.update(f"{image.key}\0{image.group}\0".encode("utf-8", "surrogateescape") + content)

    def hexdigest(self) -> str:
        """Of all images that were added."""
        return self._digest.hexdigest()
