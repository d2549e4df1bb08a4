from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixelmodels.data import decoding
from pixelmodels.data.decoding import (
    BadImage,
    convert_channels,
    decode,
    decode_mask,
    fit,
    is_plain,
    read_header,
    was_put_aside_as_grey,
    was_read_otherwise,
)
from pixelmodels.errors import UserError

LIMIT = 10_000


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "TGA"])
def test_lossless_formats_give_exact_pixels(format: str) -> None:
    pixels = noise(7, 5, 3)
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), format, **options), 3, None, LIMIT), pixels)


def test_grey_is_repeated_and_rgb_becomes_luma() -> None:
    grey, colour = noise(4, 6), noise(4, 6, 3)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey)), 1, None, LIMIT), grey[..., None])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey)), 3, None, LIMIT), np.repeat(grey[..., None], 3, axis=2))
    luma = np.round(colour @ np.array([0.299, 0.587, 0.114]))
    for found in (decode(encoded(Image.fromarray(colour)), 1, None, LIMIT), convert_channels(colour, 1)):
        assert np.abs(found[..., 0] - luma).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    pixels = noise(3, 5, 3)
    turn = [lambda a: a, np.fliplr, lambda a: a[::-1, ::-1], np.flipud, lambda a: a.swapaxes(0, 1)]
    turn += [lambda a: np.rot90(a, -1), lambda a: a[::-1, ::-1].swapaxes(0, 1), np.rot90]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    expected = turn[orientation - 1](pixels)
    np.testing.assert_array_equal(decode(data, 3, None, LIMIT), expected)
    assert read_header(data, LIMIT) == expected.shape


def test_transparent_pixels_lie_on_white() -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    expected = np.array([[[10, 20, 30], [255, 255, 255], [204, 204, 204]]], np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 3, None, LIMIT), expected)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    np.testing.assert_array_equal(decode(encoded(palette), 3, None, LIMIT), [[[255, 0, 0], [0, 0, 255]]])
    np.testing.assert_array_equal(decode(encoded(palette, transparency=1), 3, None, LIMIT), [[[255, 0, 0], [255, 255, 255]]])


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    for format in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(wide), format)
        np.testing.assert_array_equal(decode(data, 1, None, LIMIT)[..., 0], [[0, 1, 128, 255]])
        assert decode(data, 3, None, LIMIT).shape == (1, 4, 3)
        assert read_header(data, LIMIT)[2] == 1


def tiff(values: np.ndarray, bits: int, sample_format: int) -> bytes:
    """A TIFF file of grey samples, which Pillow does not write."""
    stored = ((values[..., None] >> np.arange(bits)[::-1]) & 1).reshape(len(values), -1).astype(np.uint8)
    data = values.astype(f"<i{bits // 8}").tobytes() if bits % 8 == 0 else np.packbits(stored, axis=1).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data), 339: sample_format}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def test_twelve_bits_are_scaled_by_their_largest_value() -> None:
    data = tiff(np.array([[0, 4095, 2048, 8], [16, 2040, 4094, 1]]), 12, 1)
    np.testing.assert_array_equal(decode(data, 1, None, LIMIT)[..., 0], [[0, 255, 128, 0], [1, 127, 255, 0]])
    assert decode(data, 3, None, LIMIT).shape == (2, 4, 3) and read_header(data, LIMIT) == (2, 4, 1)
    assert was_read_otherwise(data, LIMIT)
    assert not was_read_otherwise(tiff(np.array([[0, 65535, 257, 1]]), 16, 1), LIMIT)


@pytest.mark.parametrize(("bits", "sample_format"), [(8, 2), (16, 2), (32, 1), (32, 2)])
@pytest.mark.parametrize(("low", "was_read"), [(0, True), (-1, False)])
def test_signed_and_32_bit_integers_are_refused(bits: int, sample_format: int, low: int, was_read: bool) -> None:
    data = tiff(np.array([[low, 127, 1, 2]]), bits, sample_format)
    with pytest.raises(BadImage, match="signed or 32-bit integer pixels have no known range"):
        decode(data, 1, None, LIMIT)
    assert was_read_otherwise(data, LIMIT) == (was_read or bits == 8)  # as far as earlier versions found pixels in it


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["LAB", "CMYK", "YCbCr"])
def test_every_kind_of_colour_becomes_rgb_and_its_luma(mode: str, channels: int) -> None:
    colours = noise(4, 4, 3)
    image = Image.frombytes(mode, (4, 4), colours.tobytes()) if mode == "LAB" else Image.fromarray(colours).convert(mode)
    data = encoded(image, "TIFF")
    expected = np.asarray(image.convert("RGB"))
    found = decode(data, channels, None, LIMIT).astype(int)
    assert np.abs(found - convert_channels(expected, channels)).max() <= 1
    assert was_put_aside_as_grey(data, LIMIT) == (mode == "LAB") and not was_read_otherwise(data, LIMIT)


def test_one_bit_cmyk_and_animations() -> None:
    bits = np.array([[True, False]])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits)), 1, None, LIMIT)[..., 0], [[255, 0]])
    assert decode(encoded(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), "TIFF"), 3, None, LIMIT).min() == 255
    frames = [Image.new("L", (3, 2), value) for value in (10, 200)]
    assert (decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 1, None, LIMIT) == 10).all()


def test_resize_covers_and_crops_the_centre() -> None:
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 40, axis=0)  # 40 rows, 120 columns, brighter to the right
    found = fit(ramp, (20, 20))[..., 0].astype(int)  # halved to 20x60, then columns 20..39
    assert found.shape == (20, 20)
    expected = (np.arange(20, 40) * 4 + 1)[None, :]
    assert np.abs(found - expected).max() <= 1
    pixels = noise(9, 7, 3)
    np.testing.assert_array_equal(fit(pixels, (9, 5)), pixels[:, 1:6])
    np.testing.assert_array_equal(fit(pixels, (9, 7)), pixels)
    assert fit(pixels, (30, 3)).shape == (30, 3, 3) and fit(pixels[..., :1], (3, 30)).shape == (3, 30, 1)


@pytest.mark.parametrize("turn", [False, True])
def test_a_long_thin_image_takes_little_memory(turn: bool) -> None:
    line = np.zeros((1, 400_000, 3), np.uint8)
    line[:, 200_000:] = 255
    data = encoded(Image.fromarray(line.swapaxes(0, 1) if turn else line))
    tracemalloc.start()
    try:
        found = decode(data, 3, (8, 8), 10**6)
        assert tracemalloc.get_traced_memory()[1] < 8e6  # the pixels themselves are 1.2 MB; 8 rows of them as wide as that are 77 MB
    finally:
        tracemalloc.stop()
    found = found.swapaxes(0, 1) if turn else found
    assert found.shape == (8, 8, 3) and (found == found[:1]).all()
    assert (found[:, :4] < 128).all() and (found[:, 4:] > 127).all()  # the very centre: black on the left, white on the right


def test_only_the_part_that_is_wanted_is_resized_and_it_is_the_same() -> None:
    for (height, width), size in {(40, 120): (20, 20), (90, 30): (60, 60), (5, 44): (20, 30)}.items():
        pixels = noise(height, width, 3)
        scale = max(size[0] / height, size[1] / width)
        whole = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        top, left = (whole.height - size[0]) // 2, (whole.width - size[1]) // 2
        expected = np.asarray(whole)[top : top + size[0], left : left + size[1]].astype(int)
        assert np.abs(fit(pixels, size) - expected).max() <= 1


def test_a_machine_without_memory_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise MemoryError

    data = encoded(Image.fromarray(noise(4, 4, 3)))
    for name in ("Image.resize", "Image.getexif", "open"):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(f"PIL.Image.{name}", full)
            read_header(data, LIMIT)
            decode(data, 3, (2, 2), LIMIT)


@pytest.mark.parametrize("size", [(1, 1), (2, 31), (31, 2), (64, 64), (13, 17)])
def test_any_shape_fits_any_size(size: tuple[int, int]) -> None:
    for shape in ((1, 1, 3), (1, 50, 3), (50, 1, 1), (33, 21, 3)):
        assert fit(noise(*shape), size).shape == (*size, shape[2])


def test_a_large_jpeg_shrunk_while_decoding_looks_the_same() -> None:
    y, x = np.mgrid[0:400, 0:600]
    smooth = (127 + 100 * np.sin(x / 60) * np.cos(y / 50)).astype(np.uint8)
    data = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    found = decode(data, 1, (32, 32), 10**6)[..., 0].astype(int)
    assert np.abs(found - fit(smooth[..., None], (32, 32))[..., 0]).max() <= 3


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_headers_are_read_without_decoding() -> None:
    data = png_header(100, 99)  # there are no pixels
    assert read_header(data, LIMIT) == (99, 100, 3)
    with pytest.raises(BadImage):
        read_header(data, 9899)


@given(st.binary(max_size=60), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
@settings(max_examples=200, deadline=None)
def test_damaged_files_give_pixels_or_a_reason(noise_bytes: bytes, place: int, format: str) -> None:
    data = bytearray(encoded(Image.fromarray(noise(12, 12, 3)), format))
    data[place : place + len(noise_bytes)] = noise_bytes
    for use in (lambda: decode(bytes(data), 3, (8, 8), LIMIT).shape, lambda: read_header(data, LIMIT)):
        try:
            found = use()
            assert found == (8, 8, 3) or found[0] * found[1] <= LIMIT
        except BadImage as error:
            assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "reason", "kind"),
    [
        (b"", "an empty file", "empty"),
        (b"hello", "not an image", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "not an image", "no image"),
        (png_header(101, 100), "101 x 100 is more than 10000 pixels", "too large"),
        (png_header(50_000, 50_000), "more than 10000 pixels", "too large"),
        (encoded(Image.fromarray(noise(20, 20, 3)))[:-200], ".", "damaged"),
        (encoded(Image.fromarray(noise(50, 50, 3)), "JPEG")[:300], ".", "no image"),
        (encoded(Image.fromarray(noise(50, 50, 3)), "JPEG")[:-300], ".", "damaged"),
        (encoded(Image.fromarray(noise(110, 100, 3)), "JPEG"), "100 x 110 is more than 10000 pixels", "too large"),
        (encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "32-bit float", "unknown range"),
        (encoded(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"), "32-bit integer", "unknown range"),
    ],
)
def test_bad_files_are_told_apart(data: bytes, reason: str, kind: str) -> None:
    with pytest.raises(BadImage, match=reason) as told:
        decode(data, 3, (8, 8), LIMIT)
    assert str(told.value) and "\n" not in str(told.value)
    assert told.value.kind == kind
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("is_progressive", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_jpegs_are_decoded_as_all_others_are(mode: str, is_progressive: bool, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way and the long one give the same pixels: of all sizes, qualities and subsamplings, whole or not."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(60):
        height, width = rng.integers(1, 90, 2)
        pixels = noise(height, width, 3)[..., 0] if mode == "L" else noise(height, width, 3)
        options = {
            "quality": int(rng.integers(1, 100)),
            "subsampling": number % 3,
            "progressive": is_progressive,
            "optimize": number % 2 == 0,
        }
        if number % 5 == 0:
            options["restart_marker_blocks"] = 2
        files.append(encoded(Image.fromarray(pixels), "JPEG", **options))
    sizes = [None, (8, 8), (5, 16), (40, 33), (1, 1)]
    assert all(map(is_plain, files))
    short = [decode(data, channels, size, LIMIT) for data in files for size in sizes]
    cut = [data[: len(data) * 3 // 4] for data in files if len(data) > 1200]
    assert cut and all(_is_bad(data, channels) for data in cut)
    monkeypatch.setattr(decoding, "_plain_jpeg", lambda data: None)
    for pixels_HWC, (data, size) in zip(short, ((data, size) for data in files for size in sizes), strict=True):
        np.testing.assert_array_equal(pixels_HWC, decode(data, channels, size, LIMIT))
    assert all(_is_bad(data, channels) for data in cut)


def _is_bad(data: bytes, channels: int) -> bool:
    try:
        decode(data, channels, (8, 8), LIMIT)
    except BadImage as error:
        return error.kind == "damaged"
    return False


def test_jpegs_with_anything_else_in_them_are_not_plain() -> None:
    data = encoded(Image.fromarray(noise(9, 9, 3)), "JPEG")
    assert is_plain(data) and data[2:4] == b"\xff\xe0"
    segments = {
        "exif": b"\xff\xe1\0\x08Exif\0\0",
        "profile": b"\xff\xe2\0\x0eICC_PROFILE\0",
        "Adobe": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01",
        "comment": b"\xff\xfe\0\x04no",
        "padding": b"\xff",
        "lossless": b"\xff\xc3\0\x0b" + bytes(9),
        "arithmetic": b"\xff\xc9\0\x0b" + bytes(9),
    }
    for segment in segments.values():
        assert not is_plain(data[:2] + segment + data[2:]) and not is_plain(data[:20] + segment + data[20:])
    assert (
        not is_plain(encoded(Image.new("CMYK", (4, 4)), "JPEG"))
        and not is_plain(data[:30])
        and not is_plain(b"")
        and not is_plain(data[:3])
    )
    for start in range(2, 300):  # cut anywhere in its head
        assert not is_plain(data[:start])


def test_pngs_with_pixels_only_are_plain() -> None:
    assert is_plain(encoded(Image.fromarray(noise(9, 9, 3))))
    assert not is_plain(encoded(Image.fromarray(noise(9, 9, 3)), dpi=(72, 72)))
    assert not is_plain(encoded(Image.fromarray(noise(9, 9, 3)[..., 0]), transparency=3))


@pytest.mark.parametrize("mark", [1, 100, 255])
def test_a_mask_knows_what_is_not_black(mark: int) -> None:
    grey = np.array([[0, mark, 0, mark]], np.uint8)
    expected = grey > 0
    colour = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.concatenate([colour, np.full((1, 4, 1), 255, np.uint8)], axis=2)
    for pixels in (grey, colour, opaque, grey.astype(np.uint16), grey.astype(np.uint16) * 257, expected):
        np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(pixels)), LIMIT), expected)
    red = colour * np.array([1, 0, 0], np.uint8)
    np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(red)), LIMIT), expected)
    assert not decode_mask(encoded(Image.new("L", (3, 2))), LIMIT).any() and decode_mask(encoded(Image.new("1", (3, 2), 1)), LIMIT).all()


def wide_png(values: np.ndarray, *before: bytes) -> bytes:
    """A PNG file of 16 bits, grey or RGB, whose other chunks come before the pixels."""
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mark", [1, 0x00FF, 65535])
def test_a_mask_of_16_bits_is_read_to_the_last_one(mark: int) -> None:
    grey = np.array([[0, mark, mark, 0]])
    for data in (
        wide_png(grey),
        wide_png(grey, chunk(b"tRNS", struct.pack(">H", 7))),
        encoded(Image.fromarray(grey.astype(np.uint16)), "TIFF"),
    ):
        np.testing.assert_array_equal(decode_mask(data, LIMIT), grey > 0)
    for value in (0, mark):
        with pytest.raises(UserError, match="transparent pixels"):
            decode_mask(wide_png(grey, chunk(b"tRNS", struct.pack(">H", value))), LIMIT)
    colour = np.repeat(grey[..., None], 3, axis=2)
    clear = chunk(b"tRNS", struct.pack(">3H", 7, 7, 7))
    files = [wide_png(colour), wide_png(colour, clear), b"P6 4 1 65535\n" + colour.astype(">u2").tobytes()]
    files += [imagecodecs.tiff_encode(colour.astype(np.uint16)), imagecodecs.jpeg2k_encode(colour.astype(np.uint16))]
    for data in files:
        with pytest.raises(UserError, match="a mask of more than 8 bits and several channels; give a mask that is black"):
            decode_mask(data, LIMIT)


def half_transparent(mode: str, value: int) -> Image.Image:
    image = Image.new("L", (8, 8), value).convert(mode)
    image.putalpha(Image.fromarray(np.repeat(np.array([255, 0], np.uint8), 4)[:, None].repeat(8, axis=1)))
    return image


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_with_transparent_pixels_is_refused(value: int) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    grey = Image.fromarray(np.array([[0, 255]], np.uint8))
    files = [encoded(half_transparent(mode, value)) for mode in ("L", "RGB")]
    files += [encoded(half_transparent("RGB", value), "WEBP", lossless=True, exact=True), encoded(half_transparent("RGB", value), "TIFF")]
    files += [encoded(palette, transparency=1), encoded(palette, "GIF", transparency=0), encoded(grey, transparency=value)]
    for data in files:
        with pytest.raises(
            UserError, match="transparent pixels; give a mask that is black where pixels are drawn and white where they are known"
        ) as told:
            decode_mask(data, LIMIT)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("shades", [(0, 127, 128), (0, 254, 255), (1, 2, 3), (100, 100, 255)])
def test_a_mask_of_several_shades_is_refused(shades: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"a mask of several shades .*; give a mask that is black where pixels are drawn"):
        decode_mask(encoded(Image.fromarray(np.array([shades], np.uint8))), LIMIT)
    with pytest.raises(BadImage):
        decode_mask(b"no image", LIMIT)
