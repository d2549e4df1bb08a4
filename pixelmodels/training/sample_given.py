"""Images that samples are given on the command line: files or test images, and which of their pixels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.data import Dataset, DatasetConfig, quantize
from pixelmodels.data.decoding import BadImage, decode
from pixelmodels.data.derived import grey
from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextSpec, PixelModel
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.conditioning import check_context_fits, check_images_fit, check_makeable, context_of, to_tensors
from pixelmodels.training.rows import Rows

SAMPLES_EACH = 4  # of each given image, unless asked for otherwise
OWN, GIVEN = "the model's images", "the images that the model is given"


def shares(n: int, num_available: int, samples_each: int | None) -> tuple[int, int]:
    """How many of the available images are used, and how many samples of each are drawn, for about (and at most) `n` in all."""
    used = min(num_available, max(1, n // (samples_each or min(SAMPLES_EACH, n))))
    return used, samples_each or n // used


def held_out(dataset: Dataset, model: PixelModel, num_images: int) -> tuple[Tensor, Context | None]:
    """Test images spread over the split, and their whole context; raises `UserError` where they do not fit the model."""
    check_images_fit(model, dataset)
    check_context_fits(model.context_spec, dataset, ("test",), "use a data set like the one that it was trained on")
    test = dataset.some("test", num_images)
    return to_tensors(Rows(test.images_NCHW, test.labels_N, test.vectors_NV), torch.device("cpu"), model.context_spec)


def image_files(place: str, option: str) -> list[Path]:
    """The image file of a path, or the files of a folder by name (hidden ones left out); raises `UserError` when there are none."""
    path = Path(place)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{option} '{place}' not found; give an image file, or a folder of them")
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise UserError(f"{option} '{place}' is a folder without files; give an image file, or a folder of them")
    return files


def to_complete(files: list[Path], model: PixelModel) -> tuple[Tensor, Context | None]:
    """Image files as levels M C H W, and what is made of them for a model that is given images; raises `UserError`."""
    x_MCHW = _levels(files, model.spec, "--complete", OWN)
    check_makeable(model.context_spec, model.spec, "give them with --given")
    return x_MCHW, context_of(model.context_spec, x_MCHW)


def to_give(files: list[Path], model: PixelModel) -> Context:
    """Image files as the images that a model is given, of the kind whose size the first one has; raises `UserError`."""
    spec = model.context_spec
    kinds = {name: kind for name, kind in (("image_BCHW", spec.image), ("small_BCHW", spec.small)) if kind is not None}
    if not kinds:
        raise UserError("--given: the model is not given images; leave it out")
    size = _read(files[0], 1, [kind.shape[1:] for kind in kinds.values()], "--given", GIVEN).shape[:2]
    name, kind = next((name, kind) for name, kind in kinds.items() if kind.shape[1:] == size)
    if kind.channels == 1 and model.spec.channels == 3:  # as in training: levels first, then without colours
        return Context(**{name: grey(_levels(files, replace(kind, channels=3), "--given", GIVEN))})
    return Context(**{name: _levels(files, kind, "--given", GIVEN)})


def absent_kinds(spec: ContextSpec, context: Context | None) -> list[str]:
    """What a model is conditioned on and a context does not give, in words."""
    context = context or Context()
    kinds = (
        ("a class", spec.num_classes, context.label_B),
        ("a vector", spec.vector_size, context.vector_BV),
        ("an image", spec.image, context.image_BCHW),
        ("a small image", spec.small, context.small_BCHW),
    )
    return [what for what, asked, value in kinds if asked and value is None]


def _levels(files: list[Path], spec: ImageSpec, option: str, whose: str) -> Tensor:
    """Image files as levels, M C H W: channels and levels as a data set's, but never resized."""
    images = [quantize(_read(file, spec.channels, [spec.shape[1:]], option, whose), spec.levels) for file in files]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()).long()


def known_pixels(rows: int | None, mask: Path | None, spec: ImageSpec) -> Tensor:
    """Which pixels are known, booleans H W: so many rows at the top, or where a mask is lighter than mid-grey; raises `UserError`."""
    known_HW = np.zeros((spec.height, spec.width), dtype=np.bool_)
    if rows is not None:
        if not 1 <= rows < spec.height:
            raise UserError(f"--known-rows {rows} is out of range; the model's images have {spec.height} rows: give 1..{spec.height - 1}")
        known_HW[:rows] = True
    elif mask is not None:
        if not mask.is_file():
            raise UserError(f"--known '{mask}' not found; give an image of {spec.height}x{spec.width}, white where pixels are known")
        known_HW = _read(mask, 1, [spec.shape[1:]], "--known", OWN)[..., 0] >= 128
        if known_HW.all() or not known_HW.any():
            what = "knows every pixel" if known_HW.all() else "knows no pixel"
            raise UserError(f"--known '{mask}' {what}; give an image that is white where pixels are known and black where they are drawn")
    return torch.from_numpy(known_HW)


def num_known_later(model: PixelModel, known_HW: Tensor) -> int:
    """Known pixels that the model draws after some unknown one, so that what is drawn there is not conditioned on them."""
    rank_HW = model.order()
    return int((known_HW & (rank_HW > rank_HW[~known_HW].min())).sum())


def _read(file: Path, channels: int, sizes: Sequence[tuple[int, int]], option: str, whose: str) -> npt.NDArray[np.uint8]:
    try:
        pixels_HWC = decode(file.read_bytes(), channels, None, DatasetConfig().max_pixels)
    except (BadImage, OSError) as error:
        raise UserError(f"{option}: '{file}' cannot be read ({error}); give image files, such as PNG") from error
    if pixels_HWC.shape[:2] not in sizes:
        have, *want = (f"{height}x{width}" for height, width in (pixels_HWC.shape[:2], *sizes))
        raise UserError(f"{option}: '{file}' is {have} (height x width), {whose} are {' or '.join(want)}; resize or crop it")
    return pixels_HWC
