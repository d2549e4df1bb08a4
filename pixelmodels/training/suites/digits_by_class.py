"""`digits_by_class`: the digits, and the same given their class."""

from __future__ import annotations

import dataclasses

from pixelmodels.training.recipes import Recipe
from pixelmodels.training.suites import digits


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite: unconditional and conditional, all else the same."""
    unconditional = next(recipe for recipe in digits.recipes() if recipe.name == "gated_pixelcnn")
    return unconditional, dataclasses.replace(unconditional, name="gated_pixelcnn_by_class", condition_on=("label",))
