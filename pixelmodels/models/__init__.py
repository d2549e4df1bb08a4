"""Architectures: each is a file here with its config, and a line in `ARCHITECTURES` (`registry`)."""

from __future__ import annotations

from pixelmodels.models.base import PixelModel, active_flops_per_image
from pixelmodels.models.context import Context, ContextBlend, ContextSpec
from pixelmodels.models.registry import (
    ARCHITECTURES,
    architecture_class,
    architecture_of,
    build,
    config_class,
    config_from_plain,
    config_to_plain,
    describe,
    from_description,
)

__all__ = [
    "ARCHITECTURES",
    "Context",
    "ContextBlend",
    "ContextSpec",
    "PixelModel",
    "active_flops_per_image",
    "architecture_class",
    "architecture_of",
    "build",
    "config_class",
    "config_from_plain",
    "config_to_plain",
    "describe",
    "from_description",
]
