"""MNIST as its IDX files: 70,000 grey digits of 28x28, in train and test; plain or packed with gzip.

Format: LeCun, Cortes and Burges, "The MNIST database of handwritten digits". Any images in IDX files of these names will do
(Fashion-MNIST, KMNIST); a label is the class of that number. Classes are 0..9, and go up to the highest label where that is more.
EMNIST's files have names of their own, and a source of their own; where they were renamed to these, they are read as they are: each
image with rows and columns exchanged, and with a class 0 that has no image where labels start at 1.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pixelmodels.data.block import Block
from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.errors import UserError

NUM_CLASSES = 10
_UINT8 = 0x08  # the IDX code of unsigned bytes
_GZIP = b"\x1f\x8b"  # first bytes of a packed file


class MNIST(PackedSource):
    """Source `mnist`; keys are `train/0000000` and `test/0000000`, in the order of the files."""

    name = "mnist"
    about = "the page 'The MNIST database of handwritten digits' (yann.lecun.com/exdb/mnist)"
    axes = "HW"  # of an image, as they are stored

    def parts(self) -> list[Part]:
        return [self.part("train", "train"), self.part("test", "t10k")]

    def part(self, split: str, stem: str) -> Part:
        """The part of a split, whose files' names begin with `stem`."""

        def file(kind: str) -> str:
            kinds = (kind, kind.replace("-", ".", 1))  # some unpackers write `images.idx3`
            return self.find(*(f"{stem}-{form}{end}" for form in kinds for end in ("-ubyte", "-ubyte.gz")))

        return Part(split, split, file("images-idx3"), file("labels-idx1") if self.with_labels else None)

    def look(self, part: Part) -> Contents:
        digest = hashlib.sha256()
        with self.block(part) as block:
            for piece in self.pieces(part, block):
                digest.update(piece)
        labels = None
        if part.labels is not None:
            with self._idx(part.labels, 1) as (stream, (count,)):
                if count != block.count:
                    raise self.bad(part.labels, f"{count} labels for the {block.count} images of {part.images}")
                values = b"".join(Block(stream, count, (), "").pieces())
            digest.update(values)
            labels = list(values)
        return Contents(block.count, block.shape_HWC, labels, digest.hexdigest())

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        first, last = min(used, default=0), max(used, default=0)
        if last >= NUM_CLASSES and (gaps := set(range(first, last)) - used):
            no_classes = f"labels in '{self.storage.root}' go up to {last}, and none is {min(gaps)}: they number no classes"
            remedy = "or prepare them without labels (pipelines/prepare_data.py --labels False)"
            raise UserError(f"{no_classes}; get the files again, from {self.about}, {remedy}")
        return tuple(map(str, range(max(NUM_CLASSES - 1, last) + 1)))

    @contextmanager
    def block(self, part: Part) -> Iterator[Block]:
        with self._idx(part.images, 3) as (stream, (count, *sizes)):
            block = Block(stream, count, tuple(sizes), self.axes, is_packed=isinstance(stream, gzip.GzipFile))
            self.check_size(part.images, block)
            yield block

    @contextmanager
    def _idx(self, file: str, num_dimensions: int) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """A file of unsigned bytes: magic (0, 0, type, dimensions), sizes, values (all big-endian); the values, and the sizes."""
        with self.open(file) as raw:
            try:
                stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw  # type: ignore[assignment]
                head = stream.read(4 + 4 * num_dimensions)
                magic = bytes((0, 0, _UINT8, num_dimensions))
                if head[:4] != magic or len(head) < 4 + 4 * num_dimensions:
                    raise self.bad(file, f"its first bytes are {head[:4].hex()}, not {magic.hex()}")
                yield stream, struct.unpack(f">{num_dimensions}I", head[4:])
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise self.bad(file, str(error)) from error
