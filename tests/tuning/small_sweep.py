"""A space of three tiny recipes, one of which cannot but fail; as a program, `pipelines/tune.py` with it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pipelines import tune
from pixelmodels.errors import exit_with
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.recipes import Recipe
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


def main(argv: list[str] | None = None) -> int:
    """`pipelines/tune.py` with the small space and suite in the tables."""
    SPACES["small"] = f"{Small.__module__}:Small"
    try:
        with small_suites.registered():
            return tune.main(argv)
    finally:
        del SPACES["small"]


if __name__ == "__main__":
    exit_with(main)
