"""Search spaces: registered, valid wherever they draw, conditional where they say so, and around the suite's own recipe."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import optuna
import pytest
import torch

import tune_spaces
from pixelmodels.errors import UserError
from pixelmodels.models import architecture_of, build
from pixelmodels.recipes.suites import suite
from pixelmodels.shapes import ImageSpec
from pixelmodels.tuning.options import Tune
from pixelmodels.tuning.space import MIXTURE, Ask, Defaults, from_values, load_space
from pixelmodels.tuning.tune import defaults_of
from tune_spaces import SPACES

SUITE_OF = {1: "digits", 3: "photos"}  # by channels
NUM_DRAWS = 8


def images(channels: int) -> ImageSpec:
    return ImageSpec(channels, 8, 8, 17)


def defaults(channels: int, first: str | None = None) -> Defaults:
    return Defaults(suite(SUITE_OF[channels]), first)


def draws(space, channels: int, count: int, seed: int = 0):
    """Recipes with the values that Optuna drew for them, and its own trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        trial = study.ask()
        ask = Ask(trial)
        yield space.recipe(ask, defaults(channels), images(channels)), ask.values, trial


def test_every_file_is_registered():
    found = set()
    for info in pkgutil.iter_modules(tune_spaces.__path__, "tune_spaces."):
        module = importlib.import_module(info.name)
        found |= {
            f"{info.name}:{name}"
            for name, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__ == info.name and hasattr(value, "recipe")
        }
    assert found == set(SPACES.values())
    assert {target.partition(":")[0] for target in SPACES.values()} == {
        info.name for info in pkgutil.iter_modules(tune_spaces.__path__, "tune_spaces.")
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_what_a_space_draws_can_be_built(name, channels):
    space, seen = load_space(name, SPACES), set()
    for recipe, values, trial in draws(space, channels, NUM_DRAWS):
        model = build(recipe.model, images(channels), recipe.likelihood)
        if model.num_parameters < 200_000:
            x_BCHW = torch.zeros(1, channels, 8, 8, dtype=torch.long)
            assert torch.isfinite(model.log_prob(x_BCHW)).all()
        assert values == trial.params
        assert type(recipe).from_dict(recipe.to_dict()) == recipe
        assert not space.architectures or architecture_of(recipe.model) in space.architectures
        seen.add(str(sorted(values.items())))
    assert len(seen) == NUM_DRAWS


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_values_on_record_give_the_same_recipe(name, channels):
    space = load_space(name, SPACES)
    for recipe, values, trial in draws(space, channels, 3, seed=1):
        again, distributions = from_values(space, defaults(channels), images(channels), values)
        assert again == recipe
        assert distributions == trial.distributions


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_the_default_recipe_is_in_the_space(name, channels):
    space = load_space(name, SPACES)
    options = Tune(space=name, suite=SUITE_OF[channels])
    base = defaults_of(space, suite(options.suite), options)
    if (name, channels) == ("pixelsnail", 3) or (name, channels) == ("architectures", 3):
        assert base.of("pixelsnail").likelihood.name == MIXTURE
    ask = Ask()
    assert space.recipe(ask, base, images(channels)) == base.first
    again, _ = from_values(space, base, images(channels), ask.values)
    assert again == base.first


def test_mixtures_are_asked_for_only_where_the_mixture_is_chosen():
    space, kinds = load_space("gated_pixelcnn", SPACES), set()
    for recipe, values, _ in draws(space, 1, 20):
        assert ("num_mixtures" in values) == (recipe.likelihood.name == MIXTURE)
        kinds.add(recipe.likelihood.name)
    assert kinds == {"categorical", MIXTURE}


def test_an_architecture_has_only_its_own_parameters():
    kinds = set()
    for recipe, values, _ in draws(load_space("architectures", SPACES), 1, 40):
        kind = architecture_of(recipe.model)
        kinds.add(kind)
        assert values["architecture"] == kind
        assert all(name.startswith(f"{kind}.") for name in values if name != "architecture")
    assert kinds == set(load_space("architectures", SPACES).architectures)


def test_the_decay_is_asked_for_only_of_the_schedule_that_has_one():
    for recipe, values, _ in draws(load_space("optimizer", SPACES), 1, 20):
        assert ("decay_a_step" in values) == (recipe.optimizer.schedule == "exponential")


def test_counts_lie_around_the_default_and_contain_it():
    for default in range(1, 200):
        trial = optuna.trial.FixedTrial({"n": default})
        assert Ask(trial).count("n", default, least=2) == default
        space = trial.distributions["n"]
        assert min(2, default) <= space.low <= default <= space.high <= 2 * default
        assert (default - space.low) % space.step == 0 and 4 * space.high >= 7 * default - 12


def test_unknown_spaces_and_starts_are_told_with_the_choices():
    with pytest.raises(UserError, match=r"space 'gated_cnn' unknown; have architectures, gated_pixelcnn, .*did you mean 'gated_pixelcnn'"):
        load_space("gated_cnn", SPACES)
    space = load_space("gated_pixelcnn", SPACES)
    with pytest.raises(UserError, match=r"recipe 'pixelcmn' unknown; have .*pixelcnn"):
        defaults_of(space, suite("digits"), Tune(start_from="pixelcmn"))
    with pytest.raises(UserError, match=r"--start-from pixelcnn is a recipe of pixelcnn, and space 'gated_pixelcnn' is of gated_pixelcnn"):
        defaults_of(space, suite("digits"), Tune(space="gated_pixelcnn", start_from="pixelcnn"))
    assert defaults_of(load_space("optimizer", SPACES), suite("digits"), Tune(start_from="pixelsnail")).first.name == "pixelsnail"
