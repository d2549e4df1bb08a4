"""Images of packed files, put aside unpacked while the files are looked at.

What is packed (gzip, zip, MATLAB's zlib) can be read from its start only: each shard cut of it would unpack all that is in front of its
images. So the bytes of large ones are written, as they are checked, as pieces of whole images below `preparing/<name>/`, of which shards
read what they need. These are removed when the preparation ends; what a killed one leaves, after a week.
"""

from __future__ import annotations

import hashlib
import mmap
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from pixelmodels.data.block import Block
from pixelmodels.data.pieces import PREPARING
from pixelmodels.data.writing import write
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

MOST_UNPACKED_AGAIN = 64 << 20  # bytes of a part that are rather unpacked for each shard than written


@dataclass(frozen=True)
class Unpacked:
    """Where the pieces of a source's parts are; picklable."""

    storage: Storage
    folder: str  # below the storage root
    most_again: int = MOST_UNPACKED_AGAIN  # bytes

    @staticmethod
    def of(storage: Storage) -> Unpacked:
        """Where they are for one preparation: another one of the same files removes its own."""
        return Unpacked(storage, f"{PREPARING}/{uuid.uuid4().hex[:16]}")

    def holds(self, block: Block) -> bool:
        """Whether this is a block whose bytes are put aside."""
        return block.is_packed and block.count * block.num_bytes > self.most_again

    def keeping(self, part: str, block: Block) -> Iterator[bytes]:
        """The pieces of a block, each put aside before it is given; see `Block.pieces`."""
        for number, piece in enumerate(block.pieces()):
            write(self.storage, self._file(part, number), piece)
            yield piece

    def block(self, part: str, block: Block) -> Block:
        """The same block, of what is put aside."""
        size = block.images_per_piece * block.num_bytes
        return replace(block, stream=cast(IO[bytes], _Pieces(self, part, size)), is_packed=False)

    def piece(self, part: str, number: int) -> Any:
        """The bytes of a piece; a local one is mapped, so that only what is used is read."""
        path = self._file(part, number)
        try:
            if not self.storage.is_local:
                return self.storage.read_bytes(path)
            with open(self.storage.uri(path), "rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            gone = f"'{self.storage.uri(path)}' is gone, or this host does not see it"
            raise UserError(f"{gone}; give a --storage that every host sees, and run it again") from error

    def _file(self, part: str, number: int) -> str:
        return f"{self.folder}/{hashlib.sha256(part.encode()).hexdigest()[:16]}-{number:06d}.raw"


class _Pieces:
    """Pieces of one size, the last of which may be smaller, read as one stream; no read may go beyond a piece."""

    def __init__(self, unpacked: Unpacked, part: str, size: int) -> None:
        self.unpacked, self.part, self.size = unpacked, part, size
        self.place, self.number, self.piece = 0, -1, b""

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> int:
        self.place = place
        return place

    def read(self, num: int) -> bytes:
        number, start = divmod(self.place, self.size)
        if number != self.number:
            self.number, self.piece = number, self.unpacked.piece(self.part, number)
        data = bytes(self.piece[start : start + num])
        self.place += len(data)
        return data
