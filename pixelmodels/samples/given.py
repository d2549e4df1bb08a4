"""Images that samples are given on the command line: files or test images, and which of their pixels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.data import Dataset, DatasetConfig, quantize
from pixelmodels.data.decoding import BadImage, decode, decode_mask
from pixelmodels.errors import UserError, without_files
from pixelmodels.evaluation.batches import check_context_fits, check_images_fit, to_tensors
from pixelmodels.models import Context, ContextSpec, PixelModel
from pixelmodels.models.class_names import classes_of
from pixelmodels.models.context_images import check_makeable, context_of, grey
from pixelmodels.models.turns import Side, known_from, known_too_late
from pixelmodels.shapes import ImageSpec

SAMPLES_EACH = 4  # of each given image, unless asked for otherwise
OWN, GIVEN = "the model's images", "the images that the model is given"


class Images(Protocol):
    """Images that samples are of; `first` raises `UserError` where they do not fit the model."""

    num: int  # available
    what: str  # they are, in words

    def first(self, num: int, model: PixelModel) -> tuple[Tensor | None, Context | None]:
        """So many of them as levels M C H W where they are of the model's own kind, and what the model is given of them."""


class HeldOut:
    """A data set's test images, spread over the split, and their whole context."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.num, self.what = dataset.num_images("test"), f"test images of '{dataset.name}'"

    def first(self, num: int, model: PixelModel) -> tuple[Tensor | None, Context | None]:
        check_images_fit(model, self._dataset)
        check_context_fits(model.context_spec, self._dataset, ("test",), "use a data set like the one that it was trained on")
        test = self._dataset.some("test", num)
        return to_tensors(test.rows, torch.device("cpu"), model.context_spec)


class Files:
    """An image file, or those of a folder by name (hidden ones left out); raises `UserError` when there are none."""

    option: str  # what names them on the command line

    def __init__(self, place: str) -> None:
        path, what = Path(place), f"{self.option} '{place}'"
        if not path.is_file() and not path.is_dir():
            found = "is neither a file nor a folder" if path.exists() else "not found"
            raise UserError(f"{what} {found}; give an image file, or a folder of them")
        names = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        if not names:
            raise UserError(f"{what} {without_files(path, 'give an image file, or a folder of them')}")
        self._files, self.num, self.what = names, len(names), f"images of '{place}'"

    def levels(self, num: int, spec: ImageSpec, whose: str) -> Tensor:
        """Image files as levels, M C H W: channels and levels as a data set's, but never resized."""
        read = [_read(file, spec.channels, [spec.shape[1:]], self.option, whose) for file in self._files[:num]]
        return torch.from_numpy(quantize(np.stack(read), spec.levels).transpose(0, 3, 1, 2).copy()).long()


class FilesToComplete(Files):
    """Images like the model's own, and what is made of them for a model that is given images."""

    option = "--complete"

    def first(self, num: int, model: PixelModel) -> tuple[Tensor | None, Context | None]:
        x_MCHW = self.levels(num, model.spec, OWN)
        check_makeable(model.context_spec, model.spec, "give them with --given")
        return x_MCHW, context_of(model.context_spec, x_MCHW)


class FilesToGive(Files):
    """Images that a model is given, of the kind whose size the first one has."""

    option = "--given"

    def first(self, num: int, model: PixelModel) -> tuple[Tensor | None, Context | None]:
        spec = model.context_spec
        kinds = {name: kind for name, kind in (("image_BCHW", spec.image), ("small_BCHW", spec.small)) if kind is not None}
        if not kinds:
            raise UserError("--given: the model is not given images; leave it out")
        size = _read(self._files[0], 1, [kind.shape[1:] for kind in kinds.values()], self.option, GIVEN).shape[:2]
        name, kind = next((name, kind) for name, kind in kinds.items() if kind.shape[1:] == size)
        if kind.channels == 1 and model.spec.channels == 3:  # as in training: levels first, then without colours
            return None, Context(**{name: grey(self.levels(num, replace(kind, channels=3), GIVEN))})
        return None, Context(**{name: self.levels(num, kind, GIVEN)})


def shares(n: int, num_available: int, samples_each: int | None) -> tuple[int, int]:
    """How many of the available images are used, and how many samples of each are drawn, for about (and at most) `n` in all."""
    used = min(num_available, max(1, n // (samples_each or min(SAMPLES_EACH, n))))
    return used, samples_each or n // used


def absent_kinds(spec: ContextSpec, context: Context | None) -> list[str]:
    """What a model is conditioned on and a context does not give, in words."""
    context = context or Context()
    kinds = (
        (f"a class ({classes_of(spec)})" if spec.class_names else "a class", spec.num_classes, context.label_B),
        ("a vector", spec.vector_size, context.vector_BV),
        ("an image", spec.image, context.image_BCHW),
        ("a small image", spec.small, context.small_BCHW),
    )
    return [what for what, asked, value in kinds if asked and value is None]


def known_pixels(rows: int | None, mask: Path | None, spec: ImageSpec, side: Side = "top") -> Tensor:
    """Which pixels are known, booleans H W: so many rows (columns) from a side, or where a mask says so (see `decode_mask`).

    Raises `UserError` for what leaves nothing to draw, or knows nothing.
    """
    known_HW = np.zeros((spec.height, spec.width), dtype=np.bool_)
    if rows is not None:
        what, most = ("rows", spec.height) if side in ("top", "bottom") else ("columns", spec.width)
        if not 1 <= rows < most:
            raise UserError(f"--known-rows {rows} is out of range; the model's images have {most} {what}: give 1..{most - 1}")
        known_HW = known_from(side, rows, spec.height, spec.width)
    elif mask is not None:
        if not mask.is_file():
            raise UserError(f"--known '{mask}' not found; give an image of {spec.height}x{spec.width}, white where pixels are known")
        known_HW = _read(mask, None, [spec.shape[1:]], "--known", OWN)
        if known_HW.all() or not known_HW.any():
            what = "knows every pixel" if known_HW.all() else "knows no pixel"
            raise UserError(f"--known '{mask}' {what}; give an image that is white where pixels are known and black where they are drawn")
    return torch.from_numpy(known_HW)


def num_known_later(model: PixelModel, known_HW: Tensor, order: int = 0) -> int:
    """Known pixels that the model draws, by an order, after some unknown one, so that what is drawn there is not conditioned on them."""
    return int(known_too_late(known_HW.numpy(), model.pixel_ranks().numpy(), order).sum())


def _read(file: Path, channels: int | None, sizes: Sequence[tuple[int, int]], option: str, whose: str) -> npt.NDArray[Any]:
    """Pixels H,W,C of an image file; without `channels` it is a mask, and which of its pixels are known is told: booleans H,W."""
    max_pixels = DatasetConfig().max_pixels
    try:
        data = file.read_bytes()
        pixels_HWC = decode_mask(data, max_pixels) if channels is None else decode(data, channels, None, max_pixels)
    except UserError as error:
        raise UserError(f"{option} '{file}': {error}") from error
    except (BadImage, OSError) as error:
        raise UserError(f"{option}: '{file}' cannot be read ({error}); give image files, such as PNG") from error
    if pixels_HWC.shape[:2] not in sizes:
        have, *want = (f"{height}x{width}" for height, width in (pixels_HWC.shape[:2], *sizes))
        raise UserError(f"{option}: '{file}' is {have} (height x width), {whose} are {' or '.join(want)}; resize or crop it")
    return pixels_HWC
