"""What every architecture's config is held to, by the names of its fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pixelmodels.errors import UserError


def check_config(config: Any) -> None:
    """`UserError` for a count below 1, a kernel without a middle, or a dropout that is not a share."""
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if name.endswith("kernel_size") and (value < 3 or value % 2 == 0):
            raise UserError(f"{name} {value} has no middle; give an odd number from 3")
        if (name.startswith("num_") or name.endswith("_features")) and value < 1:
            raise UserError(f"{name} {value} is too small; give 1 or more")
        if name == "dropout" and not 0 <= value < 1:
            raise UserError(f"dropout {value} is not a share; give 0 or more, less than 1")
