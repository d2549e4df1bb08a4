"""Suites: named lists of recipes. A new one is a file here and a line in `SUITES`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module

from pixelmodels.errors import unknown
from pixelmodels.models import ARCHITECTURES, architecture_of, config_class
from pixelmodels.training.recipes import Recipe

SUITES = {
    "digits": "pixelmodels.training.suites.digits:recipes",
    "photos": "pixelmodels.training.suites.photos:recipes",
}


def suite(name: str) -> tuple[Recipe, ...]:
    """The recipes of a suite: its own, and one for each registered architecture that it does not list.

    Such a default has the architecture's own hyperparameters and everything else of the suite's first recipe.
    Raises `UserError` for an unknown name.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    module, _, attribute = SUITES[name].partition(":")
    make: Callable[[], tuple[Recipe, ...]] = getattr(import_module(module), attribute)
    listed = make()
    seen = {architecture_of(recipe.model) for recipe in listed}
    defaults = (dataclasses.replace(listed[0], name=other, model=config_class(other)()) for other in ARCHITECTURES if other not in seen)
    return (*listed, *defaults)
