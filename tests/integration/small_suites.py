"""Suites that train in seconds; as a program, `pipelines/train_all.py` with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import train_all
from pixelmodels.errors import exit_with
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.recipes import suites
from pixelmodels.recipes.ablation import Ablation
from pixelmodels.recipes.recipe import Recipe


def small() -> tuple[Recipe, ...]:
    """The digits' pixelcnn, made small."""
    digits = suites.suite("digits")[0]
    model = PixelCNNConfig(num_layers=1, num_features=8, first_kernel_size=3, head_features=8, dropout=0.1)
    return (dataclasses.replace(digits, model=model, epochs=3, num_samples=4, sample_every=2),)


def improvements() -> tuple[Ablation, ...]:
    """One improvement of the small suite's recipe."""
    (recipe,) = small()
    without = dataclasses.replace(recipe, name="pixelcnn-without-dropout", model=dataclasses.replace(recipe.model, dropout=0.0))
    return (Ablation("dropout", "rate 0.1, or 0", recipe, without),)


def pair() -> tuple[Recipe, ...]:
    """Two recipes of which the second cannot but fail."""
    fine = dataclasses.replace(small()[0], name="fine", epochs=1)
    broken = dataclasses.replace(fine.optimizer, learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
    return fine, dataclasses.replace(fine, name="broken", optimizer=broken)


@contextmanager
def registered() -> Iterator[None]:
    """The suites known to this process, for a while."""
    suites.SUITES.update(small=f"{small.__module__}:small", pair=f"{pair.__module__}:pair")
    suites.ABLATIONS.update(small=f"{improvements.__module__}:improvements")
    try:
        yield
    finally:
        del suites.SUITES["small"], suites.SUITES["pair"], suites.ABLATIONS["small"]


if __name__ == "__main__":
    with registered():
        exit_with(train_all.main)
