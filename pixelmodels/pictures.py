"""Pictures for people: many images laid out as one, and drawn figures, as the bytes of PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelmodels.captions import least_cell, place_of, with_captions
from pixelmodels.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 1  # pixels of an image (before it is enlarged) between neighbours and around the edge
BACKGROUND = 96  # grey of the gaps: neither of the two ends, so that black and white images keep their borders
TARGET_SIDE = 512  # pixels; small pictures are enlarged until their longer side is near this
LARGEST_SIDE = 4096  # pixels; small images are enlarged further for names beside them, up to a picture of this side
MAX_SCALE = 16  # an 8x8 image alone is not blown up beyond 128x128


def grid(
    images_NCHW: npt.NDArray[np.uint8],
    levels: int,
    *,
    columns: int | None = None,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """Lay images out row by row in one RGB picture, a thin gap between them.

    Args:
        images_NCHW: integers in `[0, levels)`; 1 channel (grey), 3 (RGB); of any other number each channel is a grey image of its own.
        levels: values that one sub-pixel can take; they are spread evenly over 0..255.
        columns: images a row; `None` makes the picture as square as it can be.
        scale: whole number by which each pixel is enlarged; `None` chooses one for the screen.
        captions: a name for each image, empty where it has none; names are left out where there is no room for them.

    Returns:
        Picture (H, W, 3), uint8. Raises `UserError` when there is no image or the values do not fit `levels`.
    """
    if images_NCHW.ndim != 4 or images_NCHW.shape[0] == 0:
        raise UserError(
            f"a grid of images of shape {images_NCHW.shape} cannot be drawn; give (images, channels, height, width), at least one"
        )
    if int(images_NCHW.max()) >= levels:
        raise UserError(f"pixel value {int(images_NCHW.max())} is outside [0, {levels}); give the levels of these images")
    if images_NCHW.shape[1] not in (1, 3):
        captions = [caption for caption in captions or () for _ in range(images_NCHW.shape[1])]
        images_NCHW = images_NCHW.reshape(-1, 1, *images_NCHW.shape[2:])
    num_images, _, height, width = images_NCHW.shape
    if columns is None:
        columns = max(1, round(math.sqrt(num_images * height / width)))
    columns = min(columns, num_images)
    rows = math.ceil(num_images / columns)
    picture_HWC = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), BACKGROUND, np.uint8)
    for index, image_HWC in enumerate(to_bytes(images_NCHW, levels).transpose(0, 2, 3, 1)):
        top = (index // columns) * (height + GAP) + GAP
        left = (index % columns) * (width + GAP) + GAP
        picture_HWC[top : top + height, left : left + width] = image_HWC  # grey is broadcast over the three channels
    size, step = picture_HWC.shape[:2], (height + GAP, width + GAP)
    least = least_cell(place_of(captions or (), columns))
    if scale is None:
        scale = min(MAX_SCALE, max(1, TARGET_SIDE // max(size)))
        roomy = max(scale, *(math.ceil(needed / has) for needed, has in zip(least, step, strict=True)))
        scale = roomy if roomy * max(size) <= LARGEST_SIDE else scale
    picture_HWC = picture_HWC.repeat(scale, axis=0).repeat(scale, axis=1)
    cell = step[0] * scale, step[1] * scale
    if not captions or not any(captions) or any(has < needed for has, needed in zip(cell, least, strict=True)):
        return picture_HWC
    return with_captions(picture_HWC, captions, columns, cell, BACKGROUND)


def to_bytes(images: npt.NDArray[np.uint8], levels: int) -> npt.NDArray[np.uint8]:
    """Spread integers in `[0, levels)` evenly over 0..255, any shape; 256 levels stay as they are."""
    table_L = np.round(np.arange(levels) * (255.0 / (levels - 1))).astype(np.uint8)
    return table_L[images]


def png_bytes(picture_HWC: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) or (H, W, 1), uint8, as the bytes of a PNG file."""
    picture = picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC
    return encoded(Image.fromarray(picture), format="PNG", optimize=True)


def encoded(image: Image.Image, **options: Any) -> bytes:
    """An image as the bytes of a file; `options`, what Pillow's `save` takes."""
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def write_png(path: Path, picture_HWC: npt.NDArray[np.uint8]) -> None:
    """Write a picture to a local PNG file."""
    path.write_bytes(png_bytes(picture_HWC))


def figure(width: float, height: float, *, dpi: int = 150) -> Figure:
    """An empty figure of so many inches, without pyplot: that would keep global state and look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def figure_png(drawn: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    drawn.savefig(stream, format="png")
    return stream.getvalue()


def plain(words: str) -> str:
    """A name or a title as a figure shows it as it is: what is between two dollars would be set as mathematics, or refused."""
    return words.replace("$", r"\$")


def plain_axes(drawn: Figure, title: str, lines: Literal["x", "y"] | None = None) -> Axes:
    """The axes of a figure of one chart: titled, without the frame's upper and right side, thin lines behind all that is drawn."""
    axes = drawn.add_subplot()
    axes.set_title(plain(title), loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if lines is not None:
        axes.grid(axis=lines, color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return axes


def bars(drawn: Figure, title: str, labels: Sequence[str], values: Sequence[float], xlabel: str, **how: Any) -> Axes:
    """Axes with a horizontal bar for each label, the first one on top; `how`, more of what `Axes.barh` takes."""
    axes = plain_axes(drawn, title, "x")
    axes.barh(range(len(values)), values, height=0.68, **how)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel, fontsize=9)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes
