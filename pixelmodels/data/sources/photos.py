"""Patches of the two photographs that scikit-learn ships (`china.jpg`, `flower.jpg`, 427x640, RGB).

Each photograph is cut into a grid of blocks of 32x32 pixels; rows and columns that do not fill a block are not used.
A block belongs to one split as a whole, chosen by hash so that each split has its share of every photograph, and patches
of 8, 16 or 32 pixels tile the blocks. No pixel is in two patches, and a test pixel is one at every patch size.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.source import Listing, Source, Survey
from pixelmodels.data.splits import key_hash
from pixelmodels.errors import UserError

BLOCK = 32  # pixels along a side


class Photos(Source):
    """Source `photos`; a key is `china.jpg/y0032/x0064`, the patch's first row and column."""

    def __init__(self, config: DatasetConfig) -> None:
        if config.labels:
            raise UserError("source 'photos' has no labels; leave labels out, or take source digits or folder")
        self.config = config

    def survey(self, listing: Listing | None = None) -> Survey:
        digest = hashlib.sha256()
        split_of: dict[str, str | None] = {}
        for name, photo_HWC in _load().items():
            digest.update(name.encode() + photo_HWC.tobytes())
            for (top, left), split in self._block_splits(name, photo_HWC).items():
                for y in range(top, top + BLOCK, self.config.patch_size):
                    for x in range(left, left + BLOCK, self.config.patch_size):
                        split_of[f"{name}/y{y:04d}/x{x:04d}"] = split
        keys = sorted(split_of)
        return Survey(
            digest=digest.hexdigest(),
            digest_of="names and pixels of load_sample_images",
            keys=keys,
            splits=[split_of[key] for key in keys],
            labels=[None] * len(keys),
            label_names=(),
            shape_HWC=(self.config.patch_size, self.config.patch_size, 3),
        )

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8]:
        photos = _load()
        for key in keys:
            name, y, x = key.split("/")
            top, left = int(y[1:]), int(x[1:])
            yield photos[name][top : top + self.config.patch_size, left : left + self.config.patch_size]

    def _block_splits(self, name: str, photo_HWC: UInt8) -> dict[tuple[int, int], str]:
        """The split of each block of a photograph, by its (top, left): blocks ranked by hash, shares rounded to blocks."""
        height, width = photo_HWC.shape[:2]
        corners = [(top, left) for top in range(0, height - BLOCK + 1, BLOCK) for left in range(0, width - BLOCK + 1, BLOCK)]
        corners.sort(key=lambda corner: key_hash(f"{name}/{corner[0]}/{corner[1]}", self.config.seed, "block"))
        splits: list[str] = []
        for split, share in (("test", self.config.test_share), ("validation", self.config.validation_share)):
            splits += [split] * max(1, round(share * len(corners)))
        splits += ["train"] * (len(corners) - len(splits))
        return dict(zip(corners, splits, strict=True))


@functools.cache
def _load() -> dict[str, UInt8]:
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    names = [str(name).replace("\\", "/").rsplit("/", 1)[-1] for name in bunch.filenames]
    photos = dict(zip(names, bunch.images, strict=True))
    return {name: np.asarray(photos[name], dtype=np.uint8) for name in sorted(photos)}
