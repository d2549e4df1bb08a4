"""Bits of images by lossless codecs: how complex they are, whatever they show.

Of a file of one small image most bytes are the same for all images: signatures, headers, checksums. So each codec's bytes of a blank
image of the same shape are taken off, and of the codecs the one counts that needs the fewest bits beyond that.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import UserError, unknown
from pixelmodels.evaluation.baselines import WEBP_MAX_SIDE, png_file, tall_image, webp_files
from pixelmodels.shapes import ImageSpec


def _png(image_1CHW: UInt8, spec: ImageSpec) -> int:
    return len(png_file(image_1CHW, spec))


def _webp(image_1CHW: UInt8, spec: ImageSpec) -> int:
    return sum(map(len, webp_files(image_1CHW, spec)))


def _jpegxl(image_1CHW: UInt8, spec: ImageSpec) -> int:
    import imagecodecs

    return len(imagecodecs.jpegxl_encode(tall_image(image_1CHW), lossless=True, effort=7))


CODECS: dict[str, Callable[[UInt8, ImageSpec], int]] = {"png": _png, "webp": _webp, "jpegxl": _jpegxl}  # bytes of one image's file


def check_codecs(names: Sequence[str], spec: ImageSpec) -> None:
    """Raise `UserError` for codecs that there are not, here or for images of this shape."""
    for name in names:
        if name not in CODECS:
            raise unknown("codec", name, CODECS)
    if "jpegxl" in names and importlib.util.find_spec("imagecodecs") is None:
        raise UserError("codec 'jpegxl' needs the package imagecodecs, which is not installed; install it, or give --codecs png webp")
    if "webp" in names and max(spec.height, spec.width) > WEBP_MAX_SIDE:
        size = f"{spec.height}x{spec.width}"
        raise UserError(f"codec 'webp' holds {WEBP_MAX_SIDE} pixels a side, the images are {size}; give --codecs png")


class Complexity:
    """Bits of images of one shape by the best of some codecs, beyond those of a blank image."""

    def __init__(self, names: Sequence[str], spec: ImageSpec) -> None:
        self._spec = spec
        blank = np.zeros((1, *spec.shape), np.uint8)
        self._codecs = [(CODECS[name], CODECS[name](blank, spec)) for name in names]

    def __call__(self, images_NCHW: UInt8) -> npt.NDArray[np.float64]:
        """Bits of each image, N; 0 for a blank one."""
        found = [min(codec(one[None], self._spec) - blank for codec, blank in self._codecs) for one in images_NCHW]
        return 8.0 * np.array(found, dtype=np.float64)
