"""`super_resolution`: the photos' patches, and the same given every second pixel of every second row."""

from __future__ import annotations

import dataclasses

from pixelmodels.training.recipes import Recipe
from pixelmodels.training.suites import photos


def recipes() -> tuple[Recipe, ...]:
    """The recipes of the suite: unconditional and conditional, all else the same."""
    unconditional = photos.with_more_steps()
    return unconditional, dataclasses.replace(unconditional, name="gated_pixelcnn_super_resolution", condition_on=("small",))
