"""Images of one shape that lie one after the other in a stream: what the files of packed sources hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from pixelmodels.data.quantization import UInt8

UINT8 = np.dtype(np.uint8)
PIECE_BYTES = 1 << 24  # read at a time


@dataclass(frozen=True)
class Block:
    """Images of one shape that lie one after the other in a stream, which stands where the first one begins."""

    stream: IO[bytes]
    count: int  # images
    sizes: tuple[int, ...]  # of an image's axes, in the order in which they are stored
    axes: str  # what these are, such as CHW; grey images have no C
    dtype: np.dtype[Any] = UINT8  # of a value; floats are 0..1
    num_before: int = 0  # bytes in front of each image, such as its label
    ends_with_stream: bool = True  # whether nothing may follow the last image
    is_packed: bool = False  # whether the stream is unpacked from its start, however far in an image is

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        height, width, channels = (self.sizes[self.axes.index(axis)] if axis in self.axes else 1 for axis in "HWC")
        return height, width, channels

    @property
    def num_bytes(self) -> int:
        """Of one image and what is in front of it."""
        return self.num_before + math.prod(self.sizes) * self.dtype.itemsize

    @property
    def images_per_piece(self) -> int:
        """How many `pieces` gives at a time."""
        return max(1, PIECE_BYTES // max(1, self.num_bytes))

    def pieces(self) -> Iterator[bytes]:
        """All bytes, whole images at a time; raises `EOFError` where the stream holds fewer or more."""
        for first in range(0, self.count, self.images_per_piece):
            wanted = min(self.images_per_piece, self.count - first) * self.num_bytes
            piece = self.stream.read(wanted)
            if len(piece) != wanted:
                raise EOFError(f"{self._values(first * self.num_bytes + len(piece))} values, and its head says {self._head}")
            yield piece
        if self.ends_with_stream and self.stream.read(1):
            raise EOFError(f"more than {self._values(self.count * self.num_bytes)} values, and its head says {self._head}")

    def images(self, numbers: Sequence[int]) -> Iterator[UInt8]:
        """Images H,W,C by their places in increasing order; floats of 0..1 become the nearest of 256 levels."""
        start, order = self.stream.tell(), [self.axes.index(axis) for axis in "HWC" if axis in self.axes]
        for number in numbers:
            self.stream.seek(start + number * self.num_bytes + self.num_before)
            data = self.stream.read(self.num_bytes - self.num_before)
            if len(data) != self.num_bytes - self.num_before:
                raise EOFError(f"it ends before image {number}")
            values = np.frombuffer(data, self.dtype).reshape(self.sizes).transpose(order)
            values_HWC = values if "C" in self.axes else values[..., None]
            yield (np.rint(values_HWC.astype(np.float64) * 255) if self.dtype.kind == "f" else values_HWC).astype(np.uint8, copy=False)

    @property
    def _head(self) -> str:
        return " x ".join(map(str, (self.count, *self.sizes)))

    def _values(self, num_bytes: int) -> int:
        return num_bytes // self.dtype.itemsize
