"""Arrays of numbers out of MATLAB's files of level 5 (saved with `-v6` or `-v7`), as a stream.

Format: MathWorks, "MAT-File Format" (level 5). 128 bytes of head, then elements: a tag (type, bytes) and that many bytes. A variable is
an element of type matrix, or such an element compressed by zlib. A matrix is made of elements again: flags, dimensions, name, values;
these run along the first dimension first.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

_HEAD_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # of matrices: double, single, and integers of 8 to 64 bits
_COMPLEX = 0x0800  # a flag of a matrix
_LONGEST_HEAD = 4096  # bytes of a matrix's flags, dimensions or name
_MOST_VARIABLES = 1000
FAILURES = (ValueError, EOFError, struct.error, zlib.error)  # what goes wrong in files that are not whole


@dataclass(frozen=True)
class Variable:
    """An array of a file, at whose first value the stream stands."""

    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # as the values are stored: MATLAB takes the smallest that will do
    is_packed: bool = False  # whether the stream is unpacked from its start, however far it seeks

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


@contextmanager
def open_variable(raw: IO[bytes], name: str) -> Iterator[Variable]:
    """A variable of a file; raises `KeyError` where there is none of that name, and one of `FAILURES` for what is not whole."""
    head = raw.read(_HEAD_BYTES)
    if head.startswith(b"MATLAB 7.3") or head[:4] == b"\x89HDF":
        raise ValueError("it is of MATLAB 7.3 (HDF5); save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        raise ValueError("it has no head of a MATLAB file of level 5")
    for _ in range(_MOST_VARIABLES):
        if not (tag := raw.read(8)):
            break
        kind, num_bytes = struct.unpack(f"{order}2I", tag)
        end = raw.tell() + num_bytes
        if kind in (_MATRIX, _COMPRESSED):
            stream: Any = _Inflated(raw, num_bytes) if kind == _COMPRESSED else raw
            if kind == _COMPRESSED and struct.unpack(f"{order}2I", stream.read(8))[0] != _MATRIX:
                raise ValueError("a compressed element is no matrix")
            variable = _matrix(stream, order, name)
            if variable is not None:
                yield variable
                return
        raw.seek(end)
    raise KeyError(f"it holds no variable '{name}'")


def _matrix(stream: IO[bytes], order: str, wanted: str) -> Variable | None:
    """The matrix whose first element comes next; None where it is not the one that is wanted."""
    flags = struct.unpack(f"{order}2I", _element(stream, order)[1])[0]
    sizes = np.frombuffer(_element(stream, order)[1], f"{order}i4").tolist()
    if _element(stream, order)[1] != wanted.encode():
        return None
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX or not sizes or min(sizes) < 0:
        raise ValueError(f"its '{wanted}' is no array of real numbers")
    kind, num_bytes, _ = _tag(stream, order)
    if kind not in _TYPES:
        raise ValueError(f"its '{wanted}' holds values of type {kind}")
    variable = Variable(stream, tuple(sizes), np.dtype(order + _TYPES[kind]), is_packed=isinstance(stream, _Inflated))
    if variable.num_values * variable.dtype.itemsize != num_bytes:
        raise ValueError(f"{num_bytes} bytes of '{wanted}', and its head says {' x '.join(map(str, sizes))}")
    return variable


def _element(stream: IO[bytes], order: str) -> tuple[int, bytes]:
    """The type and the bytes of a small element, such as a name."""
    kind, num_bytes, is_small = _tag(stream, order)
    if num_bytes > _LONGEST_HEAD:
        raise ValueError(f"{num_bytes} bytes in the head of a matrix")
    padded = 4 if is_small else -(-num_bytes // 8) * 8
    data = stream.read(padded)
    if len(data) != padded:
        raise EOFError("it ends in the middle")
    return kind, data[:num_bytes]


def _tag(stream: IO[bytes], order: str) -> tuple[int, int, bool]:
    """Type, bytes, and whether it is the short form: both in four bytes, and at most four bytes of values behind them."""
    first = struct.unpack(f"{order}I", stream.read(4))[0]
    if first >> 16:
        return first & 0xFFFF, first >> 16, True
    return first, struct.unpack(f"{order}I", stream.read(4))[0], False


class _Inflated:
    """What a run of a stream unpacks to by zlib, read forwards, a piece at a time."""

    _PIECE = 1 << 20

    def __init__(self, raw: IO[bytes], num_bytes: int) -> None:
        self.raw, self.left = raw, num_bytes
        self.unpacker = zlib.decompressobj()
        self.place = 0

    def read(self, num: int) -> bytes:
        pieces = []
        while num:
            packed = self.unpacker.unconsumed_tail or self.raw.read(min(self._PIECE, self.left))
            if not self.unpacker.unconsumed_tail:
                self.left -= len(packed)
            piece = self.unpacker.decompress(packed, num)
            if not piece and not packed:
                break
            pieces.append(piece)
            num -= len(piece)
            self.place += len(piece)
        return b"".join(pieces)

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> int:
        while self.place < place and self.read(min(self._PIECE, place - self.place)):
            pass
        if self.place != place:
            raise EOFError("it ends in the middle")
        return self.place
