"""`docs/recipes.md` and `docs/scaling.md` are what their script makes now, and the bytes that it has stored are those of the models."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from pixelmodels.recipes.suites import PUBLISHED, published
from pixelmodels.training.cost import Activations, cost

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipes_page", DOCS / "recipes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_makes(script: ModuleType) -> None:
    assert (DOCS / "recipes.md").read_text() == script.page(script.stored)
    assert (DOCS / "scaling.md").read_text() == script.scaling_page(script.stored)


def test_every_recipe_is_stored_and_no_other() -> None:
    names = {f"{name}/{entry.recipe.name}" for name in PUBLISHED if (found := published(name)) is not None for entry in found.entries}
    assert set(json.loads((DOCS / "recipes.json").read_text())) == names


@pytest.mark.parametrize("name", ["mnist_fixed/pixelcnn", "cifar10/gated_pixelcnn"])
def test_stored_bytes_are_those_of_the_model(name: str) -> None:
    suite_name, _, recipe_name = name.partition("/")
    found = published(suite_name)
    assert found is not None
    spent = cost(found.entry(recipe_name).recipe, found.data.image)
    stored = json.loads((DOCS / "recipes.json").read_text())[name]
    assert {field.name: getattr(spent, field.name) for field in dataclasses.fields(Activations)} == stored
