"""Single images explained: what a model expects of each of their pixels, and on what its prediction of one of them depends."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.evaluation.batches import to_tensors
from pixelmodels.evaluation.dependence import AT_ONCE, Occlusion, Pixel, check_pixel, dependence_by_gradient
from pixelmodels.evaluation.expectations import expectations
from pixelmodels.models import ContextSpec, PixelModel

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """One image, what is expected of it, and the dependence of one of its pixels on those before it."""

    key: str  # of the image
    image_CHW: npt.NDArray[np.uint8]  # levels
    surprise_bits_HW: Float  # of each pixel
    entropy_bits_HW: Float
    expected_CHW: Float  # levels
    likeliest_CHW: npt.NDArray[np.uint8]  # levels
    pixel: Pixel  # row and column of the one whose dependence it is
    gradient_CHW: Float  # bits a level, of each sub-pixel
    occlusion_CHW: Float  # bits; NaN where it was not looked at

    @property
    def bits(self) -> float:
        """What the whole image costs."""
        return float(self.surprise_bits_HW.sum())


def explain(
    model: PixelModel,
    rows: Rows,
    keys: Sequence[str],
    *,
    with_context: bool = True,
    order: int | None = None,
    pixel: Pixel | None = None,
    most_passes: int,
    at_once: int = AT_ONCE,
) -> list[Explanation]:
    """Explain some images, one after the other.

    Args: `with_context`, whether a conditional model is given their context; `order`, of a model of several; `pixel`, whose dependence is
    looked at, of each image the most surprising one unless given; `most_passes`, of the network for one image's occlusion, and how many
    of them are made `at_once`.
    Raises `UserError` as `expectations` and `Occlusion` do.
    """
    if pixel is not None:
        check_pixel(model, pixel)
    found = []
    for index, key in enumerate(keys):
        x_1CHW, context = to_tensors(rows.part(index, index + 1), model.device, model.context_spec if with_context else ContextSpec())
        maps = expectations(model, x_1CHW, context, order=order)
        bits_HW = maps.surprise_bits_BHW[0]
        at = pixel if pixel is not None else divmod(int(bits_HW.argmax()), model.spec.width)
        occlusion = Occlusion(model, x_1CHW, at, context, order=order, most_passes=most_passes, at_once=at_once)
        found.append(
            Explanation(
                key,
                rows.images_NCHW[index],
                bits_HW.cpu().numpy(),
                maps.entropy_bits_BHW[0].cpu().numpy(),
                maps.expected_BCHW[0].cpu().numpy(),
                maps.likeliest_BCHW[0].to(torch.uint8).cpu().numpy(),
                at,
                dependence_by_gradient(model, x_1CHW, at, context, order=order).cpu().numpy(),
                occlusion.bits([occlusion.passes(0, occlusion.num_passes)]).numpy(),
            )
        )
    return found


def arrays_file(explained: Sequence[Explanation]) -> bytes:
    """All maps as the bytes of an `.npz` file: an array for each kind, a row for each image."""
    stream = io.BytesIO()
    kinds: dict[str, list[Any]] = {
        "images_NCHW": [one.image_CHW for one in explained],
        "surprise_bits_NHW": [one.surprise_bits_HW for one in explained],
        "entropy_bits_NHW": [one.entropy_bits_HW for one in explained],
        "expected_NCHW": [one.expected_CHW for one in explained],
        "likeliest_NCHW": [one.likeliest_CHW for one in explained],
        "pixel_N2": [one.pixel for one in explained],
        "gradient_bits_NCHW": [one.gradient_CHW for one in explained],
        "occlusion_bits_NCHW": [one.occlusion_CHW for one in explained],
    }
    keys = np.array([one.key for one in explained])
    np.savez_compressed(stream, keys=keys, **{name: np.stack(values) for name, values in kinds.items()})  # type: ignore[arg-type]
    return stream.getvalue()
