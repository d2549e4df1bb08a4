"""ImageNet at 8, 16, 32 or 64 pixels a side as its npz files: 1,281,167 RGB images in train, 50,000 in test, 1,000 classes.

Format: Chrabaszcz, Loshchilov and Hutter, arXiv:1707.08819. A file holds `data` (images x pixels, uint8, channel after
channel) and `labels` (1..1000), as an npz archive or, in the Python version, as a pickle, which is read without being executed
(`pickled.py`). The PNG files that earlier papers used were made smaller in another way, and their bits/dim do not compare: a folder
of these goes through source `folder`. Images are read a piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from pixelmodels.data.block import Block
from pixelmodels.data.npy import FAILURES, open_array
from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.pickled import read_batch
from pixelmodels.data.source import sha256_of

NUM_CLASSES = 1000
SIDES = (8, 16, 32, 64)
NUM_TRAIN_FILES = 10


class ImageNetDownsampled(PackedSource):
    """Source `imagenet_downsampled`; keys are `train_data_batch_01/0000000` ... `val_data/0000000`."""

    name = "imagenet_downsampled"
    about = "the 'Download' page of image-net.org (downsampled image data, npz format or Python version)"
    names_file = "map_clsloc.txt"  # lines of WordNet id, label 1..1000 and name; optional

    def parts(self) -> list[Part]:
        names = {f"train_data_batch_{i:02d}": f"train_data_batch_{i}" for i in range(1, NUM_TRAIN_FILES + 1)}
        train = [Part(name, "train", self.find(f"{file}.npz", file)) for name, file in names.items()]
        return [*train, Part("val_data", "test", self.find("val_data.npz", "val_data"))]

    def look(self, part: Part) -> Contents:
        with self.block(part) as block:
            for _ in self.pieces(part, block):  # to the end: the archive's checksum tells whether it is whole
                pass
        labels = self._labels(part, block.count) if self.with_labels else None
        with self.reading(part.images), self.storage.open_input(part.images) as stream:
            return Contents(block.count, block.shape_HWC, labels, sha256_of(stream))

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        if not self.storage.is_file(self.names_file):
            return tuple(map(str, range(1, NUM_CLASSES + 1)))
        lines = [line.split() for line in self.read_bytes(self.names_file).decode("utf-8", "replace").splitlines() if line.strip()]
        names = {fields[1]: fields[2] for fields in lines if len(fields) == 3}
        if set(names) != set(map(str, range(1, NUM_CLASSES + 1))):
            raise self.bad(self.names_file, f"it does not name the labels 1..{NUM_CLASSES}")
        return tuple(names[str(i)] for i in range(1, NUM_CLASSES + 1))

    @contextmanager
    def block(self, part: Part) -> Iterator[Block]:
        with self.open(part.images) as raw, self._telling(part.images):
            if part.images.endswith(".npz"):
                with open_array(raw, "data") as (stream, head):
                    yield self._block(part.images, stream, head.shape, head.dtype, head.is_fortran)
            else:
                data, _ = read_batch(raw, self.storage.size(part.images), [])
                yield self._block(part.images, data.open(raw), data.shape, data.dtype, data.is_fortran)

    def _block(self, file: str, stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], is_fortran: bool) -> Block:
        sides = [side for side in SIDES if shape[1:] == (3 * side * side,)]
        if dtype != np.uint8 or is_fortran or not sides or not shape[0]:
            known = ", ".join(f"{side}x{side}" for side in SIDES)
            raise self.bad(file, f"its data are {dtype} shaped {shape}, not RGB images of {known}")
        is_archive = file.endswith(".npz")
        return Block(stream, shape[0], (3, sides[0], sides[0]), "CHW", ends_with_stream=is_archive, is_packed=is_archive)

    def _labels(self, part: Part, count: int) -> list[int]:
        """The class of each image, from 0."""
        with self.open(part.images) as raw, self._telling(part.images):
            if part.images.endswith(".npz"):
                with open_array(raw, "labels") as (stream, head):
                    if head.shape != (count,) or head.dtype.kind not in "iu":
                        raise self.bad(part.images, f"its labels are {head.dtype} shaped {head.shape}, for {count} images")
                    labels_N = head.values(stream, count * head.dtype.itemsize)
            else:
                _, (labels_N,) = read_batch(raw, self.storage.size(part.images), ["labels"])
        if not 1 <= labels_N.min() <= labels_N.max() <= NUM_CLASSES:
            raise self.bad(part.images, f"its labels are not in 1..{NUM_CLASSES}")
        labels: list[int] = (labels_N.astype(int) - 1).tolist()
        return labels

    @contextmanager
    def _telling(self, file: str) -> Iterator[None]:
        """Tell in one line what is wrong with a file."""
        try:
            yield
        except FAILURES as error:
            raise self.bad(file, str(error)) from error
