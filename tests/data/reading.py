"""All images of a source of records, as a preparation on a cluster reads them."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelmodels.data import DatasetConfig
from pixelmodels.data.decoding import BadImage, decode, read_header
from pixelmodels.data.sources import open_source


@dataclass(frozen=True)
class Found:
    """An image that a source gives."""

    key: str
    split: str | None
    label: str | None  # the name of its class
    pixels_HWC: npt.NDArray[np.uint8] | None
    reason: str  # why there are no pixels


def picture(number: int, channels: int = 3, side: int = 4) -> npt.NDArray[np.uint8]:
    """Pixels that tell images apart."""
    return np.random.default_rng(number).integers(0, 256, (side, side, channels)).astype(np.uint8)


def png(number: int, **options: int) -> bytes:
    """The same as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture(number, **options).squeeze()).save(stream, "PNG")
    return stream.getvalue()


def read_all(source: str, path: Path | str, **options: Any) -> tuple[list[Found], tuple[str, ...]]:
    """Every image in order, and the names of the classes."""
    driver = open_source(DatasetConfig(source=source, path=str(path), **options))
    worker = pickle.loads(pickle.dumps(driver))
    units = driver.units(driver.listing())  # type: ignore[attr-defined]
    images = [image for unit in json.loads(json.dumps(units)) for image in worker.read(unit)]
    examples: dict[str, str] = {}
    for image in images:
        if not isinstance(image.data, BadImage):
            examples.setdefault(image.group, image.key)
    arranged = pickle.loads(pickle.dumps(driver)).arrange(dict(sorted(examples.items())))
    found = []
    for image in images:
        label = arranged.labels.get(image.group)
        pixels_HWC, reason = None, ""
        try:
            if isinstance(image.data, BadImage):
                raise image.data
            pixels_HWC = decode(image.data, read_header(image.data, 10**6)[2], None, 10**6)
        except BadImage as error:
            reason = str(error)
        name = None if label is None else arranged.label_names[label]
        found.append(Found(image.key, arranged.splits.get(image.group), name, pixels_HWC, reason))
    assert len({one.key for one in found}) == len(found)
    return found, arranged.label_names


def check_pictures(found: list[Found], numbers: list[int], **options: int) -> None:
    """The pixels are those of these pictures, in this order."""
    assert [one.reason for one in found] == [""] * len(numbers)
    for one, number in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(one.pixels_HWC, picture(number, **options))
