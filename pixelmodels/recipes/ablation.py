"""Ablations: each improvement of the family switched by itself, everything else of the recipe as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.recipes.recipe import Recipe


@dataclass(frozen=True)
class Ablation:
    """One improvement: two recipes that differ in it, and in their names."""

    name: str  # of the improvement
    switches: str  # what is there with it, or else without it
    recipe_with: Recipe
    recipe_without: Recipe


def ablations(gated: Recipe, pp: Recipe) -> tuple[Ablation, ...]:
    """The improvements as switches of a `gated_pixelcnn` recipe with a softmax, and of a `pixelcnn_pp` recipe.

    Sources: gates, arXiv:1606.05328 (section 2.1); multi-scale, arXiv:1601.06759 (section 3.6); short-cuts, the discretized logistic
    loss and dropout, arXiv:1701.05517 (sections 2.1, 2.4, 2.5); weight normalization, arXiv:1602.07868.
    """
    mixture = dataclasses.replace(gated, name=f"{gated.name}-logistic-loss", likelihood=pp.likelihood)
    scales = MultiscalePixelRNNConfig(factor=2, small=gated.model, large=gated.model)
    multiscale = dataclasses.replace(gated, name=f"{gated.name}-multi-scale", model=scales)
    levels = f"a mixture of {mixture.likelihood.num_mixtures} discretized logistics, or a softmax over the levels"
    average = f"weights averaged with decay {gated.optimizer.average_decay:g}, or the last ones"
    warmup = f"a learning rate that grows over {gated.optimizer.warmup_steps} steps, or begins at the top"
    gates = "tanh x sigmoid of two maps for each feature, or a rectifier of one"
    gains = "directions and gains that the first images set, or plain weights"
    return (
        Ablation("multi-scale", "every second row and column first and the rest given them, or all pixels in order", multiscale, gated),
        Ablation("gated convolutions", gates, gated, _without(gated, "gating", "model", gating=False)),
        Ablation("discretized logistic loss", levels, mixture, gated),
        Ablation(
            "short-cut connections",
            "layers on the way up take in those on the way down, or not",
            pp,
            _without(pp, "shortcuts", "model", shortcuts=False),
        ),
        Ablation("weight normalization", gains, pp, _without(pp, "weight-norm", "model", weight_norm=False)),
        Ablation("dropout", f"rate {gated.model.dropout:g}, or 0", gated, _without(gated, "dropout", "model", dropout=0.0)),
        Ablation("Polyak averaging", average, gated, _without(gated, "polyak", "optimizer", average_decay=0.0)),
        Ablation("warm-up", warmup, gated, _without(gated, "warmup", "optimizer", warmup_steps=0)),
    )


def recipes_of(comparisons: Sequence[Ablation]) -> tuple[Recipe, ...]:
    """Every recipe that they compare, once."""
    return tuple(dict.fromkeys(recipe for one in comparisons for recipe in (one.recipe_with, one.recipe_without)))


def _without(recipe: Recipe, what: str, part: str, **changes: Any) -> Recipe:
    """The recipe under another name, with fields of one of its parts changed."""
    changed: Any = {part: dataclasses.replace(getattr(recipe, part), **changes)}
    return dataclasses.replace(recipe, name=f"{recipe.name}-without-{what}", **changed)
