"""Suites: named lists of recipes. A new one is a file here and a line in `SUITES` (and one in `ABLATIONS` where it has an ablation)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module

from pixelmodels.errors import UserError, unknown
from pixelmodels.models import ARCHITECTURES, architecture_of, config_class
from pixelmodels.training.ablation import Ablation
from pixelmodels.training.published import PublishedSuite
from pixelmodels.training.recipes import Recipe

SUITES = {
    "cifar10": "pixelmodels.training.suites.cifar10:recipes",
    "colorization": "pixelmodels.training.suites.colorization:recipes",
    "digits": "pixelmodels.training.suites.digits:recipes",
    "digits_by_class": "pixelmodels.training.suites.digits_by_class:recipes",
    "imagenet32": "pixelmodels.training.suites.imagenet32:recipes",
    "imagenet64": "pixelmodels.training.suites.imagenet64:recipes",
    "mnist_dynamic": "pixelmodels.training.suites.mnist_dynamic:recipes",
    "mnist_fixed": "pixelmodels.training.suites.mnist_fixed:recipes",
    "photos": "pixelmodels.training.suites.photos:recipes",
    "super_resolution": "pixelmodels.training.suites.super_resolution:recipes",
}
ABLATIONS = {"digits": "pixelmodels.training.suites.digits:improvements"}
PUBLISHED = ("mnist_fixed", "mnist_dynamic", "cifar10", "imagenet32", "imagenet64")  # suites of papers' recipes, with their numbers
AS_LISTED = (*PUBLISHED, "colorization", "digits_by_class", "super_resolution")  # suites without defaults for other architectures


def suite(name: str) -> tuple[Recipe, ...]:
    """The recipes of a suite: its own and, unless it is one of `AS_LISTED`, one for each registered architecture that it does not list.

    Such a default has the architecture's own hyperparameters and everything else of the suite's first recipe.
    Raises `UserError` for an unknown name.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    module, _, attribute = SUITES[name].partition(":")
    make: Callable[[], tuple[Recipe, ...]] = getattr(import_module(module), attribute)
    listed = make()
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
    module, _, attribute = ABLATIONS[name].partition(":")
    make: Callable[[], tuple[Ablation, ...]] = getattr(import_module(module), attribute)
    return make()


def published(name: str) -> PublishedSuite | None:
    """The papers' numbers and data of a suite of `PUBLISHED`, else None."""
    if name not in PUBLISHED:
        return None
    found: PublishedSuite = import_module(SUITES[name].partition(":")[0]).PUBLISHED
    return found
