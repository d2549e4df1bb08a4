"""Bits of the best codec: none for a blank image, and as many as the codecs' own files have beyond a blank one's."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pixelmodels.anomalies import codecs
from pixelmodels.anomalies.codecs import Complexity, check_codecs
from pixelmodels.errors import UserError
from pixelmodels.shapes import ImageSpec

SPECS = [ImageSpec(1, 8, 8, 2), ImageSpec(1, 8, 8, 17), ImageSpec(1, 5, 9, 256), ImageSpec(3, 8, 8, 256), ImageSpec(2, 4, 4, 256)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("names", [("png",), ("webp",), ("png", "webp")])
def test_a_blank_image_has_no_bits_and_noise_has_the_most(spec: ImageSpec, names: tuple[str, ...]) -> None:
    rng, complexity = np.random.default_rng(0), Complexity(names, spec)
    blank = np.zeros((1, *spec.shape), np.uint8)
    ramp = np.broadcast_to(np.arange(spec.width) * (spec.levels - 1) // spec.width, blank.shape).astype(np.uint8)
    noise = rng.integers(0, spec.levels, blank.shape).astype(np.uint8)
    bits = complexity(np.concatenate([blank, ramp, noise]))
    assert bits[0] == 0 and bits[0] <= bits[1] < bits[2]


def test_bits_of_png_are_those_of_its_files() -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 1, 6, 7)).astype(np.uint8)

    def size(pixels: np.ndarray) -> int:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", optimize=True)
        return len(stream.getvalue())

    found = Complexity(("png",), ImageSpec(1, 6, 7, 256))(image)
    assert found.tolist() == [8 * (size(image[0, 0]) - size(np.zeros((6, 7), np.uint8)))]


def test_the_best_codec_counts_for_each_image() -> None:
    spec = ImageSpec(1, 16, 16, 256)
    rng = np.random.default_rng(2)
    images = np.stack([rng.integers(0, 256, spec.shape), np.full(spec.shape, 7), rng.integers(100, 104, spec.shape)]).astype(np.uint8)
    each = [Complexity((name,), spec)(images) for name in ("png", "webp")]
    assert (each[0] != each[1]).any()
    assert Complexity(("png", "webp"), spec)(images).tolist() == np.minimum(*each).tolist()


@pytest.mark.parametrize(
    ("names", "spec", "words"),
    [
        (("flif",), SPECS[0], "codec 'flif' unknown; have jpegxl, png, webp"),
        (("webp",), ImageSpec(1, 20_000, 1, 2), "codec 'webp' holds 16383 pixels a side, the images are 20000x1; give --codecs png"),
        (("jpegxl",), SPECS[0], "codec 'jpegxl' needs the package imagecodecs, which is not installed; install it, or give"),
    ],
)
def test_codecs_that_cannot_be_had(names: tuple[str, ...], spec: ImageSpec, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=words):
        check_codecs(names, spec)
