"""MNIST with its fixed binarization as Larochelle's text files: 28x28 images of 0 and 1, in train, validation and test.

The draws are those of Salakhutdinov and Murray (ICML 2008), on which papers compare nats; they have no labels. A line of a
`.amat` file is an image: 784 digits 0 or 1 with spaces between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError

SIDE = 28
FILES = {"train": "binarized_mnist_train.amat", "validation": "binarized_mnist_valid.amat", "test": "binarized_mnist_test.amat"}


class BinarizedMNIST(PackedSource):
    """Source `binarized_mnist`; keys are `train/0000000`, `validation/0000000`, `test/0000000`, in the order of the files."""

    name = "binarized_mnist"
    about = "Hugo Larochelle's data sets page (public/datasets/binarized_mnist at the University of Toronto)"

    def __init__(self, config: DatasetConfig) -> None:
        if config.binarize != "none":
            raise UserError(f"binarize '{config.binarize}' has no meaning for source '{self.name}', which is binary; leave it out")
        if config.labels:
            raise UserError(f"source '{self.name}' has no labels; leave labels out, or take source mnist")
        super().__init__(config)

    def parts(self) -> list[Part]:
        return [Part(split, split, self.find(file)) for split, file in FILES.items()]

    def levels(self, found: list[Contents]) -> int:
        return 2

    def look(self, part: Part) -> Contents:
        images_NHWC = self._images(part)
        return Contents(len(images_NHWC), images_NHWC.shape[1:], None, hashlib.sha256(images_NHWC.tobytes()).hexdigest())

    def read(self, part: Part, numbers: Sequence[int]) -> Iterator[UInt8]:
        images_NHWC = self._images(part)
        return (images_NHWC[number] for number in numbers)

    def _images(self, part: Part) -> UInt8:
        bytes_N = np.frombuffer(self.read_bytes(part.images), np.uint8)
        values_N = bytes_N[~np.isin(bytes_N, np.frombuffer(b" \r\n\t", np.uint8))] - ord("0")
        if not len(values_N) or values_N.max() > 1:
            raise self.bad(part.images, "it does not hold 0 and 1 with spaces between them")
        if len(values_N) % SIDE**2:
            raise self.bad(part.images, f"{len(values_N)} values are no whole number of {SIDE}x{SIDE} images")
        return values_N.reshape(-1, SIDE, SIDE, 1)
