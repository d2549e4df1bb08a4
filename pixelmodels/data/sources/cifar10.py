"""CIFAR-10: 60,000 RGB images of 32x32 in ten classes, in train and test; the binary version, or the Python version.

Format: Krizhevsky, "Learning multiple layers of features from tiny images" (2009). In the binary version a record is a label byte and the
image's bytes, channel after channel. The files of the Python version are pickles of the same numbers: they are read without being
executed (`pickled.py`), and make the same data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pixelmodels.data.block import Block
from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.pickled import SavedArray, read_batch, read_pickled, text_of
from pixelmodels.data.quantization import UInt8

SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


class CIFAR10(PackedSource):
    """Source `cifar10`; keys are `data_batch_1/0000000` ... `test_batch/0000000`."""

    name = "cifar10"
    about = "the page 'The CIFAR-10 dataset' (cs.toronto.edu/~kriz/cifar.html), in the binary or the Python version"
    split_of: Mapping[str, str] = {**dict.fromkeys((f"data_batch_{i}" for i in range(1, 6)), "train"), "test_batch": "test"}  # by part
    label_keys: Mapping[str, int] = {"labels": 10}  # classes of each label byte of a record, by the name that the Python version has for it
    label_key = "labels"  # the one that is taken
    name_files: tuple[str, str] = ("batches.meta.txt", "batches.meta")  # of the binary and of the Python version
    names_key = "label_names"  # in that of the Python version

    @property
    def names_file(self) -> str:  # type: ignore[override]
        """The file that names the classes."""
        return self.find(*self.name_files)

    def parts(self) -> list[Part]:
        has_binary, has_python = (any(self.storage.is_file(f"{name}{end}") for name in self.split_of) for end in (".bin", ""))
        endings = ("",) if has_python and not has_binary else (".bin", "")  # the first one is told where neither is there
        return [Part(name, split, self.find(*(f"{name}{end}" for end in endings))) for name, split in self.split_of.items()]

    def look(self, part: Part) -> Contents:
        digest, place = hashlib.sha256(), list(self.label_keys).index(self.label_key)
        labels: list[int | None] = []
        labels_NL = None if part.images.endswith(".bin") else self._pickled_labels(part)
        with self.block(part) as block:
            for piece in block.pieces():
                records_N = np.frombuffer(piece, np.uint8).reshape(-1, block.num_bytes)
                if labels_NL is not None:
                    records_N = np.concatenate([labels_NL[len(labels) : len(labels) + len(records_N)], records_N], axis=1)
                self._check_labels(part, records_N[:, : len(self.label_keys)])
                digest.update(records_N.tobytes())
                labels += records_N[:, place].tolist()
        return Contents(block.count, block.shape_HWC, labels, digest.hexdigest())

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        file, num_classes = self.names_file, self.label_keys[self.label_key]
        if file.endswith(".txt"):
            names = tuple(self.read_bytes(file).decode("utf-8", "replace").split())
        else:
            try:
                with self.open(file) as stream:
                    names = tuple(map(text_of, read_pickled(stream, self.storage.size(file))[self.names_key]))
            except (ValueError, KeyError, TypeError) as error:
                raise self.bad(file, f"it does not name the classes: {error}") from error
        if len(names) != num_classes:
            raise self.bad(file, f"{len(names)} names of classes, not {num_classes}")
        return names

    @contextmanager
    def block(self, part: Part) -> Iterator[Block]:
        with self.open(part.images) as stream:
            if not part.images.endswith(".bin"):
                data, _ = self._read_batch(part, stream)
                yield Block(data.open(stream), data.shape[0], SHAPE, "CHW", ends_with_stream=False)
                return
            num_bytes, record_bytes = self.storage.size(part.images), len(self.label_keys) + IMAGE_BYTES
            if not num_bytes or num_bytes % record_bytes:
                raise self.bad(part.images, f"{num_bytes} bytes are no whole number of records of {record_bytes}")
            yield Block(stream, num_bytes // record_bytes, SHAPE, "CHW", num_before=len(self.label_keys))

    def _pickled_labels(self, part: Part) -> UInt8:
        """The labels of a batch of the Python version, as the binary version's records have them."""
        with self.open(part.images) as stream:
            labels_NL = np.stack(self._read_batch(part, stream)[1], axis=1)
        self._check_labels(part, labels_NL)
        return labels_NL.astype(np.uint8)

    def _read_batch(self, part: Part, stream: IO[bytes]) -> tuple[SavedArray, list[npt.NDArray[np.int64]]]:
        try:
            data, labels = read_batch(stream, self.storage.size(part.images), list(self.label_keys))
        except ValueError as error:
            raise self.bad(part.images, str(error)) from error
        if data.shape[1] != IMAGE_BYTES:
            raise self.bad(part.images, f"its images have {data.shape[1]} values, not {IMAGE_BYTES}")
        return data, labels

    def _check_labels(self, part: Part, labels_NL: npt.NDArray[np.integer[Any]]) -> None:
        for labels_N, num_classes in zip(labels_NL.T, self.label_keys.values(), strict=True):
            if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < num_classes:
                wrong = labels_N.max() if labels_N.max() >= num_classes else labels_N.min()
                raise self.bad(part.images, f"label {wrong} is not in 0..{num_classes - 1}")
