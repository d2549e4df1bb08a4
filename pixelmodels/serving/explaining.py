"""Images explained by an engine's thread, in pieces between two rows: a forward pass of one image is one unit of the work."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pixelmodels.evaluation.dependence import Occlusion, dependence_by_gradient
from pixelmodels.evaluation.expectations import expectations
from pixelmodels.models import Context, PixelModel

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Maps:
    """What is expected of one image, as arrays; see `schemas.Explanation`."""

    surprise_bits: Float  # H W
    entropy_bits: Float  # H W
    expected: Float  # C H W, levels
    likeliest: npt.NDArray[np.int64]  # C H W, levels
    gradient_bits_per_level: Float | None = None  # C H W
    occlusion_bits: Float | None = None  # C H W; NaN where it was not looked at

    def plain(self) -> dict[str, Any]:
        """The maps as lists; what was not looked at is None."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        found = {name: values.tolist() for name, values in arrays.items() if values is not None}
        if self.occlusion_bits is not None:
            seen: npt.NDArray[Any] = self.occlusion_bits.astype(object)
            seen[np.isnan(self.occlusion_bits)] = None
            found["occlusion_bits"] = seen.tolist()
        return found


class Explaining:
    """The images of a request: first their maps, then the passes of each one's occlusion where a pixel is asked for."""

    def __init__(
        self,
        model: PixelModel,
        x_NCHW: Tensor,
        context: Context | None,
        order: int | None,
        pixel: tuple[int, int] | None,
        most_passes: int,
    ):
        self._model, self._x_NCHW, self._context, self._order, self._pixel = model, x_NCHW, context, order, pixel
        self._occlusions: list[Occlusion] = []
        if pixel is not None:
            for x_1CHW in x_NCHW.split(1):
                first = self._occlusions[0] if self._occlusions else None
                self._occlusions.append(Occlusion(model, x_1CHW, pixel, context, order=order, most_passes=most_passes, like=first))

    @property
    def num_units(self) -> int:
        """Of the whole work."""
        return len(self._x_NCHW) + sum(occlusion.num_passes for occlusion in self._occlusions)

    def work(self, first: int, last: int) -> list[object]:
        """Units first..last - 1: the maps of images, then rows of passes."""
        n, found = len(self._x_NCHW), list[object]()
        found += [self._maps(image) for image in range(first, min(last, n))]
        start = n
        for occlusion in self._occlusions:
            begin, end = max(first, start), min(last, start + occlusion.num_passes)
            if begin < end:
                found += list(occlusion.passes(begin - start, end - start))
            start += occlusion.num_passes
        return found

    def _maps(self, image: int) -> Maps:
        x_1CHW, order = self._x_NCHW[image : image + 1], self._order
        maps = expectations(self._model, x_1CHW, self._context, order=order)
        likeliest_CHW: npt.NDArray[np.int64] = maps.likeliest_BCHW[0].cpu().numpy()
        surprise_HW, entropy_HW, expected_CHW = (
            one[0].cpu().numpy() for one in (maps.surprise_bits_BHW, maps.entropy_bits_BHW, maps.expected_BCHW)
        )
        gradient_CHW = None
        if self._pixel is not None:
            gradient_CHW = dependence_by_gradient(self._model, x_1CHW, self._pixel, self._context, order=order).cpu().numpy()
        return Maps(surprise_HW, entropy_HW, expected_CHW, likeliest_CHW, gradient_CHW)

    def finished(self, units: list[object]) -> list[Maps]:
        """The maps of each image, from all units in their order."""
        n = len(self._x_NCHW)
        found: list[Any] = units[:n]
        passes: list[Any] = units[n:]
        for image, occlusion in enumerate(self._occlusions):
            mine, passes = passes[: occlusion.num_passes], passes[occlusion.num_passes :]
            found[image] = replace(found[image], occlusion_bits=occlusion.bits([np.stack(mine)]).numpy())
        return found


def units_of(parts: list[list[object]]) -> list[object]:
    """Units of all pieces, one after the other."""
    return [unit for part in parts for unit in part]


def is_finite(maps: list[Maps]) -> bool:
    """Whether all that is told of every image are numbers; what was not looked at aside."""
    for one in maps:
        told = [one.surprise_bits, one.entropy_bits, one.expected, one.gradient_bits_per_level]
        if not all(np.isfinite(values).all() for values in told if values is not None):
            return False
        if one.occlusion_bits is not None and np.isinf(one.occlusion_bits).any():
            return False
    return True
