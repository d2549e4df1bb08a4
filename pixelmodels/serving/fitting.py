"""Images of any size and format as a model sees them, by the code that prepares data."""

from __future__ import annotations

import numpy as np
import torch

from pixelmodels.data.decoding import BadImage, decode
from pixelmodels.data.quantization import quantize
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.models.context_images import check_makeable, factor_between, grey, small
from pixelmodels.serving import pngs
from pixelmodels.serving.refusals import invalid
from pixelmodels.serving.schemas import FitRequest
from pixelmodels.shapes import ImageSpec

MAX_PIXELS = 1 << 25  # of an image file that is fitted: four bytes each while it is decoded


def fitted(model: PixelModel, asked: FitRequest, max_bytes: int) -> list[str]:
    """PNG files in base64 of images as the model takes them; raises `Refused` with the image to blame.

    What a model is given of an image (grey, small) is made of the image as the model would see it, as in training.
    """
    spec = model.spec
    given = {"image": spec, "context_image": model.context_spec.image, "small_image": model.context_spec.small}[asked.kind]
    if given is None:
        raise invalid(f"this model is not conditioned on a {asked.kind.replace('_', ' ')}; fit images for another model", "kind")
    is_made = asked.kind != "image" and _is_made_of_own(model)
    found = []
    for index, text in enumerate(asked.files):
        field = f"files.{index}"
        data = pngs.decoded(text, field, max_bytes)
        x_CHW = _levels(data, field, spec) if is_made else _levels(data, field, given)
        found.append(pngs.base64_png(_made(x_CHW, asked.kind, given) if is_made else x_CHW, given.levels))
    return found


def _is_made_of_own(model: PixelModel) -> bool:
    """Whether what the model is given is made of its own images, as in training; else files are fitted to that as they are."""
    try:
        check_makeable(model.context_spec, model.spec, "")
    except UserError:
        return False
    return True


def _levels(data: bytes, field: str, spec: ImageSpec) -> pngs.UInt8:
    try:
        pixels_HWC = decode(data, 3 if spec.channels == 3 else 1, (spec.height, spec.width), MAX_PIXELS)
    except BadImage as error:
        raise invalid(f"an image file that cannot be read ({error}); give a PNG, JPEG, WebP, GIF, BMP or TIFF file", field) from None
    if spec.channels not in (1, 3):
        raise invalid(f"images of {spec.channels} channels are in no image file; give arrays to the other routes", field)
    return np.ascontiguousarray(quantize(pixels_HWC, spec.levels).transpose(2, 0, 1))


def _made(x_CHW: pngs.UInt8, kind: str, given: ImageSpec) -> pngs.UInt8:
    """What a model is given of one of its images."""
    x_1CHW = torch.from_numpy(x_CHW.astype(np.int64))[None]
    if kind == "context_image" and x_CHW.shape[0] == 3 and given.channels == 1:
        x_1CHW = grey(x_1CHW)
    if given.shape[1:] != x_CHW.shape[1:]:
        x_1CHW = small(x_1CHW, factor_between(x_CHW.shape[1:], given.shape[1:]))
    made_CHW: pngs.UInt8 = x_1CHW[0].numpy().astype(np.uint8)
    return made_CHW
