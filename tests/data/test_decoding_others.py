"""Headers and pixels as another library reads the same files plainly: every mode, depth, transparency and orientation."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo

from pixelmodels.data.decoding import FORMATS, BadImage, decode, read_header, was_left_unturned, was_read_otherwise

LIMIT = 10_000
HEIGHT, WIDTH = 5, 7
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
TURNS = (
    lambda a: a,
    np.fliplr,
    lambda a: a[::-1, ::-1],
    np.flipud,
    lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1),
    lambda a: a[::-1, ::-1].swapaxes(0, 1),
    np.rot90,
)
# How Pillow writes each mode without loss, by format.
WRITES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"),
    "WEBP": ("RGB", "RGBA", "L"),
    "BMP": ("L", "RGB"),
    "PPM": ("1", "L", "RGB"),
    "GIF": ("L", "P"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
}
OPTIONS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "JPEG2000": {"irreversible": False}}


def picture(mode: str, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16))
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 11, (HEIGHT, WIDTH), dtype=np.uint8), "P")
        image.putpalette(rng.integers(0, 256, 33, dtype=np.uint8).tobytes())
        return image
    if mode == "1":
        return Image.fromarray(rng.random((HEIGHT, WIDTH)) < 0.5)
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, bands), dtype=np.uint8)
    if mode in ("LA", "RGBA"):
        pixels[..., -1] = rng.choice([0, 255, 77], (HEIGHT, WIDTH))
    return Image.frombytes(mode, (WIDTH, HEIGHT), pixels.tobytes())


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **OPTIONS.get(format, {}), **options)
    return stream.getvalue()


def plain(data: bytes, format: str) -> npt.NDArray[np.uint8]:
    """The file as imagecodecs reads it, laid over white, H,W,3 or H,W,1; orientations are not applied."""
    decoders = {"PNG": imagecodecs.png_decode, "TIFF": imagecodecs.tiff_decode, "WEBP": imagecodecs.webp_decode}
    decoders |= {"BMP": imagecodecs.bmp_decode, "GIF": imagecodecs.gif_decode, "JPEG2000": imagecodecs.jpeg2k_decode}
    decoders |= {"JPEG": imagecodecs.jpeg8_decode}
    return over_white(decoders[format](data))


def over_white(stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """8 bits as is documented: of 16-bit colours and of 16-bit grey with alpha the high byte, of other 16-bit grey the rounded share."""
    wide = stored.dtype == np.uint16
    stored_HWC = (stored.reshape(*stored.shape, 1) if stored.ndim == 2 else stored).astype(np.int64)
    channels = stored_HWC.shape[2]
    if channels in (2, 4):
        colour, alpha = stored_HWC[..., :-1], stored_HWC[..., -1:]
        if wide:
            colour, alpha = colour >> 8, alpha >> 8
        return np.round((colour * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)
    if wide:
        stored_HWC = (stored_HWC * 255 + 32767) // 65535 if channels == 1 else stored_HWC >> 8
    return stored_HWC.astype(np.uint8)


def first_reading(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels that the first version (commit 47ad97b) found, H,W,3; None where it took the file for no image."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                return np.repeat(((np.asarray(image).astype(int) * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, 2)
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None


def check(data: bytes, expected: npt.NDArray[np.uint8], tolerance: int = 0) -> None:
    """Both agree, the header tells the same shape, and it is known where the first version saw something else."""
    assert read_header(data, LIMIT)[:2] == expected.shape[:2]
    found = decode(data, 3, None, LIMIT).astype(int)
    assert found.shape == (*expected.shape[:2], 3)
    assert np.abs(found - expected).max() <= tolerance
    first = first_reading(data)
    differs = first is None or not np.array_equal(first, found)
    has_colour = data[24:25] != b"\x08" and data[25:26] in (b"\0", b"\x02") and b"tRNS" in data  # that is transparent, not in 8 bits
    assert was_read_otherwise(data, LIMIT) == (differs or has_colour)


@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format, modes in WRITES.items() for mode in modes if format != "PPM"])
def test_every_mode_that_is_written_is_read_as_others_read_it(format: str, mode: str) -> None:
    data = encoded(picture(mode), format)
    if format == "TIFF" and mode in ("P", "1", "LA", "CMYK"):  # what imagecodecs leaves as it is stored
        expected = np.asarray(
            over_white(np.asarray(picture(mode).convert("RGB" if mode in ("P", "CMYK") else "L" if mode == "1" else mode)))
        )
    else:
        expected = plain(data, format)
    check(data, expected, tolerance=1 if mode in ("LA", "RGBA") else 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if format == "TIFF" else {"exif": exif}
    for mode in ("L", "RGB", "I;16") if format in ("PNG", "TIFF") else ("L", "RGB"):
        data = encoded(picture(mode), format, **options, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {}))
        check(data, TURNS[orientation - 1](plain(data, format)), tolerance=2 if format == "JPEG" else 0)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits") if format == "TIFF" else ():
        data = encoded(picture("RGB"), format, compression=compression, **options)
        check(data, TURNS[orientation - 1](np.asarray(picture("RGB"))))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_there_are_not_change_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("PNG", "TIFF", "WEBP"):
        data = encoded(picture("RGB"), format, **({"tiffinfo": {0x0112: orientation}} if format == "TIFF" else {"exif": exif}))
        check(data, np.asarray(picture("RGB")))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_orientation_of_xmp_is_applied(format: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options: dict[str, Any] = {"pnginfo": info} if format == "PNG" else {"tiffinfo": {700: xmp}} if format == "TIFF" else {"xmp": xmp}
    data = encoded(picture("RGB"), format, **options)
    check(data, TURNS[5](plain(data, format)), tolerance=2 if format == "JPEG" else 0)


# --- PNG files of every colour type and depth, with and without a transparent colour ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(values_HWC: npt.NDArray[np.int64], depth: int) -> bytes:
    """Rows of samples as PNG stores them: most significant bit first, filled up to bytes, a filter byte 0 in front."""
    bits = (values_HWC.reshape(len(values_HWC), -1)[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(len(values_HWC), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def png(values_HWC: npt.NDArray[np.int64], depth: int, colour: int, *before: bytes, after: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", values_HWC.shape[1], values_HWC.shape[0], depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(packed(values_HWC, depth)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before) + pixels + after + chunk(b"IEND", b"")


KINDS = [*product((GREY,), (1, 2, 4, 8, 16)), *product((RGB, GREY_ALPHA, RGB_ALPHA), (8, 16)), *product((PALETTE,), (1, 2, 4, 8))]


@pytest.mark.parametrize(("colour", "depth"), KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_depth_and_transparency_of_png(colour: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}[colour]
    # Few values, so that the transparent one is there, and others that differ from it in the low byte only.
    choices = np.unique(rng.integers(0, 2**depth, 3))
    choices = np.unique([*choices, choices[0] ^ 1])
    values = rng.choice(choices, (HEIGHT, WIDTH, samples))
    chunks = [chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes())] if colour == PALETTE else []
    check(png(values, depth, colour, *chunks), plain(png(values, depth, colour, *chunks), "PNG"), tolerance=1)
    if colour in (GREY, RGB):
        chunks = [chunk(b"tRNS", struct.pack(f">{samples}H", *map(int, values[2, 3])))]
    elif colour == PALETTE:
        chunks += [chunk(b"tRNS", rng.choice([0, 255, 100], 2**depth).astype(np.uint8).tobytes())]
    else:
        return
    data = png(values, depth, colour, *chunks)
    expected = plain(data, "PNG")
    if (colour, depth) == (GREY, 16):
        expected = np.where(values == values[2, 3], 255, over_white(values.astype(np.uint16))).astype(np.uint8)
    check(data, expected, tolerance=1 if colour == PALETTE else 0)
    if colour != PALETTE:
        assert (decode(data, 1, None, LIMIT)[2, 3] == 255).all()
    for orientation in (3, 6):
        exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0\0\0\0\0")
        for turned in (png(values, depth, colour, exif, *chunks), png(values, depth, colour, *chunks, after=exif)):
            check(turned, TURNS[orientation - 1](expected), tolerance=1)


# --- metadata that are odd ---

ODD_CHUNKS = {
    "a long packed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)),
    "a long packed international text": chunk(b"iTXt", b"workflow\0\x01\0\0\0" + zlib.compress(b"x" * 3_000_000)),
    "a long text": chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000),
    "a long profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 3_000_000)),
    "a profile that is none": chunk(b"iCCP", b"profile\0\x07nothing"),
    "a text whose checksum is wrong": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "a packed text that is none": chunk(b"zTXt", b"a\0\0nothing"),
    "EXIF that is none": chunk(b"eXIf", b"no tiff in here"),
    "EXIF that is cut off": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x05\x01\x12"),
    "no EXIF at all": chunk(b"eXIf", b""),
    "an old profile that is none": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzz"),
    "a long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(b"x" * 3_000_000)),
    "a chunk that nobody knows": chunk(b"abCd", b"1234"),
    "a time that is none": chunk(b"tIME", b"1"),
    "a size that is none": chunk(b"pHYs", b"1"),
}


@pytest.mark.parametrize("what", ODD_CHUNKS)
def test_what_is_odd_beside_the_pixels_of_a_png_changes_nothing(what: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    for data in (png(values, 8, RGB, ODD_CHUNKS[what]), png(values, 8, RGB, after=ODD_CHUNKS[what])):
        check(data, values.astype(np.uint8))


EXIF_SIX = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # turned, as orientation 6 says
XMP_SIX = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
BROKEN_TEXTS = ("a long XMP", "an old profile that is none", "a packed old profile that is none", "an XMP whose checksum is wrong")


@pytest.mark.parametrize("what", BROKEN_TEXTS)
@pytest.mark.parametrize("whole", [chunk(b"eXIf", EXIF_SIX), chunk(b"iTXt", XMP_SIX)])
@pytest.mark.parametrize("comes_first", [True, False])
def test_a_broken_text_hides_no_orientation(what: str, whole: bytes, comes_first: bool) -> None:
    broken = ODD_CHUNKS | {
        "a packed old profile that is none": chunk(b"zTXt", b"Raw profile type exif\0\0nothing"),
        "an XMP whose checksum is wrong": chunk(b"iTXt", XMP_SIX)[:-1] + b"?",
    }
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    chunks = [broken[what], whole] if comes_first else [whole, broken[what]]
    data = png(values, 8, RGB, *chunks)
    expected = TURNS[5](values.astype(np.uint8))
    assert read_header(data, LIMIT) == expected.shape
    np.testing.assert_array_equal(decode(data, 3, None, LIMIT), expected)
    assert was_read_otherwise(data, LIMIT) == (first_reading(data) is None)
    for alone in (png(values, 8, RGB, broken[what]), png(values, 8, RGB, whole)):
        assert not was_left_unturned(alone, LIMIT)


@pytest.mark.parametrize("what", BROKEN_TEXTS[:1])
def test_it_is_known_which_files_were_left_unturned(what: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    assert was_left_unturned(png(values, 8, RGB, ODD_CHUNKS[what], chunk(b"eXIf", EXIF_SIX)), LIMIT)
    upright = chunk(b"eXIf", EXIF_SIX.replace(b"\x06", b"\x01"))
    assert not was_left_unturned(png(values, 8, RGB, ODD_CHUNKS[what], upright), LIMIT)
    assert not was_left_unturned(png(values, 8, RGB, chunk(b"eXIf", EXIF_SIX), chunk(b"iTXt", XMP_SIX)), LIMIT)
    assert not was_left_unturned(b"no image", LIMIT)


@pytest.mark.parametrize("tag", [0x011A, 0x0128, 0x0131])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_metadata_that_cannot_be_written_anew_change_nothing(tag: int, orientation: int, format: str) -> None:
    """A number of dots an inch as a text, say: the first version wrote all of them again for an image that it turned."""
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack(">HHI4s", tag, 2, 4, b"72\0\0")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + entries + bytes(4)
    data = encoded(picture("RGB"), format, exif=exif)
    check(data, TURNS[orientation - 1](plain(data, format)), tolerance=2 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("dpi", [{}, {"dpi": (72, 72)}])
@pytest.mark.parametrize(
    "exif", [b"no tiff in here", b"", b"MM\0*", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(range(99))]
)
def test_exif_that_is_none_has_no_orientation(format: str, dpi: dict[str, Any], exif: bytes) -> None:
    image = picture("RGB")
    data = encoded(image, format, exif=b"Exif\0\0" + exif, **({} if format == "WEBP" else dpi))
    check(data, plain(data, format), tolerance=2 if format == "JPEG" else 0)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("TIFF", {"description": "x" * 3_000_000}),
        ("TIFF", {"icc_profile": b"x" * 3_000_000}),
        ("TIFF", {"tiffinfo": {34665: 99_999_999}}),  # where EXIF would be, behind the end of the file
        ("JPEG", {"icc_profile": b"x" * 3_000_000}),
        ("JPEG", {"comment": b"x" * 60_000}),
        ("WEBP", {"icc_profile": b"x" * 3_000_000}),
    ],
)
def test_what_is_odd_beside_the_pixels_of_other_files_changes_nothing(format: str, options: dict[str, Any]) -> None:
    data = encoded(picture("RGB"), format, **options)
    check(data, plain(data, format), tolerance=2 if format == "JPEG" else 0)


@pytest.mark.parametrize("is_late", [False, True])
def test_only_a_png_with_something_behind_its_pixels_is_decoded_to_know_how_it_was_read(
    is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    text, exif = chunk(b"tEXt", b"a\0b"), chunk(b"eXIf", EXIF_SIX)
    data = png(values, 8, RGB, exif, after=text) if is_late else png(values, 8, RGB, text, exif)
    loaded, load = [], PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda image: (loaded.append(1), load(image))[1])
    assert not was_read_otherwise(data, LIMIT) and bool(loaded) == is_late


def test_a_png_that_is_cut_off_or_has_no_pixels_is_none() -> None:
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    whole = png(values, 8, RGB, chunk(b"tEXt", b"a\0b"))
    for length in range(0, len(whole) - 40, 7):
        with pytest.raises(BadImage):
            decode(whole[:length], 3, None, LIMIT)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_files_of_another_writer_of_tiff(compression: str | None, byteorder: str) -> None:
    rng = np.random.default_rng(0)
    for pixels in (rng.integers(0, 256, (5, 7, 3), np.uint8), rng.integers(0, 256, (5, 7), np.uint8)):
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, compression=compression, byteorder=byteorder)
        data = stream.getvalue()
        assert read_header(data, LIMIT) == (5, 7, 3 if pixels.ndim == 3 else 1)
        assert np.array_equal(decode(data, 3 if pixels.ndim == 3 else 1, None, LIMIT), pixels.reshape(5, 7, -1))
    deep = rng.integers(0, 65536, (5, 7), np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, deep, compression=compression, byteorder=byteorder)
    expected = np.round(deep.astype(np.float64) * 255 / 65535)
    assert np.abs(decode(stream.getvalue(), 1, None, LIMIT)[..., 0] - expected).max() <= 1
