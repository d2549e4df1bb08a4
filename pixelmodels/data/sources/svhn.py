"""SVHN, Street View House Numbers, as its cropped digits: RGB images of 32x32 in ten classes, in train and test, and more in `extra`.

Format: Netzer, Wang, Coates, Bissacco, Wu and Ng (NIPS workshop 2011). A MATLAB file holds `X` (rows, columns, channels, images; uint8)
and `y` (1..10, where 10 stands for the digit 0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pixelmodels.data.block import Block
from pixelmodels.data.matlab import FAILURES, Variable, open_variable
from pixelmodels.data.packed import Contents, PackedSource, Part

NUM_CLASSES = 10


class SVHN(PackedSource):
    """Source `svhn`; keys are `test/0000000`, `train/0000000`, in the order of the files. Variant `extra`: trains on these, too."""

    name = "svhn"
    about = "the page 'The Street View House Numbers (SVHN) Dataset' (ufldl.stanford.edu/housenumbers, format 2)"
    variants = ("extra",)

    def parts(self) -> list[Part]:
        splits = {"train": "train", "test": "test"} | ({"extra": "train"} if self.variant else {})
        return [Part(name, split, self.find(f"{name}_32x32.mat")) for name, split in splits.items()]

    def look(self, part: Part) -> Contents:
        digest = hashlib.sha256()
        with self.block(part) as block:
            for piece in self.pieces(part, block):
                digest.update(piece)
            block.stream.read(8)  # past the end: the checksum of what is compressed tells whether it is whole
        labels = None
        if self.with_labels:
            with self._variable(part, "y") as variable:
                if variable.num_values != block.count:
                    raise self.bad(part.images, f"{variable.num_values} labels for {block.count} images")
                values = b"".join(Block(variable.stream, block.count, (), "", variable.dtype, ends_with_stream=False).pieces())
            labels_N = np.frombuffer(values, variable.dtype)
            if not np.isin(labels_N, range(1, NUM_CLASSES + 1)).all():
                wrong = labels_N[~np.isin(labels_N, range(1, NUM_CLASSES + 1))][0]
                raise self.bad(part.images, f"label {wrong} is not in 1..{NUM_CLASSES}")
            labels = (labels_N.astype(int) % NUM_CLASSES).tolist()
            digest.update(bytes(labels))
        return Contents(block.count, block.shape_HWC, labels, digest.hexdigest())

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        return tuple(map(str, range(NUM_CLASSES)))

    @contextmanager
    def block(self, part: Part) -> Iterator[Block]:
        with self._variable(part, "X") as variable:
            shape = (*variable.shape, 1)[:4]  # MATLAB writes no last dimension of 1
            if variable.dtype != np.uint8 or len(variable.shape) not in (3, 4) or shape[2] != 3:
                reason = f"its X is {variable.dtype} shaped {variable.shape}, not uint8 of rows x columns x 3 x images"
                raise self.bad(part.images, reason)
            sizes = shape[2::-1]  # the first dimension runs fastest
            block = Block(variable.stream, shape[3], sizes, "CWH", ends_with_stream=False, is_packed=variable.is_packed)
            self.check_size(part.images, block)
            yield block

    @contextmanager
    def _variable(self, part: Part, name: str) -> Iterator[Variable]:
        with self.open(part.images) as stream:
            try:
                with open_variable(stream, name) as variable:
                    yield variable
            except (KeyError, *FAILURES) as error:
                raise self.bad(part.images, str(error.args[0] if error.args else error)) from error
