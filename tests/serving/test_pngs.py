"""Base64 as people have it, masks of every kind of PNG file, and what is told of files that are none."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelmodels.serving.pngs import image_of, mask_of, png_of
from pixelmodels.serving.refusals import Refused
from pixelmodels.shapes import ImageSpec

SPEC = ImageSpec(1, 8, 8, 7)
LEVELS = np.random.default_rng(0).integers(0, 7, SPEC.shape).astype(np.uint8)
PNG = png_of(LEVELS, 7)
TEXT = base64.b64encode(PNG).decode()
LONG = ImageSpec(1, 40, 40, 256)  # of which the text has many lines
NOISE = np.random.default_rng(1).integers(0, 256, LONG.shape).astype(np.uint8)
NOISE_TEXT = base64.b64encode(png_of(NOISE, 256)).decode()


def lines(text: str, end: str, width: int = 76) -> str:
    return end.join(text[start : start + width] for start in range(0, len(text), width))


@pytest.mark.parametrize(
    "made",
    [
        lambda text: lines(text, "\n"),
        lambda text: lines(text, "\r\n"),
        lambda text: lines(text, "\n", 64) + "\n",
        lambda text: lines(text, "\n    "),
        lambda text: f"  {text}\t",
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"DATA:image/PNG;Base64,{lines(text, chr(10))}",
        lambda text: f"data:image/png;name=a.png;base64, {text}",
        lambda text: f"data:;base64,{text}",
        lambda text: text.rstrip("="),
        lambda text: text + "=",
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    ],
)
def test_base64_is_read_as_people_have_it(made: Any) -> None:
    assert np.array_equal(image_of(made(NOISE_TEXT), "image", LONG, 10_000), NOISE)
    assert np.array_equal(image_of(made(TEXT), "image", SPEC, 1000), LEVELS)


def as_file(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(LEVELS[0] * 36).save(stream, format=kind, **options)
    return stream.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (encoded(as_file("JPEG")), "a JPEG file; this takes PNG files"),
        (encoded(as_file("GIF")), "a GIF file"),
        (encoded(as_file("WEBP")), "a WebP file"),
        (encoded(as_file("TIFF")), "a TIFF file"),
        (encoded(as_file("BMP")), "a BMP file"),
        (f"data:image/jpeg;base64,{encoded(as_file('JPEG'))}", "a JPEG file"),
        (encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "SVG"),
        (encoded(TEXT.encode()), "base64 twice"),
        (encoded(b"something else that is long enough to be one of them"), "no PNG file"),
        ("cat.png", "the name of a file; send what is in it"),
        ("/home/me/pictures/cat.JPG", "the name of a file"),
        ("https://example.com/cat", "the name of a file"),
        ("s3://bucket/cat.webp\n", "the name of a file"),
        ("data:image/png,%89PNG", "a data: URL that is not in base64"),
        (str(TEXT.encode()), "bytes as Python shows them"),
        ("\x89PNG\r\n\x1a\n", "no base64"),
        (TEXT[:40] + "%" + TEXT[40:], "no base64"),
        (TEXT[:40] + "=" + TEXT[40:], "no base64"),
        ("=", "no PNG file"),
        (" ", "no PNG file"),
    ],
)
def test_what_is_no_png_is_told_as_what_it_is(text: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        image_of(text, "image", SPEC, 100_000)
    assert (refused.value.status, refused.value.field) == (422, "image") and said in refused.value.message
    assert "\n" not in refused.value.message


def test_the_limit_comes_before_decoding_and_is_of_what_is_encoded() -> None:
    most = len(PNG)
    assert np.array_equal(image_of(f"data:image/png;base64,{lines(TEXT, chr(10))}", "image", SPEC, most), LEVELS)
    for text in ("!" * (len(TEXT) + 4), lines(TEXT + "AAAA", "\n"), " " * (2 * len(TEXT) + 2000) + TEXT):
        with pytest.raises(Refused) as refused:
            image_of(text, "image", SPEC, most)
        assert (refused.value.status, refused.value.field) == (413, "image")


# --- masks ---

KNOWN = np.arange(8)[:, None] < np.full((1, 8), 4)  # the upper half
GREY = KNOWN * np.uint8(255)


def png(image: Image.Image, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, format="PNG", **options)
    return encoded(stream.getvalue())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))


def with_alpha(alpha: Any, kind: str = "RGBA") -> str:
    image = Image.fromarray(GREY).convert(kind)
    image.putalpha(Image.fromarray(np.broadcast_to(np.asarray(alpha, np.uint8), (8, 8)).copy()))
    return png(image)


def palette(*colours: tuple[int, int, int], **options: Any) -> str:
    image = Image.fromarray(KNOWN.astype(np.uint8)).convert("P")
    image.putpalette([value for colour in colours for value in colour])
    return png(image, **options)


def wide_rgb() -> str:
    rows = b"".join(b"\0" + bytes([0, int(one)]) * 24 for one in KNOWN[:, 0])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return encoded(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    "text",
    [
        png(Image.fromarray(GREY)),
        png(Image.fromarray(KNOWN)),
        png(Image.fromarray(KNOWN.astype(np.uint8))),  # 0 and 1
        png(Image.fromarray(KNOWN * np.uint8(100))),
        png(Image.fromarray(KNOWN.astype(np.uint16))),  # 0 and 1 of 65535
        png(Image.fromarray(KNOWN * np.uint16(65535))),
        png(Image.fromarray(GREY).convert("RGB")),
        png(Image.fromarray(KNOWN[..., None] * np.array([0, 0, 1], np.uint8))),  # a blue that is grey 0
        with_alpha(255),
        with_alpha(255, "LA"),
        palette((0, 0, 0), (9, 9, 9)),
        palette((0, 0, 0), (255, 255, 255), transparency=b"\xff\xff"),
    ],
)
def test_a_mask_is_black_and_one_other_colour(text: str) -> None:
    assert np.array_equal(mask_of(text, "mask", SPEC, 10_000), KNOWN)


def test_all_may_be_known_or_nothing() -> None:
    for value, known in ((0, False), (255, True), (3, True)):
        assert (mask_of(png(Image.new("L", (8, 8), value)), "mask", SPEC, 10_000) == known).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (with_alpha(np.where(KNOWN, 255, 0)), "transparent pixels"),
        (with_alpha(np.where(KNOWN, 0, 255)), "transparent pixels"),
        (with_alpha(254), "transparent pixels"),
        (with_alpha(0, "LA"), "transparent pixels"),
        (palette((0, 0, 0), (255, 255, 255), transparency=0), "transparent pixels"),
        (png(Image.fromarray(GREY), transparency=0), "transparent pixels"),
        (png(Image.fromarray(GREY).convert("RGB"), transparency=(255, 255, 255)), "transparent pixels"),
        (png(Image.fromarray(KNOWN * np.uint16(65535)), transparency=0), "transparent pixels"),
        (png(Image.fromarray(np.where(KNOWN, 255, 128).astype(np.uint8))), "several shades (128, 255)"),
        (png(Image.fromarray(np.where(KNOWN, 200, 50).astype(np.uint8))), "several shades (50, 200)"),
        (png(Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))), "several shades (1, 2, 3, 4, ...)"),
        (png(Image.fromarray(KNOWN * np.uint16(300) + np.uint16(1))), "several shades (1, 301)"),
        (palette((0, 0, 200), (200, 0, 0)), "several shades"),
        (wide_rgb(), "more than 8 bits and several channels"),
        (encoded(b"\x89PNG\r\n\x1a\n" + HEADER + chunk(b"IDAT", b"not zlib") + chunk(b"IEND", b"")), "cannot be read"),
    ],
)
def test_a_mask_that_may_mean_two_things_is_refused(text: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        mask_of(text, "mask", SPEC, 10_000)
    assert (refused.value.status, refused.value.field) == (422, "mask") and said in refused.value.message
    assert "black where pixels are drawn and white where they are known" in refused.value.message or said == "cannot be read"
    assert "\n" not in refused.value.message


# --- levels ---


@pytest.mark.parametrize(
    "text",
    [
        png(Image.fromarray(LEVELS[0]).convert("RGB")),  # of another number of channels
        png(Image.fromarray(LEVELS[0].astype(np.uint16))),
        png(Image.fromarray(LEVELS[0] > 3)),  # of one bit, read as 0 and 255
        png(Image.fromarray(LEVELS[0]), transparency=0),
        png(Image.fromarray(LEVELS[0]).convert("LA")),
        png(Image.fromarray(LEVELS[0]).convert("P")),
    ],
)
def test_levels_are_read_where_no_value_is_changed(text: str) -> None:
    assert np.array_equal(image_of(png(Image.fromarray(LEVELS[0])), "image", SPEC, 10_000, "levels"), LEVELS)
    with pytest.raises(Refused, match="levels are read from grey PNG files of 8 bits"):
        image_of(text, "image", SPEC, 10_000, "levels")
