"""Arrays in NumPy's files: heads first, values as a stream, and never an object that would have to be unpickled.

Format: NumPy Enhancement Proposal 1. A `.npy` file is one array, an `.npz` file a zip archive of such files.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x93NUMPY"
_ENDING = ".npy"
MOST_ARRAYS = 1000  # in an archive that is looked at
# What goes wrong in files that are not whole, or not what their name says.
FAILURES = (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error)


@dataclass(frozen=True)
class ArrayHead:
    """What the head of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool  # whether the first axis runs fastest

    def values(self, stream: IO[bytes], most_bytes: int) -> npt.NDArray[Any]:
        """The whole array, from the stream behind its head; raises `ValueError` for more bytes than these, or where some lack."""
        num_bytes = math.prod(self.shape) * self.dtype.itemsize
        if num_bytes > most_bytes:
            raise ValueError(f"{num_bytes} bytes in an array shaped {self.shape}, more than {most_bytes}")
        data = stream.read(num_bytes)
        if len(data) != num_bytes:
            raise ValueError(f"{len(data)} bytes of an array of {num_bytes}")
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


def read_head(stream: IO[bytes]) -> ArrayHead:
    """The head of an array, at whose first value the stream stands then; raises `ValueError` for what is none, or holds objects."""
    version = np.lib.format.read_magic(stream)
    head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = head(stream)
    if dtype.hasobject:
        raise ValueError(f"type {dtype}: Python objects, which are never unpickled; save plain numbers")
    if dtype.kind == "V":
        raise ValueError(f"type {dtype}, not plain numbers")
    return ArrayHead(tuple(shape), dtype, is_fortran and sum(size > 1 for size in shape) > 1)


def array_names(raw: IO[bytes]) -> list[str]:
    """Names of the arrays of an archive; raises one of `FAILURES`."""
    with _archive(raw) as archive:
        names = [name.removesuffix(_ENDING) for name in archive.namelist() if name.endswith(_ENDING)]
    if len(names) > MOST_ARRAYS:
        raise ValueError(f"{len(names)} arrays, more than {MOST_ARRAYS}")
    return names


@contextmanager
def open_array(raw: IO[bytes], name: str | None) -> Iterator[tuple[IO[bytes], ArrayHead]]:
    """An array of an archive, or of a `.npy` file where `name` is None: its values as a stream, and its head; raises one of `FAILURES`."""
    if name is None:
        head = read_head(raw)
        yield raw, head
        return
    with _archive(raw) as archive, archive.open(f"{name}{_ENDING}") as stream:
        head = read_head(stream)
        yield stream, head


def _archive(raw: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(raw)
    except ValueError as error:  # of Arrow, which seeks to no place before the first byte
        raise zipfile.BadZipFile("File is not a zip file") from error
