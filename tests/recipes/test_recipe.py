"""Recipes go to JSON and back, refuse nonsense, and name their runs."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from pixelmodels.errors import UserError
from pixelmodels.models import ARCHITECTURES, architecture_of
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe, run_key
from pixelmodels.recipes.suites import AS_LISTED, SUITES, suite
from pixelmodels.training.options import TrainAll
from tests.training.tiny_run import tiny_recipe


@pytest.mark.parametrize("name", SUITES)
def test_every_recipe_of_every_suite_comes_back_from_json(name: str) -> None:
    for recipe in suite(name):
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("name", sorted(SUITES.keys() - set(AS_LISTED)))
def test_every_suite_has_every_registered_architecture(name: str) -> None:
    recipes = suite(name)
    assert {architecture_of(recipe.model) for recipe in recipes} == set(ARCHITECTURES)
    assert len({recipe.name for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize(("name", "kind"), [("colorization", "grey"), ("super_resolution", "small"), ("digits_by_class", "label")])
def test_suites_of_conditioning_compare_a_recipe_with_itself(name: str, kind: str) -> None:
    without, given = suite(name)
    assert without.condition_on == () and given.condition_on == (kind,)
    assert dataclasses.replace(given, name=without.name, condition_on=()) == without


def test_run_key_changes_with_everything_that_can_change_the_result() -> None:
    recipe = tiny_recipe()
    changed = [
        dataclasses.replace(recipe, seed=1),
        dataclasses.replace(recipe, epochs=4),
        dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, learning_rate=2e-2)),
        dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_features=8)),
        dataclasses.replace(recipe, condition_on=()),
        dataclasses.replace(recipe, small_factor=4),
        dataclasses.replace(recipe, context_drop_rate=0.2),
    ]
    keys = [run_key(recipe, "a"), run_key(recipe, "b"), *(run_key(one, "a") for one in changed)]
    assert len(set(keys)) == len(keys)
    assert run_key(tiny_recipe(), "a") == keys[0]


def test_the_factor_of_the_command_line_is_that_of_recipes_with_a_small_image() -> None:
    without, given = TrainAll(suite="super_resolution", small_factor=4).recipes()
    assert (without, dataclasses.replace(given, small_factor=2)) == suite("super_resolution") and given.small_factor == 4
    options = TrainAll(condition_on=("grey", "small"), small_factor=3, exclude=("multiscale_pixelrnn",))
    assert {recipe.small_factor for recipe in options.recipes()} == {3}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("epochs",), "three", ("recipe.epochs", "'three'", "int")),
        (("epochs",), True, ("recipe.epochs",)),
        (("epoch",), 3, ("'epoch'", "epochs")),
        (("optimizer", "schedule"), "linear", ("'linear'", "cosine")),
        (("optimizer", "betas"), [0.9], ("betas",)),
        (("model", "architecture"), "pixelcn", ("'pixelcn'", "pixelcnn")),
        (("model", "config"), {"layers": 3}, ("'layers'", "num_layers")),
        (("batch_size",), 0, ("batch_size", "0")),
        (("condition_on",), ["lable"], ("condition_on", "'lable'", "grey, label, small, vector", "did you mean 'label'")),
        (("condition_on",), ["label", "label"], ("label, label", "once")),
        (("small_factor",), 1, ("small_factor is 1", "2 or more")),
        (("context_drop_rate",), 1.0, ("context_drop_rate is 1.0", "less than 1")),
        (("context_drop_rate",), -0.1, ("context_drop_rate is -0.1",)),
    ],
)
def test_nonsense_is_refused_by_name(path: tuple[str, ...], value: object, words: tuple[str, ...]) -> None:
    values = json.loads(json.dumps(tiny_recipe().to_dict()))
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(UserError) as error:
        Recipe.from_dict(values)
    for word in words:
        assert word in str(error.value)


def test_schedules_warm_up_and_decay_by_step() -> None:
    cosine = OptimizerConfig(learning_rate=1.0, warmup_steps=4, schedule="cosine")
    assert [cosine.learning_rate_at(step, 104) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine.learning_rate_at(54, 104) == pytest.approx(0.5)
    assert cosine.learning_rate_at(104, 104) == pytest.approx(0.0)
    exponential = OptimizerConfig(learning_rate=1.0, warmup_steps=0, schedule="exponential", decay=0.99)
    assert exponential.learning_rate_at(10, 100) == pytest.approx(math.pow(0.99, 10))
    assert OptimizerConfig(learning_rate=1.0, warmup_steps=0, schedule="constant").learning_rate_at(99, 100) == 1.0


@pytest.mark.parametrize("name", ["a" * 243, "é" * 122, "漢" * 81])
def test_a_name_that_is_too_long_for_a_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"has {len(name)} letters, too many for a folder; give at most 242") as told:
        tiny_recipe(name=name)
    assert len(str(told.value)) < 200
    assert tiny_recipe(name=name[:80]).name == name[:80]


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [
        (3, 2, [2, 3]),
        (20, 1, [*range(1, 21)]),
        (21, 1, [*range(2, 21, 2), 21]),
        (500, 1, [*range(25, 501, 25)]),
        (100, 30, [30, 60, 90, 100]),
    ],
)
def test_grids_are_drawn_as_often_as_told_and_twenty_times_at_most(epochs: int, every: int, expected: list[int]) -> None:
    recipe = tiny_recipe(epochs=epochs, sample_every=every, num_samples=4)
    assert [epoch for epoch in range(1, epochs + 1) if recipe.draws_grid(epoch)] == expected
    assert not any(dataclasses.replace(recipe, num_samples=0).draws_grid(epoch) for epoch in range(1, epochs + 1))
