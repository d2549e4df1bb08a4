"""Images in and out of PNG files; sizes are read from the header before anything is decoded, and of the rest the pixels only."""

from __future__ import annotations

import base64
import binascii
import io
import struct

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelmodels.data.decoding import BadImage, decode
from pixelmodels.data.quantization import dequantize, quantize
from pixelmodels.serving.refusals import Refused, invalid
from pixelmodels.shapes import ImageSpec

UInt8 = npt.NDArray[np.uint8]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME_BYTES = 12  # of a chunk beside its data: length, kind, checksum
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that say what the pixels are
_HEADER_BYTES = 33  # the signature and the chunk IHDR


def image_of(text: str, field: str, spec: ImageSpec, max_bytes: int) -> UInt8:
    """Levels (C, H, W) of a PNG in base64; raises `Refused` for one that is too large, of another size, or damaged."""
    pixels_HWC = _pixels(text, field, spec, max_bytes)
    return np.ascontiguousarray(quantize(pixels_HWC, spec.levels).transpose(2, 0, 1))


def mask_of(text: str, field: str, spec: ImageSpec, max_bytes: int) -> npt.NDArray[np.bool_]:
    """Which pixels of a PNG in base64 are not black, (H, W)."""
    grey = ImageSpec(1, spec.height, spec.width, 256)
    return _pixels(text, field, grey, max_bytes)[..., 0] > 0


def _pixels(text: str, field: str, spec: ImageSpec, max_bytes: int) -> UInt8:
    if len(text) > -(-max_bytes // 3) * 4:
        raise Refused(413, "too_large", f"the image is larger than {max_bytes} bytes", field)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("no base64", field) from None
    if len(data) < _HEADER_BYTES or not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        raise invalid("no PNG file", field)
    width, height = struct.unpack(">II", data[16:24])
    if (height, width) != (spec.height, spec.width):
        raise invalid(f"an image of {height} x {width} (rows x columns) given; this takes {spec.height} x {spec.width}", field)
    channels = spec.channels if spec.channels in (1, 3) else 1
    try:
        pixels_HWC = decode(_bare(data), channels, None, spec.height * spec.width)
    except BadImage as error:
        raise invalid(f"a PNG file that cannot be read ({error})", field) from None
    if pixels_HWC.shape != (spec.height, spec.width, spec.channels):
        raise invalid(f"pixels of shape {pixels_HWC.shape} given; this takes {(spec.height, spec.width, spec.channels)}", field)
    return pixels_HWC


def _bare(data: bytes) -> bytes:
    """The file without what is no pixels: profiles and texts would be unpacked, however many of them there are."""
    kept, start = [_SIGNATURE], len(_SIGNATURE)
    while start + _FRAME_BYTES <= len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        kind, end = data[start + 4 : start + 8], start + _FRAME_BYTES + length
        if kind in _KEPT:
            kept.append(data[start:end])
        if kind == b"IEND":
            break
        start = end
    return b"".join(kept)


def png_of(image_CHW: UInt8, levels: int) -> bytes:
    """A PNG file of one image of levels, from which `image_of` makes the same levels again; channels other than 3 are stacked, grey."""
    grey_CHW = dequantize(image_CHW, levels)
    picture = grey_CHW.transpose(1, 2, 0) if len(grey_CHW) == 3 else grey_CHW.reshape(-1, grey_CHW.shape[-1])
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def base64_png(image_CHW: UInt8, levels: int) -> str:
    """The same as text."""
    return base64.b64encode(png_of(image_CHW, levels)).decode("ascii")
