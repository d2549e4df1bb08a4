"""`super_resolution`: the photos' patches, and the same given every second pixel of every second row."""

from __future__ import annotations

import dataclasses

from pixelmodels.training.recipes import Recipe
from pixelmodels.training.suites import photos


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite: unconditional and conditional, all else the same."""
    unconditional = next(recipe for recipe in photos.recipes() if recipe.name == "gated_pixelcnn")
    conditional = dataclasses.replace(unconditional, name="gated_pixelcnn_super_resolution", condition_on=("small",), small_factor=2)
    return unconditional, conditional
