"""Spaces of a few tiny recipes, with one that cannot but fail or learns nothing; as a program, `pipelines/tune.py` with them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pipelines import tune
from pixelmodels.errors import exit_with
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.space import Ask, Defaults
from tests.integration import small_suites
from tune_spaces import SPACES

KINDS = ("fine", "broken", "deep")


class Small:
    """One choice, and a parameter that only one answer has."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelcnn",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        default = defaults.of("pixelcnn")
        kind = ask.choice("kind", "fine", KINDS)
        if kind == "broken":
            optimizer = dataclasses.replace(default.optimizer, learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
            return dataclasses.replace(default, optimizer=optimizer)
        if kind == "deep":
            model = dataclasses.replace(default.model, num_layers=2, num_features=ask.choice("num_features", 8, (8,)))
            return dataclasses.replace(default, model=model)
        return default


class Idle:
    """The default recipe, or the same that does not learn."""

    architectures: ClassVar[tuple[str, ...]] = ("pixelcnn",)

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        default = defaults.of("pixelcnn")
        optimizer = dataclasses.replace(default.optimizer, learning_rate=1e-12)
        return default if ask.choice("learns", True, (True, False)) else dataclasses.replace(default, optimizer=optimizer)


def main(argv: list[str] | None = None) -> int:
    """`pipelines/tune.py` with the small spaces and suite in the tables."""
    own = {kind.__name__.lower(): f"{kind.__module__}:{kind.__name__}" for kind in (Small, Idle)}
    SPACES.update(own)
    try:
        with small_suites.registered():
            return tune.main(argv)
    finally:
        for name in own:
            del SPACES[name]


if __name__ == "__main__":
    exit_with(main)
