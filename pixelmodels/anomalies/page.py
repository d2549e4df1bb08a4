"""What was found as one HTML page with its pictures inside: the most anomalous images with their maps of bits, thresholds, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt

from pixelmodels.pages import document, figure, image, section, table, text
from pixelmodels.pictures import png_bytes, to_bytes

SIDE = 112  # pixels on the screen of an image, about
_COLOURS = "magma"  # of maps, from no bits to the most
_MOST = 0.995  # share of the pixels whose bits are below the brightest colour


@dataclass(frozen=True)
class Shown:
    """The most anomalous images of a set, the most anomalous first."""

    name: str
    num_images: int  # of the set
    images_NCHW: npt.NDArray[np.uint8]
    levels: int
    maps_NHW: npt.NDArray[np.float64]  # bits of each pixel
    captions: Sequence[str]


@dataclass(frozen=True)
class Cells:
    """A table."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(
    title: str, facts: Cells, sets: Sequence[Shown], thresholds: Cells, notes: Sequence[str], separations: Cells | None, roc: bytes | None
) -> bytes:
    """The whole page, UTF-8.

    Args: `notes`, sentences under the thresholds; `separations` and `roc` (a PNG file), where there are two sets.
    """
    most = max(float(np.quantile(one.maps_NHW, _MOST)) for one in sets)
    parts = [f"<h1>{text(title)}</h1>", section("What was scored", table(facts.header, facts.rows))]
    parts += [
        section("Thresholds", table(thresholds.header, thresholds.rows, numbers=1), *(f"<p class=soft>{text(note)}</p>" for note in notes))
    ]
    if separations is not None and roc is not None:
        drawn = figure(image(roc, 520, 500, "ROC curves"), "Each point is a threshold.")
        parts.append(section("How well the scores tell the two sets apart", table(separations.header, separations.rows, numbers=1), drawn))
    parts += [section(f"Most anomalous of {one.name}", *_most_anomalous(one, most)) for one in sets]
    return document(title, parts)


def _most_anomalous(one: Shown, most: float) -> list[str]:
    scale = f"0 (black) to {most:.1f} and more (brightest)" if most > 0 else "0"
    note = f"{len(one.captions)} of {one.num_images:,} images, by the recommended score. Beside each the bits of its pixels: {scale}."
    drawn = [
        figure(f"<div class=row>{_picture(image_CHW, one.levels)}{_map(map_HW, most)}</div>", caption)
        for image_CHW, map_HW, caption in zip(one.images_NCHW, one.maps_NHW, one.captions, strict=True)
    ]
    return [f"<p class=soft>{text(note)}</p><div class=row>{''.join(drawn)}</div>"]


def _picture(image_CHW: npt.NDArray[np.uint8], levels: int) -> str:
    """An image as it is; of other than 1 or 3 channels their mean."""
    shown_CHW = to_bytes(image_CHW, levels)
    if len(shown_CHW) not in (1, 3):
        shown_CHW = np.round(shown_CHW.mean(0, keepdims=True)).astype(np.uint8)
    return _enlarged(png_bytes(np.ascontiguousarray(shown_CHW.transpose(1, 2, 0))), image_CHW.shape[1:], "image")


def _map(map_HW: npt.NDArray[np.float64], most: float) -> str:
    shares_HW = np.clip(map_HW / most, 0, 1) if most > 0 else np.zeros_like(map_HW)
    coloured_HWC = matplotlib.colormaps[_COLOURS](shares_HW, bytes=True)[..., :3]
    return _enlarged(png_bytes(np.ascontiguousarray(coloured_HWC)), map_HW.shape, "bits by pixel")


def _enlarged(png: bytes, size: tuple[int, ...], alt: str) -> str:
    height, width = size
    scale = max(1, round(SIDE / max(height, width)))
    return image(png, width * scale, height * scale, alt)
