"""What a run's images are conditioned on: which kinds, out of recipe and data set; and the context of each batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch

from pixelmodels.data import SPLITS, Dataset
from pixelmodels.data.derived import factor_between, grey, small
from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextSpec, PixelModel
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.recipes import Recipe
from pixelmodels.training.rows import Rows


def context_spec(recipe: Recipe, dataset: Dataset) -> ContextSpec:
    """The kinds of context of a run's model; raises `UserError` where the data set does not have what the recipe asks for."""
    found = context_of_kinds(recipe, dataset.name, dataset.spec, dataset.num_classes, dataset.vector_size)
    if found.num_classes:
        check_labels(dataset, SPLITS, "train without --condition-on label")
    return found


def context_of_kinds(recipe: Recipe, name: str, spec: ImageSpec, num_classes: int, vector_size: int) -> ContextSpec:
    """`context_spec` for a data set of which only the name and the sizes are known."""
    kinds = recipe.condition_on
    image: ImageSpec | None = None
    sampled: ImageSpec | None = None
    if "label" in kinds and num_classes == 0:
        raise _lacks(recipe, name, "label", "has no labels; use labelled images")
    if "vector" in kinds and vector_size == 0:
        raise _lacks(recipe, name, "vector", "has no vectors; prepare it with --vectors FILE")
    if "grey" in kinds:
        if spec.channels != 3:
            raise _lacks(recipe, name, "grey", "is grey already; use RGB images")
        image = dataclasses.replace(spec, channels=1)
    if "small" in kinds:
        factor = recipe.small_factor
        if factor > max(spec.height, spec.width):
            too_large = f"has images of {spec.height}x{spec.width}, of which small_factor {factor} leaves one pixel; give a smaller one"
            raise _lacks(recipe, name, "small", too_large)
        sampled = _sub_sampled(spec, factor)
        least = factor_between(spec.shape[1:], sampled.shape[1:])
        if least < factor:  # the pixels of a given image are told by its size
            sizes = f"{spec.height}x{spec.width}, of which small_factor {factor} leaves {sampled.height}x{sampled.width}, as {least} does"
            raise _lacks(recipe, name, "small", f"has images of {sizes}; give --small-factor {least}")
    return ContextSpec(num_classes if "label" in kinds else 0, vector_size if "vector" in kinds else 0, image, sampled)


def _lacks(recipe: Recipe, name: str, kind: str, what: str) -> UserError:
    return UserError(
        f"recipe '{recipe.name}' is conditioned on '{kind}' and data set '{name}' {what}, or train without --condition-on {kind}"
    )


def check_labels(dataset: Dataset, splits: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the number of images and the remedy, when images of these splits have no label."""
    unlabelled = {split: dataset.num_unlabelled(split) for split in splits}
    if any(unlabelled.values()):
        counts = ", ".join(f"{count} of {split}" for split, count in unlabelled.items() if count)
        raise UserError(
            f"data set '{dataset.name}' has images without a label ({counts}), and a model conditioned on labels needs one of each; "
            f"put them into their classes' folders, or {remedy}"
        )


def check_images_fit(model: PixelModel, dataset: Dataset) -> None:
    """Raise `UserError` when a data set's images are not of a model's shape and levels."""
    if model.spec != dataset.spec:
        ours, theirs = (f"{one.channels}x{one.height}x{one.width} with {one.levels} levels" for one in (model.spec, dataset.spec))
        raise UserError(f"the model was trained on images of {ours}, data set '{dataset.name}' has {theirs}; prepare one that fits")


def check_context_fits(spec: ContextSpec, dataset: Dataset, splits: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the remedy, when a model's context cannot be had of a data set whose images fit it."""
    for asked, has, what in (
        (spec.num_classes, dataset.num_classes, "{} classes"),
        (spec.vector_size, dataset.vector_size, "vectors of {} numbers"),
    ):
        if asked and asked != has:
            raise UserError(
                f"the model is conditioned on {what.format(asked)}, data set '{dataset.name}' has {has}; use one that fits, or {remedy}"
            )
    if spec.num_classes:
        check_labels(dataset, splits, remedy)
    check_makeable(spec, dataset.spec, remedy)


def check_makeable(spec: ContextSpec, own: ImageSpec, remedy: str) -> None:
    """Raise `UserError`, with the remedy, when the images that a model is given are not made of its own ones."""
    grey_of_own = dataclasses.replace(own, channels=1) if own.channels == 3 else None
    for image, makeable in ((spec.image, (None, grey_of_own)), (spec.small, (None, _sampled(own, spec.small)))):
        if image not in makeable:
            given = f"{image.channels}x{image.height}x{image.width} with {image.levels} levels"
            raise UserError(f"the model is given images of {given}, which cannot be made of its own images; {remedy}")


def told(spec: ContextSpec) -> str:
    """What a model is given of an image, in words."""
    parts = [f"its class of {spec.num_classes}"] if spec.num_classes else []
    parts += [f"its vector of {spec.vector_size} numbers"] if spec.vector_size else []
    parts += ["its grey image"] if spec.image is not None else []
    parts += [f"its pixels sub-sampled to {spec.small.height}x{spec.small.width}"] if spec.small is not None else []
    return " and ".join(parts) or "nothing"


def context_of(
    spec: ContextSpec, x_BCHW: torch.Tensor, label_B: torch.Tensor | None = None, vector_BV: torch.Tensor | None = None
) -> Context | None:
    """The whole context of images, of the kinds that a model is built for: given images are made of the images themselves.

    `image` is them without their colours, `small` sub-sampled, as `check_context_fits` sees to.

    Args: `label_B` and `vector_BV`, where the data set has them. None for a model without context.
    """
    if not spec:
        return None
    return Context(
        label_B=label_B if spec.num_classes else None,
        vector_BV=vector_BV if spec.vector_size else None,
        image_BCHW=grey(x_BCHW) if spec.image is not None else None,
        small_BCHW=small(x_BCHW, factor_between(x_BCHW.shape[2:], spec.small.shape[1:])) if spec.small is not None else None,
    )


def to_tensors(rows: Rows, device: torch.device, spec: ContextSpec) -> tuple[torch.Tensor, Context | None]:
    """Images and their whole context on the device; through pinned memory to a GPU."""

    def moved(values: np.ndarray | None) -> torch.Tensor | None:
        if values is None:
            return None
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    x_BCHW = moved(rows.images_NCHW)
    assert x_BCHW is not None
    label_B = moved(rows.labels_N) if spec.num_classes else None
    vector_BV = moved(rows.vectors_NV) if spec.vector_size else None
    x_BCHW = x_BCHW.long()
    return x_BCHW, context_of(spec, x_BCHW, None if label_B is None else label_B.long(), vector_BV)


def _sampled(own: ImageSpec, given: ImageSpec | None) -> ImageSpec | None:
    """What sub-sampling leaves of images, by the factor that a given image stands for."""
    factor = 1 if given is None else factor_between(own.shape[1:], given.shape[1:])
    return _sub_sampled(own, factor) if factor > 1 else None


def _sub_sampled(spec: ImageSpec, factor: int) -> ImageSpec:
    """What is left of images by every `factor`-th row and column."""
    return dataclasses.replace(spec, height=-(-spec.height // factor), width=-(-spec.width // factor))
