"""Suites: named lists of recipes. A new one is a line in `SUITES` or `PUBLISHED`, and one in `ABLATIONS` where it has an ablation."""

from __future__ import annotations

import dataclasses

from pixelmodels.errors import UserError, unknown
from pixelmodels.models import ARCHITECTURES, architecture_of, config_class
from pixelmodels.plain import load
from pixelmodels.recipes.ablation import Ablation
from pixelmodels.recipes.papers import PublishedSuite
from pixelmodels.recipes.recipe import Recipe

PUBLISHED = {  # suites of papers' recipes, with their numbers
    "mnist_fixed": "pixelmodels.recipes.suites.mnist:MNIST_FIXED",
    "mnist_dynamic": "pixelmodels.recipes.suites.mnist:MNIST_DYNAMIC",
    "cifar10": "pixelmodels.recipes.suites.cifar10:CIFAR10",
    "imagenet32": "pixelmodels.recipes.suites.imagenet:IMAGENET32",
    "imagenet64": "pixelmodels.recipes.suites.imagenet:IMAGENET64",
}
SUITES = {
    "colorization": "pixelmodels.recipes.suites.photos:colorization",
    "digits": "pixelmodels.recipes.suites.digits:recipes",
    "digits_by_class": "pixelmodels.recipes.suites.digits:by_class",
    "mnist_small": "pixelmodels.recipes.suites.mnist_small:recipes",
    "photos": "pixelmodels.recipes.suites.photos:recipes",
    "super_resolution": "pixelmodels.recipes.suites.photos:super_resolution",
    **{name: f"{place}.recipes" for name, place in PUBLISHED.items()},
}
ABLATIONS = {"digits": "pixelmodels.recipes.suites.digits:improvements"}
AS_LISTED = (
    *PUBLISHED,
    "colorization",
    "digits_by_class",
    "mnist_small",
    "super_resolution",
)  # suites without defaults for other architectures


def suite(name: str) -> tuple[Recipe, ...]:
    """The recipes of a suite: its own and, unless it is one of `AS_LISTED`, one for each registered architecture that it does not list.

    Such a default has the architecture's own hyperparameters and everything else of the suite's first recipe.
    Raises `UserError` for an unknown name.
    """
    listed: tuple[Recipe, ...] = load(SUITES, name, "suite")()
    if name in AS_LISTED:
        return listed
    seen = {architecture_of(recipe.model) for recipe in listed}
    defaults = (dataclasses.replace(listed[0], name=other, model=config_class(other)()) for other in ARCHITECTURES if other not in seen)
    return (*listed, *defaults)


def ablations_of(name: str) -> tuple[Ablation, ...]:
    """The improvements that a suite compares; raises `UserError` for an unknown name and for a suite without an ablation."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    if name not in ABLATIONS:
        raise UserError(f"suite '{name}' has no ablation; have {', '.join(sorted(ABLATIONS))}, or leave out --ablation")
    made: tuple[Ablation, ...] = load(ABLATIONS, name, "suite")()
    return made


def published(name: str) -> PublishedSuite | None:
    """The papers' numbers and data of a suite of `PUBLISHED`, else None."""
    return load(PUBLISHED, name, "suite") if name in PUBLISHED else None
