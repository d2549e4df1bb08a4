"""Published recipes: what is known of them is told, and what the papers leave open is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import published as check_published
from pixelmodels.data.sources import SOURCES
from pixelmodels.errors import UserError
from pixelmodels.models import architecture_of, build
from pixelmodels.recipes.papers import Published, PublishedData
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.recipes.suites import PUBLISHED, published, suite

ENTRIES: list[tuple[str, PublishedData, Published]] = [
    (name, found.data, entry) for name in PUBLISHED if (found := published(name)) is not None for entry in found.entries
]
EACH = pytest.mark.parametrize(("name", "data", "entry"), ENTRIES, ids=[f"{name}-{entry.recipe.name}" for name, _, entry in ENTRIES])


def has_field(recipe: Recipe, path: str) -> bool:
    """Whether a recipe has a field: `epochs`, `model.dropout`, or `model.*` for all of a part's."""
    value: object = recipe
    for name in path.removesuffix(".*").split("."):
        if not dataclasses.is_dataclass(value) or name not in {field.name for field in dataclasses.fields(value)}:
            return False
        value = getattr(value, name)
    return True


def test_suites_have_what_was_published_and_nothing_else() -> None:
    names = {name: [recipe.name for recipe in suite(name)] for name in PUBLISHED}
    assert {name: set(recipes) for name, recipes in names.items()} == {
        "mnist_fixed": {"pixelcnn", "pixelrnn_diagonal_bilstm"},
        "mnist_dynamic": {"pixelcnn", "gated_pixelcnn", "pixelsnail"},
        "cifar10": {
            "pixelcnn",
            "pixelrnn_row_lstm",
            "pixelrnn_diagonal_bilstm",
            "gated_pixelcnn",
            "pixelcnn_pp",
            "pixelcnn_pp_conditional",
            "pixelsnail",
        },
        "imagenet32": {"pixelrnn_row_lstm", "gated_pixelcnn", "gated_pixelcnn_conditional", "pixelsnail"},
        "imagenet64": {"pixelrnn_row_lstm", "multiscale_pixelrnn", "gated_pixelcnn", "gated_pixelcnn_conditional", "pixelsnail"},
    }
    assert all(len(set(recipes)) == len(recipes) for recipes in names.values())
    assert published("digits") is None


@pytest.mark.parametrize(
    ("name", "plain"), [("cifar10", "pixelcnn_pp"), ("imagenet32", "gated_pixelcnn"), ("imagenet64", "gated_pixelcnn")]
)
def test_a_conditional_entry_is_the_unconditional_one_given_the_class(name: str, plain: str) -> None:
    found = published(name)
    assert found is not None
    given = found.entry(f"{plain}_conditional")
    assert dataclasses.replace(given.recipe, name=plain, condition_on=()) == found.entry(plain).recipe
    assert given.recipe.condition_on == ("label",) and "context_drop_rate" in given.gaps
    assert found.data.context(given.recipe).num_classes == found.data.num_classes > 0
    assert given.value == (2.94 if name == "cifar10" else None)


@EACH
def test_every_gap_names_a_field_and_every_open_field_is_named_once(name: str, data: PublishedData, entry: Published) -> None:
    told = (*entry.gaps, *entry.unverified)
    assert len(set(told)) == len(told)
    for path in told:
        assert has_field(entry.recipe, path), path
    assert "epochs" in told or "reproduction" in entry.note


@EACH
def test_recipes_fit_their_data(name: str, data: PublishedData, entry: Published) -> None:
    config = entry.recipe.dataset
    assert config.source in SOURCES and config.path is None
    assert entry.recipe.name.startswith(architecture_of(entry.recipe.model))
    assert 0 < data.num_training(entry.recipe) <= data.num_train
    assert (entry.unit == "nats") == (data.image.levels == 2)
    if entry.parameters is not None:
        model = build(entry.recipe.model, data.image, entry.recipe.likelihood, data.context(entry.recipe))
        assert model.num_parameters == entry.parameters


def test_a_record_is_never_written_over_by_another_kind_of_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*arguments: str) -> dict[str, dict[str, dict[str, object]]]:
        assert check_published.main(["--out", str(tmp_path), *arguments]) == 0
        return {path.stem.partition("-")[2][11:]: json.loads(path.read_text())["recipes"] for path in tmp_path.iterdir()}

    def found(name: str, precision: str = "float32", run: int = 1) -> dict[str, object]:
        return {"ok": True, "name": name, "precision": precision, "run": run}

    run = 1
    monkeypatch.setattr(check_published, "entries", lambda: {"a": None, "b": None})
    monkeypatch.setattr(check_published, "check_apart", lambda name, arguments: found(name, arguments.precision, run))
    whole = {"a": found("a"), "b": found("b")}
    assert check() == {"": whole}
    run = 2
    assert check("--only", "b", "--precision", "bfloat16") == {"": whole, "bfloat16": {"b": found("b", "bfloat16", 2)}}
    whole["b"] = found("b", run=2)
    assert check("--only", "b")[""] == whole
    monkeypatch.setattr(torch, "__version__", "0.1")
    for arguments in ([], ["--only", "a"]):
        with pytest.raises(UserError, match=r"is of torch .*, here 0\.1, and is not written over; move it away, or give another --out"):
            check("--precision", "float32", *arguments)
    monkeypatch.undo()
    (path,) = (path for path in tmp_path.iterdir() if "bfloat16" not in path.name)
    assert json.loads(path.read_text())["recipes"] == whole
