"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8x8 with 17 levels and labels 0..9.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), test part. It has no splits of its own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.source import Listing, Source, Survey

LEVELS = 17


class Digits(Source):
    """Source `digits`; its keys are `digit-0000` ... `digit-1796`, in the order of `load_digits`."""

    def __init__(self, config: DatasetConfig) -> None:
        self.with_labels = config.labels is not False

    def survey(self, listing: Listing | None = None) -> Survey:
        images_NHW, labels_N = _load()
        return Survey(
            digest=hashlib.sha256(images_NHW.tobytes() + labels_N.tobytes()).hexdigest(),
            digest_of="pixels and labels of load_digits",
            keys=[f"digit-{i:04d}" for i in range(len(images_NHW))],
            splits=[None] * len(images_NHW),
            labels=[int(label) if self.with_labels else None for label in labels_N],
            label_names=tuple(map(str, range(10))) if self.with_labels else (),
            shape_HWC=(*images_NHW.shape[1:], 1),
            levels=LEVELS,
        )

    def load(self, keys: Sequence[str], channels: int, size: tuple[int, int]) -> Iterator[UInt8]:
        images_NHW, _ = _load()
        for key in keys:
            yield images_NHW[int(key.removeprefix("digit-"))][..., None]


@functools.cache
def _load() -> tuple[UInt8, npt.NDArray[np.int32]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int32)
