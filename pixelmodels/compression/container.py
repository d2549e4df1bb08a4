"""The file: a head that says what decodes it, an index, the blocks, a checksum. Nothing in it is used before it is bounded.

    magic, format version | head | index | names | blocks | the first 8 bytes of the SHA-256 of all before

Whole numbers are of 7 bits a byte, the lowest first (LEB128). A block is its checksum, and a payload whose length the index has.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pixelmodels.compression.arithmetic import CHOICES, Machine, Way
from pixelmodels.compression.codec import DIGEST_BYTES, Block
from pixelmodels.compression.conditions import KINDS
from pixelmodels.errors import UserError
from pixelmodels.models.class_names import told
from pixelmodels.shapes import ImageSpec

MAGIC, VERSION = b"\x89PXC", 2
CHECKSUM_BYTES, SHA256_BYTES = 8, 32
LONGEST_TEXT, LONGEST_NAME = 4096, 255  # bytes: of what a machine or a model is called, and of a file's name
_BYTES_OF_NUMBER = 9  # that hold 63 bits
_HIGH = 0x80
PNG = ".png"  # how names end, in capitals or not
_SEPARATOR = "/"  # of names, which is in none


@dataclass(frozen=True)
class Head:
    """What decodes a file."""

    weights: bytes  # SHA-256 of the model's (see `weights.sha256_of`)
    model: str  # what the model was called where the file was written; empty: not told
    spec: ImageSpec  # of the images
    kinds: int  # what they are conditioned on: a bit for each of `conditions.KINDS`
    way: Way
    machine: Machine


@dataclass(frozen=True)
class Container:
    """A file's content. Every block but the last is of as many images as the way is wide."""

    head: Head
    blocks: tuple[Block, ...]
    names: tuple[str, ...] | None = None  # of the files that the images were; None: not kept

    @property
    def num_images(self) -> int:
        """In all blocks."""
        return sum(block.num_images for block in self.blocks)

    def first_of(self, block: int) -> int:
        """The number of a block's first image."""
        return block * self.head.way.width

    def to_bytes(self) -> bytes:
        """The whole file."""
        head = self.head
        out = [MAGIC, bytes([VERSION]), head.weights, _text(head.model)]
        out += map(_number, (*head.spec.shape, head.spec.levels, head.kinds, self.num_images))
        for one in fields(Way):
            value = getattr(head.way, one.name)
            out.append(_number(CHOICES[one.name].index(value) if one.name in CHOICES else value))
        out += [_text(getattr(head.machine, one.name)) for one in fields(Machine)]
        names = b"" if self.names is None else packed(self.names)
        out += [_number(len(names)), *(_number(len(block.payload)) for block in self.blocks), names]
        out += [part for block in self.blocks for part in (block.digest, block.payload)]
        content = b"".join(out)
        return content + _checksum(content)

    @classmethod
    def of_bytes(cls, data: bytes, what: str) -> Container:
        """The content of a file; raises `UserError`, which names it as `what`, for anything that this version did not write."""
        if not data.startswith(MAGIC):
            raise UserError(f"{what} is no file of images that compress.py encoded; give one that is")
        if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
            written = f"{what} has format version {data[len(MAGIC)]}, and this version of pixelmodels reads {VERSION}"
            raise UserError(f"{written}; decode it with the version that wrote it")
        content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if len(content) <= len(MAGIC) or _checksum(content) != checksum:
            raise UserError(f"{what} is cut off or was changed, its checksum does not fit; get it again from where it was whole")
        try:
            return _read(_Reader(content, len(MAGIC) + 1))
        except (_Malformed, UserError) as error:
            raise UserError(f"{what} has a head that cannot be right ({error}); encode the images again") from error


def packed(names: Sequence[str]) -> bytes:
    """Names of files, compressed."""
    return zlib.compress(_SEPARATOR.join(names).encode(errors="surrogateescape"), 9)


class _Malformed(Exception):
    pass


class _Reader:
    """Values one after the other, none of which reaches beyond the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise _Malformed(f"{count} bytes told of, {self.left} there")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> Any:
        """The next whole number."""
        value = 0
        for place in range(_BYTES_OF_NUMBER):
            (byte,) = self.take(1)
            value |= (byte & ~_HIGH) << 7 * place
            if byte < _HIGH:
                return value
        raise _Malformed("a number without an end")

    def choice(self, choices: Sequence[str]) -> Any:
        """The next of some words."""
        place = self.number()
        if place >= len(choices):
            raise _Malformed(f"a choice {place} of {len(choices)}")
        return choices[place]

    def text(self) -> str:
        """The next text, on one line whatever it is: it will be printed."""
        length = self.number()
        if length > LONGEST_TEXT:
            raise _Malformed(f"a text of {length} bytes")
        return told(self.take(length).decode(errors="backslashreplace"))


def _read(reader: _Reader) -> Container:
    weights, model = reader.take(SHA256_BYTES), reader.text()
    spec = ImageSpec(*(reader.number() for _ in range(4)))
    kinds, num_images = reader.number(), reader.number()
    if kinds >> len(KINDS):
        raise _Malformed("unknown kinds of conditions")
    way = Way(*(reader.choice(CHOICES[one.name]) if one.name in CHOICES else reader.number() for one in fields(Way)))
    machine = Machine(*(reader.text() for _ in fields(Machine)))
    length_of_names = reader.number()
    num_blocks = -(-num_images // way.width)
    if num_blocks * (1 + DIGEST_BYTES) + length_of_names > reader.left:  # so many are at least as long as that
        raise _Malformed(f"{num_images} images told of in {reader.left} bytes")
    lengths = [reader.number() for _ in range(num_blocks)]
    names = _unpacked(reader.take(length_of_names), num_images) if length_of_names else None
    blocks = []
    for place, length in enumerate(lengths):
        digest, payload = reader.take(DIGEST_BYTES), reader.take(length)
        blocks.append(Block(min(way.width, num_images - place * way.width), payload, digest))
    if reader.left or not blocks:
        raise _Malformed(f"{reader.left} bytes behind {len(blocks)} blocks")
    return Container(Head(weights, model, spec, kinds, way, machine), tuple(blocks), names)


def _unpacked(data: bytes, num: int) -> tuple[str, ...]:
    """Names, each one that a file can have in any folder, and all different; raises `_Malformed`."""
    most = num * (LONGEST_NAME + 1)
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, most)
    except zlib.error as error:
        raise _Malformed(f"names that cannot be read: {error}") from error
    names = tuple(text.decode(errors="surrogateescape").split(_SEPARATOR))
    if not unpacker.eof or unpacker.unused_data or len(names) != num or len(set(names)) != num:
        raise _Malformed("names that are not one for each image")
    for name in names:
        if name in ("", ".", "..") or "\0" in name or len(name.encode(errors="surrogateescape")) > LONGEST_NAME:
            raise _Malformed("a name that no file can have")
        if not name.lower().endswith(PNG):
            raise _Malformed("a name that is none of a PNG file")
    return names


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= _HIGH:
        out.append(value % _HIGH | _HIGH)
        value //= _HIGH
    return bytes([*out, value])


def _text(text: str) -> bytes:
    data = text.encode(errors="backslashreplace")[:LONGEST_TEXT]
    return _number(len(data)) + data


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:CHECKSUM_BYTES]
