"""Images in and out of PNG files; sizes are read from the header before anything is decoded, and of the rest the pixels only."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelmodels.data.decoding import BadImage, bare_png, decode, decode_mask, png_chunks
from pixelmodels.data.quantization import dequantize, quantize
from pixelmodels.errors import UserError
from pixelmodels.serving.refusals import Refused, invalid
from pixelmodels.shapes import ImageSpec

UInt8 = npt.NDArray[np.uint8]
# What the values of a PNG are: grey values 0..255, levels of the model, or grey values by somebody who may have meant levels.
Scale = Literal["grey", "levels", "unsure"]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 33  # the signature and the chunk IHDR
_SLACK = 1000  # characters in front of the data of a data: URL, and at the ends
_OTHERS = {  # how files begin that are given in place of PNG files
    b"\xff\xd8\xff": "a JPEG file",
    b"GIF8": "a GIF file",
    b"RIFF": "a WebP file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"BM": "a BMP file",
    b"%PDF": "a PDF file",
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "an archive (npz)",
    b"<": "a page or a drawing (HTML, SVG)",
    b"iVBORw0KGgo": "a PNG file in base64 twice",
}
_NAME = re.compile(r"(?i)(https?|s3|file)://|[^\n]{0,300}\.(png|jpe?g|gif|webp|tiff?|bmp|npy|npz)\s*$")


def image_of(text: str, field: str, spec: ImageSpec, max_bytes: int, scale: Scale = "grey") -> UInt8:
    """Levels (C, H, W) of a PNG in base64; raises `Refused` for one that is too large, of another size or scale, or damaged."""
    return images_of([text], [field], spec, max_bytes, scale)[0]


def images_of(texts: Sequence[str], fields: Sequence[str], spec: ImageSpec, max_bytes: int, scale: Scale = "grey") -> list[UInt8]:
    """The same of several images, whose scale is one."""
    files = [_png(text, field, spec, max_bytes) for text, field in zip(texts, fields, strict=True)]
    if scale == "levels":
        for data, field in zip(files, fields, strict=True):
            _check_has_levels(data, field, spec)
    pixels = [_pixels(data, field, spec) for data, field in zip(files, fields, strict=True)]
    greatest = [int(one.max()) for one in pixels]
    if scale == "levels":
        for most, field in zip(greatest, fields, strict=True):
            if most >= spec.levels:
                raise invalid(f"a level of {most} given; this takes 0..{spec.levels - 1} (or give grey values 0..255, scale 'grey')", field)
    elif scale == "unsure" and 0 < max(greatest) < spec.levels < 256:
        raise invalid(
            f"no value is above {max(greatest)}, so these may be grey values 0..255 or the model's levels 0..{spec.levels - 1}; "
            "say which: scale 'grey' or 'levels'",
            fields[0],
        )
    levels = pixels if scale == "levels" else [quantize(one, spec.levels) for one in pixels]
    return [np.ascontiguousarray(one.transpose(2, 0, 1)) for one in levels]


def mask_of(text: str, field: str, spec: ImageSpec, max_bytes: int) -> npt.NDArray[np.bool_]:
    """Which pixels (H, W) of a PNG in base64 are not black; all those are of one colour, and none is transparent. Raises `Refused`."""
    try:
        return decode_mask(_png(text, field, spec, max_bytes), spec.height * spec.width)
    except UserError as error:
        raise invalid(str(error), field) from None
    except BadImage as error:
        raise invalid(f"a PNG file that cannot be read ({error})", field) from None


def _pixels(data: bytes, field: str, spec: ImageSpec) -> UInt8:
    channels = spec.channels if spec.channels in (1, 3) else 1
    try:
        pixels_HWC = decode(data, channels, None, spec.height * spec.width)
    except BadImage as error:
        raise invalid(f"a PNG file that cannot be read ({error})", field) from None
    if pixels_HWC.shape != (spec.height, spec.width, spec.channels):
        raise invalid(f"pixels of shape {pixels_HWC.shape} given; this takes {(spec.height, spec.width, spec.channels)}", field)
    return pixels_HWC


def _check_has_levels(data: bytes, field: str, spec: ImageSpec) -> None:
    """Raise `Refused` where a file's values are not what decoding gives: they are scaled, of a palette, mixed or laid over white."""
    kind, colour = ("RGB", 2) if spec.channels == 3 else ("grey", 0)
    if (data[24], data[25]) != (8, colour) or b"tRNS" in png_chunks(data):
        raise invalid(f"levels are read from {kind} PNG files of 8 bits without transparency; give one, or grey values and 'grey'", field)


def _png(text: str, field: str, spec: ImageSpec, max_bytes: int) -> bytes:
    """A PNG file of the size, of its chunks those with pixels; raises `Refused`."""
    data = decoded(text, field, max_bytes)
    if len(data) < _HEADER_BYTES or not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        other = next((kind for start, kind in _OTHERS.items() if data.startswith(start)), None)
        other = "an AVIF or HEIF file" if data[4:8] == b"ftyp" else other
        raise invalid(f"{other}; this takes PNG files" if other else "no PNG file", field)
    width, height = struct.unpack(">II", data[16:24])
    if (height, width) != (spec.height, spec.width):
        raise invalid(f"an image of {height} x {width} (rows x columns) given; this takes {spec.height} x {spec.width}", field)
    return bare_png(data)


def decoded(text: str, field: str, max_bytes: int) -> bytes:
    """Base64 as people have it: in lines, as a data: URL, in the alphabet of URLs, without its last =; raises `Refused`."""
    most = -(-max_bytes // 3) * 4  # characters
    too_large = Refused(413, "too_large", f"the image is larger than {max_bytes} bytes", field)
    if len(text) > 2 * most + _SLACK:
        raise too_large
    plain = "".join(text.split())
    if plain[:5].lower() == "data:":
        head, _, plain = plain.partition(",")
        if not head.lower().endswith(";base64"):
            raise invalid("a data: URL that is not in base64", field)
    if len(plain) > most:
        raise too_large
    if plain.startswith(("b'", 'b"')):
        raise invalid("bytes as Python shows them; send the text itself (.decode())", field)
    plain = plain.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        what = "the name of a file; send what is in it, in base64" if _NAME.match(text) else "no base64"
        raise invalid(what, field) from None


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
