"""Images of a source, decoded, quantized and written as shards by workers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pixelmodels.data.decoding import BadImage, convert_channels, fit
from pixelmodels.data.parallel import Record
from pixelmodels.data.quantization import FIXED_EPOCH, UInt8, binarize_dynamic, dequantize, quantize
from pixelmodels.data.shards import IMAGES_PER_DRAW, encode_shard
from pixelmodels.data.source import Source
from pixelmodels.data.splits import draw_indices
from pixelmodels.data.vectors import VectorFile
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage, why


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shard that a record describes; picklable, and called on the workers."""

    source: Source  # where pixels come from
    storage: Storage  # where shards go
    folder: str  # of the data set, below the storage root
    source_levels: int  # values of the source's pixels
    channels: int  # 1 or 3
    size: tuple[int, int]  # (height, width)
    levels: int  # values of the images that a model sees
    binarize: str  # none, threshold or dynamic; a threshold is what quantization to two levels is
    seed: int  # of the fixed draws of dynamic binarization
    vectors: VectorFile | None = None  # where the images' vectors are
    vector_size: int = 0  # their length; 0: none

    def __call__(self, task: Record) -> Record:
        """Write one shard (none if no image is readable) and tell its file, number of images, bytes, sha256 and the bad keys."""
        images, kept, bad = [], [], []
        loaded = self.source.load(task["keys"], self.channels, self.size)
        for place, (key, pixels) in enumerate(zip(task["keys"], loaded, strict=True)):
            if isinstance(pixels, BadImage):
                bad.append((key, str(pixels)))
            else:
                images.append(self._shape(pixels))
                kept.append(place)
        keys, labels = ([task[name][place] for place in kept] for name in ("keys", "labels"))
        result = {"split": task["split"], "file": task["file"], "num_images": len(keys), "num_unlabelled": labels.count(None), "bad": bad}
        if not keys:
            return result
        images_NHWC, levels = np.stack(images), self.levels
        if self.binarize == "dynamic" and task["split"] == "train":
            levels = 256  # drawn anew each epoch, by whoever trains
        elif self.binarize == "dynamic":
            indices_N = draw_indices(keys)
            for start in range(0, len(keys), IMAGES_PER_DRAW):
                part = slice(start, start + IMAGES_PER_DRAW)
                images_NHWC[part] = binarize_dynamic(images_NHWC[part], seed=self.seed, epoch=FIXED_EPOCH, indices_N=indices_N[part])
        vectors_NV = None if self.vectors is None else self.vectors.read([task["vector_rows"][place] for place in kept], self.vector_size)
        data = encode_shard(images_NHWC, labels, keys, levels, vectors_NV)
        write(self.storage, f"{self.folder}/{task['file']}", data)
        return result | {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _shape(self, pixels_HWC: UInt8) -> UInt8:
        """Channels, size and levels as asked for (grey 0..255 for dynamic binarization); pixels that need no change have none."""
        wanted = 256 if self.binarize == "dynamic" else self.levels
        if pixels_HWC.shape == (*self.size, self.channels) and self.source_levels == wanted:
            return pixels_HWC
        grey_HWC = dequantize(pixels_HWC, self.source_levels)
        return quantize(fit(convert_channels(grey_HWC, self.channels), self.size), wanted)


def write(storage: Storage, path: str, data: bytes) -> None:
    """Write a file of a data set that is not finished; raises `UserError` where there is no room, or no right to."""
    try:
        storage.write_bytes(path, data)
    except (OSError, pa.ArrowException) as error:
        no_file = f"'{storage.uri(path)}' ({len(data):,} bytes) cannot be written ({why(error)})"
        raise UserError(
            f"{no_file}; make room for it, or mend that, and give the same command again; finished data sets are as they were"
        ) from error
