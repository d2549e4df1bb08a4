"""From the bytes of an image file to 8-bit pixels: what is accepted, and how each kind of file is read.

- Formats: those of `FORMATS`; anything else, formats that run other programs included, is no image.
- The EXIF orientation is applied. Of an animation the first frame is taken.
- Transparent pixels (alpha, or a transparent palette entry) are laid over white.
- 16-bit grey is scaled to 8 bits by its high byte's rounding (v * 255 / 65535). 32-bit float pixels are refused: their range is unknown.
- CMYK, YCbCr, LAB, palettes and 1-bit images are converted to RGB or grey. Grey is the luma 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

UInt8 = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_GREY = ("1", "L", "LA", "La", *_SIXTEEN_BIT)


class BadImage(Exception):
    """A file that cannot be used as an image, and why."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file tell."""

    height: int  # rows, after the EXIF orientation
    width: int  # columns, after the EXIF orientation
    channels: int  # 1 for the grey modes, else 3


def read_header(stream: IO[bytes], max_pixels: int) -> Header:
    """Size and kind of an image, without decoding it; raises `BadImage`."""
    with _quiet(), _open(stream, max_pixels) as image:
        try:
            # Of the base class: that of PNG files would decode the pixels first, in search of a late EXIF chunk.
            turned = Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8)  # orientations that exchange rows and columns
        except MemoryError:
            raise  # the machine's, not the image's
        except Exception as error:  # decoders meet damaged data with errors of every kind
            raise BadImage(_reason(error)) from error
        width, height = image.size[::-1] if turned else image.size
        return Header(height, width, 1 if image.mode in _GREY else 3)


def decode(data: bytes, channels: int, size: tuple[int, int] | None, max_pixels: int) -> UInt8:
    """Pixels 0..255 as H,W,C, resized and cropped to `size` (height, width) if it is given; raises `BadImage`."""
    with _quiet(), _open(io.BytesIO(data), max_pixels) as image:
        try:
            if size is not None and image.format == "JPEG":
                # Let the decoder shrink large photographs by 2, 4 or 8, to no less than twice what is needed.
                factor = max(max(size) / min(image.size), 1e-9)
                image.draft(None, (math.ceil(2 * factor * image.width), math.ceil(2 * factor * image.height)))
            return fit(_convert(ImageOps.exif_transpose(image), channels), size)
        except MemoryError:
            raise  # the machine's, not the image's
        except Exception as error:  # decoders meet damaged data with errors of every kind
            raise BadImage(_reason(error)) from error


def fit(pixels_HWC: UInt8, size: tuple[int, int] | None) -> UInt8:
    """The largest centred part with the proportions of `size` (height, width), resized to it (antialiased, bicubic).

    Only that part is resized, so memory is that of `size` however long and thin an image is.
    """
    height, width, channels = pixels_HWC.shape
    if size is None or (height, width) == size:
        return pixels_HWC
    scale = max(size[0] / height, size[1] / width)
    if scale == 1:
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        return np.ascontiguousarray(pixels_HWC[top : top + size[0], left : left + size[1]])
    top, left = max(0.0, (height - size[0] / scale) / 2), max(0.0, (width - size[1] / scale) / 2)
    reach = 2 + math.ceil(2 / scale)  # no pixel further from the part than this has a weight in it
    rows, columns = max(0, int(top) - reach), max(0, int(left) - reach)
    pixels_HWC = pixels_HWC[rows : height - rows, columns : width - columns]
    image = Image.fromarray(pixels_HWC[..., 0] if channels == 1 else pixels_HWC)
    box = (left - columns, top - rows, image.width - (left - columns), image.height - (top - rows))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)).reshape(*size, channels)


def convert_channels(pixels_HWC: UInt8, channels: int) -> UInt8:
    """Grey to RGB by repetition, RGB to grey by luma; values 0..255."""
    if pixels_HWC.shape[2] == channels:
        return pixels_HWC
    if channels == 3:
        return np.repeat(pixels_HWC, 3, axis=2)
    return np.asarray(Image.fromarray(pixels_HWC).convert("L"))[..., None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of images near Pillow's own limit, which ours replaces, and of odd metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(stream: IO[bytes], max_pixels: int) -> Image.Image:
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {max_pixels} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damaged data with errors of every kind
        raise BadImage("not an image file, or of a format that is not read") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise BadImage(f"{width} x {height} is more than {max_pixels} pixels")
    if width < 1 or height < 1 or image.mode == "F":
        image.close()
        raise BadImage("32-bit float pixels have no known range" if image.mode == "F" else "an image without pixels")
    return image


def _convert(image: Image.Image, channels: int) -> UInt8:
    """Pixels 0..255 as H,W,C of an image of any mode."""
    if image.mode in _SIXTEEN_BIT:
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("32-bit integer pixels have no known range")
        grey_HWC = ((wide * 255 + 32767) // 65535).astype(np.uint8)[..., None]
        return convert_channels(grey_HWC, channels)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer).convert("RGB")
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__
