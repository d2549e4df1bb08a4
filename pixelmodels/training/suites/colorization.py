"""`colorization`: the photos' patches, and the same given the patches without their colours."""

from __future__ import annotations

import dataclasses

from pixelmodels.training.recipes import Recipe
from pixelmodels.training.suites import photos


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite: unconditional and conditional, all else the same."""
    unconditional = photos.with_more_steps()
    return unconditional, dataclasses.replace(unconditional, name="gated_pixelcnn_colorization", condition_on=("grey",))
