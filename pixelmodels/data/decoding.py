"""From the bytes of an image file to 8-bit pixels: what is accepted, and how each kind of file is read.

- Formats: those of `FORMATS`; anything else, formats that run other programs included, is no image.
- The orientation is applied that EXIF, TIFF or XMP give. Of an animation the first frame is taken.
- Other metadata (texts, profiles, whatever is broken in them) are left alone, and never make an image unreadable that has its pixels.
- Transparent pixels (alpha, a transparent palette entry or colour) are laid over white. A colour that a PNG file calls transparent is
  compared as it is stored, in 1, 2, 4, 8 or 16 bits.
- 16-bit grey is scaled to 8 bits by its high byte's rounding (v * 255 / 65535), 12-bit grey of TIFF files by v * 255 / 4095. Of 16-bit
  colours, and of 16-bit grey with alpha (which counts as RGB), the high byte is taken. 16-bit TIFF files that call 0 white are read as if
  it were black. Floats, and signed or 32-bit integers, are refused: their range is unknown.
- CMYK, YCbCr, LAB, palettes and 1-bit images are converted to RGB or grey. Grey is the luma 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError, first_line

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
Kind = Literal["empty", "no image", "too large", "unknown range", "damaged", "unreadable"]  # of what cannot be used as an image
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_GREY = ("1", "L", "LA", "La", *_SIXTEEN_BIT)
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BITS, _SAMPLE_FORMAT = 258, 339  # tags of TIFF: bits of each sample, and what they are
_TWELVE, _SIGNED = 12, 2  # such bits, and such a format
_TURNED = (5, 6, 7, 8)  # orientations that exchange rows and columns
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FRAMES = (0xC0, 0xC1, 0xC2)  # markers of JPEG files: baseline, extended and progressive frames, coded by Huffman's codes
_JFIF, _TABLES, _CODES, _RESTARTS, _SCAN = 0xE0, 0xDB, 0xC4, 0xDD, 0xDA  # more of them: a segment of JFIF, quantization, ...
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAME_BYTES = 12  # of a PNG chunk beside its data: length, kind, checksum
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # of a PNG file: what says what the pixels are
_BARE_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may hold an orientation
_SIZES, _SIZES_BITS = b"\xff\x4f\xff\x51", 42  # where a JPEG 2000 image begins, and where after that are the bits of a sample, less 1
_DEPTH_AT, _COLOURS_AT = 24, 25  # bytes of a PNG file that tell the bits of a sample, and what samples are
_BYTE, _PALETTE = 8, 3  # such bits, and such samples


class BadImage(Exception):
    """A file that cannot be used as an image, and why; `kind` is one of a few words, by which such files are counted."""

    def __init__(self, reason: str, kind: Kind = "damaged") -> None:
        super().__init__(reason, kind)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


def is_plain(data: bytes) -> bool:
    """Whether an image file holds pixels and nothing else that is known: all versions read it alike. Cheap, and of most files true."""
    if data.startswith(_PNG):
        return {kind for kind, _, _ in _chunks(data)} <= _BARE_CHUNKS
    return _plain_jpeg(data) is not None


def read_header(data: bytes, max_pixels: int) -> tuple[int, int, int]:
    """Height and width of an image, turned as its orientation says, and channels (1 or 3), without decoding it; raises `BadImage`."""
    with _refused(), _open(data, max_pixels) as image:
        # Of a TIFF file whose own tag says so, Pillow exchanges them itself.
        is_turned = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_ORIENTATION) in _TURNED
        height, width = image.size if (_orientation(image) in _TURNED) != is_turned else image.size[::-1]
        return height, width, 1 if image.mode in _GREY else 3


def decode(data: bytes, channels: int, size: tuple[int, int] | None, max_pixels: int) -> UInt8:
    """Pixels 0..255 as H,W,C, resized and cropped to `size` (height, width) if it is given; raises `BadImage`."""
    if (plain := _plain_jpeg(data)) and plain[0] * plain[1] <= max_pixels:
        with suppress(ValueError):  # it is not whole: the way below tells how
            return _decode_plain(data, *plain, channels, size)
    with _refused(), _open(data, max_pixels) as image:
        if size is not None and image.format == "JPEG":
            image.draft(None, _drafted(*image.size, size))
        if _has_no_range(image):
            raise BadImage("signed or 32-bit integer pixels have no known range", "unknown range")
        largest = 2**_TWELVE - 1 if image.format == "TIFF" and _bits(image, data) == _TWELVE else 2**16 - 1
        return fit(_convert(_upright(image, data), channels, largest), size)


def not_kept(data: bytes, max_pixels: int) -> str:
    """What an image file has beyond its 8-bit pixels, in words; empty where `decode`, to as many channels, keeps everything.

    Raises `BadImage`. What is lossy in the format itself, such as in JPEG, was lost before.
    """
    with _refused(), _open(data, max_pixels) as image:
        if image.mode in _SIXTEEN_BIT or _bits(image, data) > _BYTE:
            return f"more than {_BYTE} bits a sample"
        if getattr(image, "n_frames", 1) > 1 or (data.startswith(_PNG) and any(kind == b"acTL" for kind, _, _ in _chunks(data))):
            return "several frames"
        if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
            return f"pixels of kind {image.mode}"
        upright = _upright(image, data)
        if _may_be_transparent(upright) and np.asarray(upright.convert("RGBA").getchannel("A")).min() < 255:
            return "transparent pixels"
    return ""


def _drafted(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that a JPEG file's decoder may come down to, by 2, 4 or 8: no less than twice what is needed."""
    factor = max(max(size) / min(width, height), 1e-9)
    return math.ceil(2 * factor * width), math.ceil(2 * factor * height)


def _plain_jpeg(data: bytes) -> tuple[int, int, int] | None:
    """Width, height and components (1 or 3) of a JPEG file whose head is as the standards say, with nothing in it but a JFIF segment.

    ITU T.81, annex B, and T.871. None for all others: those with metadata too, which Pillow reads with care.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    start, found = 2, None
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker, stop = data[start + 1], start + 2 + (data[start + 2] << 8 | data[start + 3])
        first, length = start + 4, stop - start - 4  # of the segment's content
        if stop > len(data):
            return None
        if marker in _FRAMES and found is None and length >= 6:
            num = data[first + 5]
            found = (data[first + 3] << 8 | data[first + 4], data[first + 1] << 8 | data[first + 2], num)
            if data[first] != _BYTE or num not in (1, 3) or length != 6 + 3 * num or not found[0] or not found[1]:
                return None
        elif marker == _TABLES:
            if length % 65 or any(data[at] >= 16 for at in range(first, stop, 65)):  # of 8 bits: a byte, and 64 of the table
                return None
        elif marker == _SCAN:
            return found
        elif not (marker in (_CODES, _RESTARTS) or (marker == _JFIF and length == 14 and data.startswith(b"JFIF\0", first))):
            return None
        start = stop
    return None


def _decode_plain(data: bytes, width: int, height: int, components: int, channels: int, size: tuple[int, int] | None) -> UInt8:
    """As `decode`, by Pillow's decoder without what it does around it; `ValueError` for a file that is not whole."""
    scale = 1
    if size is not None:
        least_width, least_height = _drafted(width, height, size)
        most = min(width // least_width, height // least_height)
        scale = next((scale for scale in (8, 4, 2) if most >= scale), 1)
    mode, wanted = ("L" if number == 1 else "RGB" for number in (components, channels))
    image = Image.new(mode, (-(-width // scale), -(-height // scale)), None)
    image.frombytes(data, "jpeg", (mode, "", scale, 0))
    return _fitted(image if mode == wanted else image.convert(wanted), channels, size)


def decode_mask(data: bytes, max_pixels: int) -> npt.NDArray[np.bool_]:
    """Which pixels an image file marks as known, H,W: those that are not black. All of them are of one colour, and none is transparent.

    A mask says one thing of a pixel: of shades, and of transparent pixels, nobody can tell which ones are meant. Raises `BadImage` for a
    file that is no image, and `UserError` for one that has any.
    """
    give = "give a mask that is black where pixels are drawn and white where they are known, and nothing else"
    with _refused(), _open(data, max_pixels) as image:
        is_cut = _bits(image, data) > 8 and image.mode not in _SIXTEEN_BIT  # to the high byte
        upright = _upright(image, data)
        is_opaque = not _may_be_transparent(upright) or upright.convert("RGBA").getchannel("A").getextrema()[0] == 255
        if is_opaque and image.mode in _SIXTEEN_BIT:  # all bits, where a colour that no pixel has is called transparent, too
            with _opened(data) as again:
                again.info.pop("transparency", None)
                upright = _upright(again, data)
        pixels = np.asarray(upright if upright.mode in ("L", *_SIXTEEN_BIT) else upright.convert("RGB"))
    if not is_opaque:
        raise UserError(f"a mask with transparent pixels; {give}")
    if is_cut:
        raise UserError(f"a mask of more than 8 bits and several channels; {give}")
    pixels_HWC = pixels.reshape(*pixels.shape[:2], -1)
    known_HW: npt.NDArray[np.bool_] = (pixels_HWC != 0).any(axis=2)
    shades = pixels_HWC[known_HW]
    if len(shades) and (shades != shades[0]).any():
        found = [str(value) for value in np.unique(shades)]
        raise UserError(f"a mask of several shades ({', '.join(found[:4])}{', ...' if len(found) > 4 else ''}); {give}")
    return known_HW


def bare_png(data: bytes, others: Iterable[bytes] = ()) -> bytes:
    """A PNG file without what is no pixels: texts and profiles would be unpacked, however long they are, and broken ones hide the image.

    Args: `others` are chunks to keep; they come before the pixels.
    """
    pixels = [data[start:end] for kind, start, end in _chunks(data) if kind in _PIXEL_CHUNKS]
    return b"".join([_PNG, *pixels[:1], *others, *pixels[1:]])


def was_read_otherwise(data: bytes, max_pixels: int) -> bool:
    """Whether the first version (commit 47ad97b) found other pixels in an image file than are read now, or none, or some where none are."""
    late: set[bytes] = set()
    if data.startswith(_PNG):
        kinds = png_chunks(data)
        if b"tRNS" in kinds and data[_DEPTH_AT] != _BYTE and data[_COLOURS_AT] != _PALETTE:
            return True  # its transparent colour was compared with pixels that were scaled
        if not set(kinds) - set(_PIXEL_CHUNKS):
            return False
        late = set(kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []) - set(_PIXEL_CHUNKS)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if late:
                image.load()  # texts that follow the pixels, too
            is_turned = Image.Image.getexif(image).get(_ORIENTATION) in _UPRIGHT
            if image.format == "TIFF":
                if _has_no_range(image):
                    stored = np.asarray(image)
                    return bool(stored.min() >= 0 and stored.max() < 2**16)  # others were refused, as all are now
                return _bits(image, data) == _TWELVE
            if is_turned:  # all metadata were written anew then
                beside = Image.new("L", (1, 1))
                beside.info = image.info
                ImageOps.exif_transpose(beside)
    except MemoryError:
        raise
    except Exception:  # it could not be read: by its metadata, or neither can it now
        try:
            return decode(data, 1, None, max_pixels).size > 0
        except BadImage:
            return False
    return False


def was_left_unturned(data: bytes, max_pixels: int) -> bool:
    """Whether the second version (commit ef95696) lost the orientation of a PNG file, which another chunk hid that is broken."""
    chunks = _orientation_chunks(data) if data.startswith(_PNG) else []
    with suppress(BadImage), _refused():
        if len(chunks) > 1 and not _has_whole_metadata(bare_png(data, chunks)):
            with _open(data, max_pixels) as image:
                return _orientation(image) != 1
    return False


def was_put_aside_as_grey(data: bytes, max_pixels: int) -> bool:
    """Whether the second version could read an image file in colour only: a TIFF file of mode LAB."""
    with suppress(BadImage):
        if data.startswith((b"II", b"MM")):
            with _open(data, max_pixels) as image:
                return image.mode == "LAB"
    return False


def png_chunks(data: bytes) -> list[bytes]:
    """The kinds of a PNG file's chunks, in their order, to the last."""
    return [kind for kind, _, _ in _chunks(data)]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind and place of each chunk of a PNG file, to the last."""
    kind, start = b"", len(_PNG)
    while kind != b"IEND" and start + _FRAME_BYTES <= len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        kind, end = data[start + 4 : start + 8], start + _FRAME_BYTES + length
        yield kind, start, end
        start = end


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
    top, left, box = _part(height, width, size)
    pixels_HWC = pixels_HWC[top : height - top, left : width - left]
    return _resized(Image.fromarray(pixels_HWC[..., 0] if channels == 1 else pixels_HWC), channels, size, box)


def _fitted(image: Image.Image, channels: int, size: tuple[int, int] | None) -> UInt8:
    """As `fit`, of an image of 8-bit grey or RGB."""
    width, height = image.size
    if size is None or (height, width) == size or max(size[0] / height, size[1] / width) == 1:
        return fit(np.asarray(image).reshape(height, width, channels), size)
    top, left, box = _part(height, width, size)
    if top or left:
        image = image.crop((left, top, width - left, height - top))
    return _resized(image, channels, size, box)


def _part(height: int, width: int, size: tuple[int, int]) -> tuple[int, int, tuple[float, float, float, float]]:
    """Rows and columns at each side that have no weight in what an image is resized to, and the part of the others that is resized."""
    scale = max(size[0] / height, size[1] / width)
    top, left = max(0.0, (height - size[0] / scale) / 2), max(0.0, (width - size[1] / scale) / 2)
    reach = 2 + math.ceil(2 / scale)  # no pixel further from the part than this has a weight in it
    rows, columns = max(0, int(top) - reach), max(0, int(left) - reach)
    right, bottom = width - 2 * columns - (left - columns), height - 2 * rows - (top - rows)
    return rows, columns, (left - columns, top - rows, right, bottom)


def _resized(image: Image.Image, channels: int, size: tuple[int, int], box: tuple[float, float, float, float]) -> UInt8:
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)).reshape(*size, channels)


def convert_channels(pixels_HWC: UInt8, channels: int) -> UInt8:
    """Grey to RGB by repetition, RGB to grey by luma; values 0..255."""
    if pixels_HWC.shape[2] == channels:
        return pixels_HWC
    if channels == 3:
        return np.repeat(pixels_HWC, 3, axis=2)
    return np.asarray(Image.fromarray(pixels_HWC).convert("L"))[..., None]


@contextmanager
def _refused(reason: str | None = None, kind: Kind = "damaged") -> Iterator[None]:
    """What decoders raise is a `BadImage`; nobody is warned of images near Pillow's own limit, which ours replaces, or of odd metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (BadImage, MemoryError):
            raise  # told already; the machine's, not the image's
        except Exception as error:  # decoders meet damaged data with errors of every kind
            raise BadImage(reason or first_line(error), kind) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise BadImage("an empty file", "empty")
    with _refused("not an image file, or of a format that is not read", "no image"):
        try:
            image = _opened(data)
        except Image.DecompressionBombError as error:
            raise BadImage(f"more than {max_pixels} pixels", "too large") from error
    width, height = image.size
    if width * height > max_pixels:
        bad = BadImage(f"{width} x {height} is more than {max_pixels} pixels", "too large")
    elif width < 1 or height < 1:
        bad = BadImage("an image without pixels", "empty")
    elif image.mode == "F":
        bad = BadImage("32-bit float pixels have no known range", "unknown range")
    else:
        return image
    image.close()
    raise bad


def _opened(data: bytes) -> ImageFile.ImageFile:
    if data.startswith(_PNG):
        chunks = _orientation_chunks(data)
        if chunks and not _has_whole_metadata(bare_png(data, chunks)):
            chunks = [chunk for chunk in chunks if _has_whole_metadata(bare_png(data, [chunk]))]
        data = bare_png(data, chunks)
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _orientation_chunks(data: bytes) -> list[bytes]:
    """The chunks of a PNG file that may hold an orientation."""
    return [
        data[start:end]
        for kind, start, end in _chunks(data)
        if kind == b"eXIf" or (kind in _TEXT_CHUNKS and data.startswith(_ORIENTATION_TEXTS, start + 8))
    ]


def _has_whole_metadata(data: bytes) -> bool:
    """Whether an image file can be opened, and asked for its orientation."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            Image.Image.getexif(image)
    except MemoryError:
        raise
    except Exception:  # whatever somebody wrote there
        return False
    return True


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a sample as they are stored, of formats that may have more than 8; `image` is opened, and not loaded yet."""
    if image.format == "PNG":
        return data[_DEPTH_AT]
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(_BITS, (1,)))
    if image.format == "PPM" and isinstance(args := getattr(image, "tile", [])[0].args, tuple):
        return int(args[1]).bit_length()  # of the largest value
    if image.format == "JPEG2000":
        return (data[data.find(_SIZES) + _SIZES_BITS] & 0x7F) + 1
    return _BYTE


def _has_no_range(image: Image.Image) -> bool:
    """Whether a TIFF file holds integers that may be below 0, or of 32 bits: nobody can tell which of them is white."""
    return image.format == "TIFF" and (image.mode == "I" or getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED)


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them; 1 where the metadata do not say, or are none."""
    try:
        # Of the base class: that of PNG files would decode the pixels first.
        value = Image.Image.getexif(image).get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # whatever somebody wrote there
        return 1
    return int(value) if value is not None and value in range(1, 9) else 1


def _upright(image: Image.Image, data: bytes) -> Image.Image:
    """An image that is opened, loaded and turned, with any colour that stands for transparency as an alpha channel."""
    is_turned = image.format == "TIFF"  # by Pillow, as it loads
    turn = None if is_turned else _UPRIGHT.get(_orientation(image))
    if image.format == "PNG" and image.mode != "P" and "transparency" in image.info:
        image = _with_alpha(image, data)
    image.load()
    return image if turn is None else image.transpose(turn)


def _with_alpha(image: Image.Image, data: bytes) -> Image.Image:
    """A PNG file's one transparent colour as an alpha channel of 0 and 255; Pillow would compare it with pixels that are scaled."""
    depth, clear = data[_DEPTH_AT], np.asarray(image.info.pop("transparency"))
    stored = np.asarray(image.convert("L") if image.mode == "1" else image)
    if depth == 16 and image.mode == "RGB":  # Pillow keeps the high bytes; read the other way round, it keeps the low ones
        with _opened(data) as again:
            again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
            stored = stored.astype(np.uint16) * np.uint16(256) + np.asarray(again)
    elif depth < 8:
        stored = stored // np.uint8(255 // (2**depth - 1))
    is_clear = stored == clear % 2**depth
    opaque = image.convert("L") if image.mode == "1" else _eight_bits(image)
    alpha = np.where(is_clear.all(-1) if opaque.mode == "RGB" else is_clear, np.uint8(0), np.uint8(255))
    opaque.putalpha(Image.fromarray(alpha))
    return opaque


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _eight_bits(image: Image.Image, largest: int = 2**16 - 1) -> Image.Image:
    """Grey of more than 8 bits, of values to `largest`, as 8-bit grey; other images as they are."""
    if image.mode not in _SIXTEEN_BIT:
        return image
    wide = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((wide * 255 + largest // 2) // largest).astype(np.uint8))


def _convert(image: Image.Image, channels: int, largest: int) -> UInt8:
    """Pixels 0..255 as H,W,C of an image of any mode; `largest`: of grey of more than 8 bits."""
    image = _eight_bits(image, largest)
    if image.mode == "LAB":
        image = image.convert("RGB")  # from which there is a way to grey
    if _may_be_transparent(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer).convert("RGB")
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)
