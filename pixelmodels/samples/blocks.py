"""Blocks of a commission's images that are finished: on disk until the whole is written, so that nothing is drawn twice."""

from __future__ import annotations

import hashlib
import io
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError
from pixelmodels.samples.commission import Commission
from pixelmodels.storage import Storage, StorageFull, why

SAMPLES = "samples"  # folder below the storage root
Block = tuple[int, int]  # first image, and the one after the last


class Blocks:
    """A commission's blocks, each a file `samples/<model's key>/<first>-<stop>-<hash of its requests>.npy` below the storage root.

    The hash covers every option, every given pixel, the kind of device and torch's version: a block of another model, or drawn with other
    options or by other arithmetic, is never taken for one of these; the same one with another number of images shares all but the last.

    Args: `device_type`, of the device that draws, such as cpu.
    """

    def __init__(self, storage: Storage, model_key: str, commission: Commission, batch_size: int, device_type: str) -> None:
        self.commission, self._storage = commission, storage
        self.all: list[Block] = [(start, min(start + batch_size, commission.n)) for start in range(0, commission.n, batch_size)]
        self._arithmetic = f"{device_type} {torch.__version__};"
        self._kept = len(self.all) > 1  # a single one is drawn at once, and leaves nothing
        self._folder = f"{SAMPLES}/{model_key}"
        if self._kept:
            storage.check_writable()
            self._there = set(storage.list(self._folder))

    @property
    def uri(self) -> str:
        """Where they are."""
        return self._storage.uri(self._folder)

    def read(self, block: Block, into_NCHW: UInt8) -> bool:
        """Put a block that is finished into its place among all images; False where it is not there, or cannot be read."""
        if not self._kept or not self._there or (name := self._name(block)) not in self._there:
            return False
        try:
            images_NCHW: UInt8 = np.load(io.BytesIO(self._storage.read_bytes(f"{self._folder}/{name}")), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        place_NCHW = into_NCHW[slice(*block)]
        if images_NCHW.dtype != np.uint8 or images_NCHW.shape != place_NCHW.shape:
            return False
        place_NCHW[:] = images_NCHW
        return True

    def save(self, block: Block, images_NCHW: UInt8) -> None:
        """Put a finished block on disk, whole or not at all; raises `UserError` where that fails."""
        if not self._kept:
            return
        stream = io.BytesIO()
        np.save(stream, images_NCHW, allow_pickle=False)
        try:
            self._storage.write_bytes(f"{self._folder}/{self._name(block)}", stream.getvalue())
        except StorageFull:
            raise
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"'{self.uri}' cannot be written ({why(error)}); free space there, or give another --storage") from error

    def clear(self) -> None:
        """Remove this commission's blocks, and the folder when nothing else is in it."""
        if not self._kept:
            return
        there = set(self._storage.list(self._folder))
        for name in map(self._name, self.all):
            if name in there:
                self._storage.delete(f"{self._folder}/{name}")
        if there and not self._storage.list(self._folder):
            self._storage.delete(self._folder)

    def _name(self, block: Block) -> str:
        digest = hashlib.sha256(self._arithmetic.encode())
        for request in self.commission.requests(*block):
            _feed(digest, request)
        return f"{block[0]:08d}-{block[1]:08d}-{digest.hexdigest()[:16]}.npy"


def _feed(digest: Any, value: object) -> None:
    """Add a value to a hash: tensors with type and shape, dataclasses with the names of their fields."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            digest.update(f"{field.name}=".encode())
            _feed(digest, getattr(value, field.name))
    else:
        digest.update(f"{value!r};".encode())
