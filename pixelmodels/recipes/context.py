"""What a run's images are conditioned on: the kinds that a recipe asks for, of what the data set has, and the orders of their pixels."""

from __future__ import annotations

import dataclasses

from pixelmodels.data import SPLITS, Dataset
from pixelmodels.data.dataset import check_labels
from pixelmodels.errors import UserError
from pixelmodels.models import ContextSpec
from pixelmodels.models.context_images import factor_between, sub_sampled
from pixelmodels.models.turns import check_num_orders
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec


def context_spec(recipe: Recipe, dataset: Dataset) -> ContextSpec:
    """The kinds of context of a run's model; raises `UserError` where the data set does not have what the recipe asks for."""
    found = context_of_kinds(recipe, dataset.name, dataset.spec, dataset.num_classes, dataset.vector_size)
    if not found.num_classes:
        return found
    check_labels(dataset, SPLITS, "train without --condition-on label")
    return dataclasses.replace(found, class_names=dataset.label_names)


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
        sampled = sub_sampled(spec, factor)
        least = factor_between(spec.shape[1:], sampled.shape[1:])
        if least < factor:  # the pixels of a given image are told by its size
            sizes = f"{spec.height}x{spec.width}, of which small_factor {factor} leaves {sampled.height}x{sampled.width}, as {least} does"
            raise _lacks(recipe, name, "small", f"has images of {sizes}; give --small-factor {least}")
    check_num_orders(recipe.orders, spec, f"train recipe '{recipe.name}' with --orders 4, 2 or 1, or on square images")
    return ContextSpec(
        num_classes if "label" in kinds else 0, vector_size if "vector" in kinds else 0, image, sampled, num_orders=recipe.orders
    )


def _lacks(recipe: Recipe, name: str, kind: str, what: str) -> UserError:
    return UserError(
        f"recipe '{recipe.name}' is conditioned on '{kind}' and data set '{name}' {what}, or train without --condition-on {kind}"
    )
