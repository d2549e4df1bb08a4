"""CIFAR-10 in its binary version: 60,000 RGB images of 32x32 in ten classes, in train and test.

Format: Krizhevsky, "Learning multiple layers of features from tiny images" (2009). A record is a label byte and the image's
bytes, channel after channel. The Python version of the files is made of pickles, and is not read.
"""

from __future__ import annotations

import hashlib

import numpy as np

from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.quantization import UInt8

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
        data = self.read_bytes(part.images)
        if not data or len(data) % RECORD:
            raise self.bad(part.images, f"{len(data)} bytes are no whole number of records of {RECORD}")
        labels_N = np.frombuffer(data, np.uint8)[::RECORD]
        if labels_N.max() >= NUM_CLASSES:
            raise self.bad(part.images, f"label {labels_N.max()} is not in 0..{NUM_CLASSES - 1}")
        return Contents(len(labels_N), (*SHAPE[1:], SHAPE[0]), labels_N.tolist(), hashlib.sha256(data).hexdigest())

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        names = tuple(self.read_bytes(self.find(self.names_file)).decode("utf-8", "replace").split())
        if len(names) != NUM_CLASSES:
            raise self.bad(self.names_file, f"{len(names)} names of classes, not {NUM_CLASSES}")
        return names

    def images(self, part: Part) -> UInt8:
        records_N = np.frombuffer(self.read_bytes(part.images), np.uint8).reshape(-1, RECORD)
        return records_N[:, 1:].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
