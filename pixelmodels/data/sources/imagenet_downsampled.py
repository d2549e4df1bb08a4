"""ImageNet at 8, 16, 32 or 64 pixels a side as its npz files: 1,281,167 RGB images in train, 50,000 in test, 1,000 classes.

Format: Chrabaszcz, Loshchilov and Hutter, arXiv:1707.08819. An archive holds `data` (images x pixels, uint8, channel after
channel) and `labels` (1..1000). The PNG files that earlier papers used were made smaller in another way, and their bits/dim do
not compare: a folder of these goes through source `folder`. Arrays are read a piece at a time, and never unpickled.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.source import sha256_of

NUM_CLASSES = 1000
SIDES = (8, 16, 32, 64)
NUM_TRAIN_FILES = 10
_PIECE = 1 << 24  # bytes that are read at a time


class ImageNetDownsampled(PackedSource):
    """Source `imagenet_downsampled`; keys are `train_data_batch_01/0000000` ... `val_data/0000000`."""

    name = "imagenet_downsampled"
    about = "the 'Download' page of image-net.org (downsampled image data, npz format)"
    names_file = "map_clsloc.txt"  # lines of WordNet id, label 1..1000 and name; optional

    def parts(self) -> list[Part]:
        train = [Part(f"train_data_batch_{i:02d}", "train", self.find(f"train_data_batch_{i}.npz")) for i in range(1, NUM_TRAIN_FILES + 1)]
        return [*train, Part("val_data", "test", self.find("val_data.npz"))]

    def look(self, part: Part) -> Contents:
        with self._array(part.images, "data") as (stream, shape, dtype):
            sides = [side for side in SIDES if shape[1:] == (3 * side * side,)]
            if dtype != np.uint8 or not sides or not shape[0]:
                known = ", ".join(f"{side}x{side}" for side in SIDES)
                raise self.bad(part.images, f"its data are {dtype} shaped {shape}, not RGB images of {known}")
            length = 0
            while piece := stream.read(_PIECE):  # to the end: the archive's checksum tells whether it is whole
                length += len(piece)
            if length != math.prod(shape):
                raise self.bad(part.images, f"{length} values, and its head says {shape}")
        labels = None
        if self.with_labels:
            with self._array(part.images, "labels") as (stream, label_shape, label_dtype):
                if label_shape != shape[:1] or label_dtype.kind not in "iu":
                    raise self.bad(part.images, f"its labels are {label_dtype} shaped {label_shape}, for {shape[0]} images")
                labels_N = np.frombuffer(stream.read(shape[0] * label_dtype.itemsize), label_dtype)
            if len(labels_N) != shape[0] or not 1 <= labels_N.min() <= labels_N.max() <= NUM_CLASSES:
                raise self.bad(part.images, f"its labels are not in 1..{NUM_CLASSES}")
            labels = (labels_N.astype(int) - 1).tolist()
        with self.reading(part.images), self.storage.open_input(part.images) as stream:
            return Contents(shape[0], (sides[0], sides[0], 3), labels, sha256_of(stream))

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        if not self.storage.is_file(self.names_file):
            return tuple(map(str, range(1, NUM_CLASSES + 1)))
        lines = [line.split() for line in self.read_bytes(self.names_file).decode("utf-8", "replace").splitlines() if line.strip()]
        names = {fields[1]: fields[2] for fields in lines if len(fields) == 3}
        if set(names) != set(map(str, range(1, NUM_CLASSES + 1))):
            raise self.bad(self.names_file, f"it does not name the labels 1..{NUM_CLASSES}")
        return tuple(names[str(i)] for i in range(1, NUM_CLASSES + 1))

    def read(self, part: Part, numbers: Sequence[int]) -> Iterator[UInt8]:
        with self._array(part.images, "data") as (stream, shape, _):
            side = math.isqrt(shape[1] // 3)
            start = stream.tell()
            for number in numbers:
                stream.seek(start + number * shape[1])
                yield np.frombuffer(stream.read(shape[1]), np.uint8).reshape(3, side, side).transpose(1, 2, 0)

    @contextmanager
    def _array(self, file: str, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
        """An array of an archive: its values as a stream, its shape and its type."""
        try:
            with (
                self.reading(file),
                self.storage.open_input(file) as raw,
                zipfile.ZipFile(raw) as archive,
                archive.open(f"{name}.npy") as stream,
            ):
                version = np.lib.format.read_magic(stream)
                head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, is_fortran, dtype = head(stream)
                if is_fortran or dtype.hasobject:
                    raise self.bad(file, f"its {name} are of type {dtype}")
                yield stream, shape, dtype
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, zlib.error) as error:
            raise self.bad(file, str(error)) from error
