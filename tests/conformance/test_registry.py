"""The tables name every file of their folder, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass

import pytest

import pixelmodels.likelihoods
import pixelmodels.models
from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LIKELIHOODS, Likelihood, LikelihoodConfig
from pixelmodels.likelihoods.base import Likelihood as LikelihoodBase
from pixelmodels.models import ARCHITECTURES, PixelModel, architecture_class, architecture_of, build, config_class
from pixelmodels.shapes import ImageSpec
from tests.conformance.conftest import PAIRS, small_config


def defined_in(package, base: type, states: str = "__module__") -> set[str]:
    """`module:Class` of every subclass of `base` that a module of the package defines, and that states an attribute itself."""
    found = set()
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        module = importlib.import_module(info.name)
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, base) and value is not base and value.__module__ == info.name and states in vars(value):
                found.add(f"{info.name}:{name}")
    return found


def test_every_architecture_is_registered():
    assert defined_in(pixelmodels.models, PixelModel, states="config_class") == set(ARCHITECTURES.values())


def test_every_likelihood_is_registered():
    assert defined_in(pixelmodels.likelihoods, LikelihoodBase) == set(LIKELIHOODS.values())
    assert Likelihood is LikelihoodBase


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_config_is_a_frozen_dataclass_of_its_own(name):
    kind = config_class(name)
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen and fields(kind)
    assert architecture_of(kind()) == name


def test_every_architecture_has_a_likelihood_for_grey_and_for_colour():
    assert {(a, c) for a, _, c in PAIRS} == {(a, c) for a in ARCHITECTURES for c in (1, 3)}


def test_a_pair_where_nobody_orders_the_channels_is_refused(monkeypatch):
    for architecture in ARCHITECTURES:
        monkeypatch.setattr(architecture_class(architecture), "orders_channels", False)
        with pytest.raises(UserError, match=r"'categorical' does not order the 3 channels and neither does"):
            build(small_config(architecture), ImageSpec(3, 2, 2, 4), LikelihoodConfig("categorical"))
        build(small_config(architecture), ImageSpec(3, 2, 2, 4), LikelihoodConfig("discretized_logistic_mixture"))


def test_configs_that_make_no_sense_are_refused():
    for architecture in ARCHITECTURES:
        kind = config_class(architecture)
        names = {field.name for field in fields(kind)}
        wrong = {"num_layers": -3, "num_features": 0, "kernel_size": 4, "dropout": 2.0, "factor": 1}
        assert names & set(wrong)
        for name in names & set(wrong):
            with pytest.raises(UserError, match=name):
                kind(**{name: wrong[name]})
        if "num_features" in names and architecture_class(architecture).orders_channels:
            with pytest.raises(UserError, match="cannot be split into 3 groups"):
                build(kind(num_features=1), ImageSpec(3, 2, 2, 4), LikelihoodConfig("categorical"))


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(UserError, match=r"model 'pixlcnn' unknown; have .*pixelcnn.*did you mean 'pixelcnn'"):
        config_class("pixlcnn")
    config = small_config("pixelcnn")
    with pytest.raises(UserError, match=r"likelihood 'mixx' unknown; have bernoulli, categorical, discretized_logistic_mixture"):
        build(config, ImageSpec(1, 2, 2, 2), LikelihoodConfig("mixx"))
    with pytest.raises(UserError, match=r"'bernoulli' is for images of 2 levels, these have 17"):
        build(config, ImageSpec(1, 2, 2, 17), LikelihoodConfig("bernoulli"))
