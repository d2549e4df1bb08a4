"""Many images laid out as one picture that a person can look at."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelmodels.errors import UserError

GAP = 1  # pixels of an image (before it is enlarged) between neighbours and around the edge
BACKGROUND = 96  # grey of the gaps: neither of the two ends, so that black and white images keep their borders
TARGET_SIDE = 512  # pixels; small pictures are enlarged until their longer side is near this
MAX_SCALE = 16  # an 8x8 image alone is not blown up beyond 128x128


def grid(images_NCHW: npt.NDArray[np.uint8], levels: int, *, columns: int | None = None, scale: int | None = None) -> npt.NDArray[np.uint8]:
    """Lay images out row by row in one RGB picture, a thin gap between them.

    Args:
        images_NCHW: integers in `[0, levels)`; 1 channel (grey), 3 (RGB); of any other number each channel is a grey image of its own.
        levels: values that one sub-pixel can take; they are spread evenly over 0..255.
        columns: images a row; `None` makes the picture as square as it can be.
        scale: whole number by which each pixel is enlarged; `None` chooses one for the screen.

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
    if scale is None:
        scale = min(MAX_SCALE, max(1, TARGET_SIDE // max(picture_HWC.shape[:2])))
    return picture_HWC.repeat(scale, axis=0).repeat(scale, axis=1)


def to_bytes(images: npt.NDArray[np.uint8], levels: int) -> npt.NDArray[np.uint8]:
    """Spread integers in `[0, levels)` evenly over 0..255, any shape; 256 levels stay as they are."""
    table_L = np.round(np.arange(levels) * (255.0 / (levels - 1))).astype(np.uint8)
    return table_L[images]


def png_bytes(picture_HWC: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) or (H, W, 1), uint8, as the bytes of a PNG file."""
    picture = picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def write_png(path: Path, picture_HWC: npt.NDArray[np.uint8]) -> None:
    """Write a picture to a local PNG file."""
    path.write_bytes(png_bytes(picture_HWC))
