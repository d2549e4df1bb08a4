"""Levels come back out of their PNG files, and of files that hold more than an image no more than that is unpacked."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixelmodels.data.decoding import decode
from pixelmodels.data.quantization import dequantize
from pixelmodels.serving import pngs
from pixelmodels.serving.pngs import image_of, mask_of, png_of
from pixelmodels.serving.refusals import Refused
from pixelmodels.shapes import ImageSpec


@pytest.mark.parametrize("levels", [2, 3, 17, 100, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_come_back_out_of_their_png(levels: int, channels: int) -> None:
    spec = ImageSpec(channels, 9, 4, levels)
    image_CHW = np.random.default_rng(0).integers(0, levels, spec.shape).astype(np.uint8)
    text = base64.b64encode(png_of(image_CHW, levels)).decode()
    assert np.array_equal(image_of(text, "image", spec, 10_000), image_CHW)
    if channels == 1 and levels == 2:
        assert np.array_equal(mask_of(text, "mask", spec, 10_000), dequantize(image_CHW, levels)[0] > 0)


def test_an_image_that_is_too_large_is_not_decoded() -> None:
    spec = ImageSpec(1, 9, 4, 2)
    with pytest.raises(Refused) as refused:
        image_of("!" * 1000, "image", spec, 100)
    assert (refused.value.status, refused.value.field) == (413, "image")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("kind", "head"), [(b"IDAT", b""), (b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")], ids=lambda value: str(value)
)
def test_what_unpacks_to_very_much_is_not_unpacked(kind: bytes, head: bytes) -> None:
    """Files of the right size, of 100 KB, with 100 MB in one of their parts: the pixels there are come out, and no more of them."""
    spec = ImageSpec(1, 9, 4, 2)
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * 5)))
    bomb = chunk(kind, head + HUGE)
    parts = (bomb,) if kind == b"IDAT" else (bomb, pixels)
    data = b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 9, 8, 0, 0, 0, 0)), *parts, chunk(b"IEND", b"")))
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before_kb = peak_kb()
    began = time.monotonic()
    assert not image_of(base64.b64encode(data).decode(), "image", spec, 1 << 20).any()
    assert peak_kb() - before_kb < 20_000 and time.monotonic() - began < 5


def test_only_what_says_what_the_pixels_are_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles and texts in thousands, a picture's orientation, a checksum that is wrong in one of them: as if they were not there."""
    spec = ImageSpec(3, 4, 9, 256)
    palette = chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\xff\x00")
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes([1] * 9) for _ in range(4))))
    small = zlib.compress(bytes(1000))
    more = b"".join(chunk(kind, b"a\0\0" + small) for kind in (b"iCCP", b"zTXt") for _ in range(5000))
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 4, 8, 3, 0, 0, 0))
    signature, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    seen: list[bytes] = []

    def decoded(data: bytes, *options: Any) -> Any:
        seen.append(data)
        return decode(data, *options)

    monkeypatch.setattr(pngs, "decode", decoded)
    data = b"".join((signature, header, more, turned, palette, chunk(b"tEXt", b"a\0b")[:-1] + b"?", pixels, more, end, b"after the end"))
    image_CHW = image_of(base64.b64encode(data).decode(), "image", spec, 1 << 20)
    assert seen == [signature + header + palette + pixels + end]
    assert (image_CHW == 255).all()  # the second colour, which is transparent: over white


HUGE = zlib.compress(bytes(100 << 20))


def peak_kb() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
