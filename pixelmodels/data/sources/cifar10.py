"""CIFAR-10 in its binary version: 60,000 RGB images of 32x32 in ten classes, in train and test.

Format: Krizhevsky, "Learning multiple layers of features from tiny images" (2009). A record is a label byte and the image's
bytes, channel after channel. The Python version of the files is made of pickles, and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.source import UInt8

NUM_CLASSES = 10
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))


class CIFAR10(PackedSource):
    """Source `cifar10`; keys are `data_batch_1/0000000` ... `test_batch/0000000`."""

    name = "cifar10"
    about = "the page 'The CIFAR-10 dataset' (cs.toronto.edu/~kriz/cifar.html), in the binary version"
    names_file = "batches.meta.txt"

    def parts(self) -> list[Part]:
        return [Part(name, "train" if name in _TRAIN else "test", self.find(f"{name}.bin")) for name in (*_TRAIN, "test_batch")]

    def look(self, part: Part) -> Contents:
        size = self.storage.size(part.images)
        if not size or size % RECORD:
            raise self.bad(part.images, f"{size} bytes are no whole number of records of {RECORD}")
        labels_N = np.frombuffer(self.storage.read_bytes(part.images), np.uint8)[::RECORD]
        if labels_N.max() >= NUM_CLASSES:
            raise self.bad(part.images, f"label {labels_N.max()} is not in 0..{NUM_CLASSES - 1}")
        return Contents(size // RECORD, (*SHAPE[1:], SHAPE[0]), labels_N.tolist(), self.sha256(part.images))

    def label_names(self) -> tuple[str, ...]:
        names = tuple(self.storage.read_bytes(self.find(self.names_file)).decode("utf-8", "replace").split())
        if len(names) != NUM_CLASSES:
            raise self.bad(self.names_file, f"{len(names)} names of classes, not {NUM_CLASSES}")
        return names

    def read(self, part: Part, numbers: Sequence[int]) -> Iterator[UInt8]:
        with self.storage.open_input(part.images) as stream:
            for number in numbers:
                record = stream.read_at(RECORD, number * RECORD)
                yield np.frombuffer(record, np.uint8, offset=1).reshape(SHAPE).transpose(1, 2, 0)
