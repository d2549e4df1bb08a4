"""MNIST as its IDX files: 70,000 grey digits of 28x28, in train and test; plain or packed with gzip.

Format: LeCun, Cortes and Burges, "The MNIST database of handwritten digits". Any images in IDX files of these names will do
(Fashion-MNIST, KMNIST, EMNIST); a label is the class of that number. Classes are 0..9, and go up to the highest label where that is
more: of EMNIST's letters, whose labels are 1..26, class 0 has no image. EMNIST's files hold each image with rows and columns
exchanged, and are read as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib

import numpy as np

from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError

NUM_CLASSES = 10
_UINT8 = 0x08  # the IDX code of unsigned bytes


class MNIST(PackedSource):
    """Source `mnist`; keys are `train/0000000` and `test/0000000`, in the order of the files."""

    name = "mnist"
    about = "the page 'The MNIST database of handwritten digits' (yann.lecun.com/exdb/mnist)"

    def parts(self) -> list[Part]:
        return [self._part("train", "train"), self._part("test", "t10k")]

    def _part(self, split: str, stem: str) -> Part:
        def file(kind: str) -> str:
            kinds = (kind, kind.replace("-", ".", 1))  # some unpackers write `images.idx3`
            return self.find(*(f"{stem}-{form}{end}" for form in kinds for end in ("-ubyte", "-ubyte.gz")))

        return Part(split, split, file("images-idx3"), file("labels-idx1") if self.with_labels else None)

    def look(self, part: Part) -> Contents:
        images_NHWC = self.images(part)
        digest = hashlib.sha256(images_NHWC.tobytes())
        labels = None
        if part.labels is not None:
            labels_N = self._idx(part.labels, 1)
            if len(labels_N) != len(images_NHWC):
                raise self.bad(part.labels, f"{len(labels_N)} labels for the {len(images_NHWC)} images of {part.images}")
            digest.update(labels_N.tobytes())
            labels = labels_N.tolist()
        return Contents(len(images_NHWC), images_NHWC.shape[1:], labels, digest.hexdigest())

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        first, last = min(used, default=0), max(used, default=0)
        if last >= NUM_CLASSES and (gaps := set(range(first, last)) - used):
            no_classes = f"labels in '{self.storage.root}' go up to {last}, and none is {min(gaps)}: they number no classes"
            remedy = "or prepare them without labels (pipelines/prepare_data.py --labels False)"
            raise UserError(f"{no_classes}; get the files again, from {self.about}, {remedy}")
        return tuple(map(str, range(max(NUM_CLASSES - 1, last) + 1)))

    def images(self, part: Part) -> UInt8:
        return self._idx(part.images, 3)[..., None]

    def _idx(self, file: str, num_dimensions: int) -> UInt8:
        """A file of unsigned bytes in `num_dimensions` dimensions: magic (0, 0, type, dimensions), sizes, values (all big-endian)."""
        data = self.read_bytes(file)
        try:
            data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        except (OSError, EOFError, zlib.error) as error:
            raise self.bad(file, str(error)) from error
        start = 4 + 4 * num_dimensions
        if data[:4] != bytes((0, 0, _UINT8, num_dimensions)) or len(data) < start:
            raise self.bad(file, f"its first bytes are {data[:4].hex()}, not {bytes((0, 0, _UINT8, num_dimensions)).hex()}")
        sizes = struct.unpack(f">{num_dimensions}I", data[4:start])
        if len(data) - start != math.prod(sizes):
            raise self.bad(file, f"{len(data) - start} values, and its head says {' x '.join(map(str, sizes))}")
        return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)
