"""Sources of encoded images: image files that are read once, in units of work that are one task each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.parallel import Record
from pixelmodels.data.source import Listing


@dataclass(frozen=True)
class Encoded:
    """One image, before it is decoded."""

    key: str  # names the image; keys of a unit come in the order of the data set, and units in theirs
    data: bytes | BadImage  # an image file's bytes, or why there are none
    group: str = ""  # what decides its split and label: images of one group have the same


@dataclass(frozen=True)
class Arrangement:
    """Splits and labels of groups."""

    splits: dict[str, str | None]  # by group; None where the source has none of its own
    labels: dict[str, int | None]  # by group: index into label_names
    label_names: tuple[str, ...]  # empty: no labels
    news: dict[str, Any]  # part of the fingerprint where it is not empty


class EncodedSource:
    """A source of encoded images; picklable."""

    levels = 256

    def __init__(self, config: DatasetConfig) -> None:
        self.max_pixels = config.max_pixels
        self.channels = config.channels
        self.size = config.size

    def listing(self) -> Listing:
        """All files, found without reading them."""
        raise NotImplementedError

    def units(self, listing: Listing) -> list[Record]:
        """The units of work: what JSON can hold, always the same of the same files."""
        raise NotImplementedError

    def read(self, unit: Record) -> Iterator[Encoded]:
        """The images of a unit, on a worker; nothing is read before its size is known to be within limits."""
        raise NotImplementedError

    def arrange(self, examples: dict[str, str]) -> Arrangement:
        """Splits and labels, of each group with the key of its first readable image (on the driver)."""
        raise NotImplementedError
