"""Search spaces: what a sweep may change in a recipe, asked for one parameter after the other, so that later ones depend on earlier ones.

A space says for each parameter its name, the default recipe's value and a range about it. So the same lines draw a recipe (from
Optuna, trial by trial), build it again from values on record, and give the values that stand for the default recipe itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import optuna

from pixelmodels.errors import UserError, unknown
from pixelmodels.likelihoods import LikelihoodConfig, likelihood_class
from pixelmodels.models import architecture_class, architecture_of
from pixelmodels.plain import load
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec

Value = bool | int | float | str
Values = dict[str, Value]  # of the parameters that were asked for, by name
Option = TypeVar("Option", bool, int, float, str)
MIXTURE = "discretized_logistic_mixture"


class Ask:
    """Where a space's values come from: an Optuna trial (or any object with its `suggest_*`), or the defaults where there is none."""

    def __init__(self, trial: Any = None, prefix: str = "", values: Values | None = None) -> None:
        self.values: Values = {} if values is None else values  # what was answered so far
        self._trial, self._prefix = trial, prefix

    def under(self, prefix: str) -> Ask:
        """The same, for parameters whose names begin with `prefix.`: an architecture's own."""
        return Ask(self._trial, f"{self._prefix}{prefix}.", self.values)

    def count(self, name: str, default: int, *, least: int = 1) -> int:
        """A whole number from half to twice the default, in steps of about a quarter of it."""
        step = max(1, default // 4)
        low = default - step * (max(0, default - max(least, default // 2)) // step)
        high = default + step * (default // step)
        return int(self._answer("suggest_int", name, default, low, high, step=step))

    def real(self, name: str, default: float, low: float, high: float, *, log: bool = False) -> float:
        """A number of a range, which is widened where the default lies outside."""
        return float(self._answer("suggest_float", name, default, min(low, default), max(high, default), log=log))

    def choice(self, name: str, default: Option, options: Sequence[Option]) -> Option:
        """One of some options, the default among them."""
        every = [*options, *([] if default in options else [default])]
        answer: Option = self._answer("suggest_categorical", name, default, every)
        return answer

    def _answer(self, suggest: str, name: str, default: Any, *limits: Any, **how: Any) -> Any:
        full = self._prefix + name
        self.values[full] = default if self._trial is None else getattr(self._trial, suggest)(full, *limits, **how)
        return self.values[full]


class Defaults:
    """The recipes that a sweep starts from: a suite's, one for each architecture."""

    def __init__(self, recipes: Sequence[Recipe], first: str | None = None) -> None:
        """`first`, the recipe that comes first in a space that it fits."""
        if first is not None and first not in (names := [recipe.name for recipe in recipes]):
            raise unknown("recipe", first, names)
        self.recipes = tuple(sorted(recipes, key=lambda recipe: recipe.name != first))
        self.first = self.recipes[0]
        self._by_architecture = {architecture_of(recipe.model): recipe for recipe in reversed(self.recipes)}

    def of(self, architecture: str) -> Recipe:
        """The recipe of an architecture; raises `UserError` where the suite has none."""
        if architecture not in self._by_architecture:
            have = ", ".join(sorted(self._by_architecture))
            raise UserError(f"the suite has no recipe of architecture '{architecture}' to start from; it has {have}: give another --suite")
        return self._by_architecture[architecture]


class SearchSpace(Protocol):
    """What a sweep may change; a file in `tune_spaces/` and a line in its table."""

    architectures: ClassVar[tuple[str, ...]]  # those of its recipes, the one to begin with first; none: whatever the suite's recipe has

    def recipe(self, ask: Ask, defaults: Defaults, images: ImageSpec) -> Recipe:
        """A recipe of the space for images of a shape, by what `ask` answers."""
        ...


def load_space(name: str, table: Mapping[str, str]) -> SearchSpace:
    """The space that a table has under a name; raises `UserError` with the choices."""
    space: SearchSpace = load(table, name, "space")()
    return space


def from_values(space: SearchSpace, defaults: Defaults, images: ImageSpec, values: Values) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that values on record stand for, and Optuna's distribution of each; raises `ValueError` where the space has changed."""
    fixed = optuna.trial.FixedTrial(values)
    ask = Ask(fixed)
    recipe = space.recipe(ask, defaults, images)
    if ask.values != values:
        raise ValueError(f"the space asks for {', '.join(sorted(ask.values))}")
    return recipe, fixed.distributions


# ---- parts that several spaces share


def ask_likelihood(ask: Ask, recipe: Recipe, images: ImageSpec) -> LikelihoodConfig:
    """The likelihood as a choice among those that fit model and images; the number of mixtures where the mixture is chosen."""
    orders = architecture_class(architecture_of(recipe.model)).orders_channels
    fitting = [name for name in ("categorical", MIXTURE) if images.channels == 1 or orders or likelihood_class(name).orders_channels]
    name = ask.choice("likelihood", recipe.likelihood.name if recipe.likelihood.name in (*fitting, "bernoulli") else fitting[0], fitting)
    return ask_mixtures(ask, dataclasses.replace(recipe.likelihood, name=name))


def ask_mixtures(ask: Ask, likelihood: LikelihoodConfig) -> LikelihoodConfig:
    """The number of mixtures, if there are any."""
    if likelihood.name != MIXTURE:
        return likelihood
    return dataclasses.replace(likelihood, num_mixtures=ask.count("num_mixtures", likelihood.num_mixtures, least=2))


def ask_dropout(ask: Ask, default: float) -> float:
    """The rate of dropout."""
    return ask.real("dropout", default, 0.0, 0.5)
