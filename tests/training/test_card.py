"""A card says of a run what it knows, goes with the version, and is told by MLflow."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelmodels.models import PixelModel
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.runs.result import RunResult
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.card import card_of
from pixelmodels.training.card import card, card_files
from pixelmodels.training.finish import publish
from pixelmodels.training.plan import RunPlan, build_model
from tests.training.tiny_run import SIZES, TinyDataset, tiny_plan, tiny_recipe

RESULT = RunResult(
    name="tiny",
    run_key="0123456789",
    dataset="tiny-0123456789",
    architecture="pixelcnn",
    likelihood="categorical",
    parameters=12345,
    epochs=2,
    steps=10,
    best_step=10,
    val_bits_per_dim=1.5,
    test_nll_nats=16.25,
    test_bits_per_dim=1.9536,
    test_bits_per_dim_stderr=0.0123,
    train_images_per_second=100.0,
    samples_per_second=50.0,
    seconds=65.0,
    num_workers=2,
    mlflow_run_id=None,
    model_version=None,
)


def made(storage: Storage, recipe: Recipe | None = None, **of_dataset: object) -> tuple[RunPlan, PixelModel]:
    plan = tiny_plan(storage, recipe, TinyDataset(storage=storage, **of_dataset))  # type: ignore[arg-type]
    return plan, build_model(plan).eval()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_card_has_data_recipe_figures_limits_and_how_to_load_it(storage: Storage) -> None:
    plan, model = made(storage, tiny_recipe(epochs=4))
    text = card(plan, RESULT, model)
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# tiny of tiny",
        *(f"## {name}" for name in ("Figures", "Samples", "Data", "Recipe", "Limits", "To load it")),
    ]
    assert "| test bits/dim | 1.9536 ± 0.0123 |" in lines and "| bits/dim if all levels were equally likely | 2.0000 |" in lines
    assert "| images | 4 x 3, grey, 4 levels |" in lines and "| train, validation, test | 23, 11, 7 |" in lines
    assert "| model: num_layers | " in text and "| batch_size | " in text and "12,345 parameters" in text
    assert "- Training stopped after 2 of 4 epochs, as validation became no better." in lines
    assert 'pixelmodels.load("models:/tiny/N")' in text and f'pixelmodels.load("{storage.uri(plan.folder)}")' in text


def test_names_of_classes_break_no_table(storage: Storage) -> None:
    plan, model = made(storage, names=("a|b", "<b>\nnew"))
    assert "| classes | 2: a\\|b, &lt;b>\\\\nnew |" in card(plan, RESULT, model).splitlines()


def test_names_of_classes_are_text_and_nothing_else(storage: Storage) -> None:
    """Folders may be called what is no text at all, or what Markdown would make a link or a picture of."""
    plan, model = made(storage, names=("caf\udce9", "![a](http://b/c.png)"))
    text = card_files(plan, RESULT, model)["card.md"].decode()
    assert "| classes | 2: caf\\\\udce9, !\\[a\\](http://b/c.png) |" in text.splitlines()


@pytest.mark.parametrize("stderr", [0.0, math.nan])
def test_figures_that_are_not_certain_say_so(storage: Storage, stderr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test of one image nothing tells how certain they are, nor of broken weights."""
    monkeypatch.setitem(SIZES, "test", 1 if stderr == 0.0 else 7)
    plan, model = made(storage)
    text = card(plan, dataclasses.replace(RESULT, test_bits_per_dim_stderr=stderr), model)
    assert f"- Test images: {SIZES['test']}; how certain the figures are cannot be told." in text.splitlines()
    assert "unpaired differences" not in text


def test_a_model_of_several_orders_says_so(storage: Storage) -> None:
    plan, model = made(storage, dataclasses.replace(tiny_recipe(), orders=4))
    text = card(plan, dataclasses.replace(RESULT, test_raster_bits_per_dim=1.97), model)
    assert "| test bits/dim by the raster order alone | 1.9700 |" in text and "any of its orders' first pixels" in text


@pytest.mark.parametrize("num_samples", [0, 4])
def test_the_picture_is_there_even_where_a_recipe_draws_none(storage: Storage, num_samples: int) -> None:
    plan, model = made(storage, tiny_recipe(num_samples=num_samples))
    files = card_files(plan, RESULT, model)
    assert set(files) == {"card.md", "samples.png"} and b"![samples](samples.png)" in files["card.md"]
    assert np.asarray(Image.open(io.BytesIO(files["samples.png"]))).ndim in (2, 3)


def test_a_registered_version_has_its_card_in_mlflow_and_beside_its_weights(storage: Storage) -> None:
    tracker = Tracker(storage)
    tracker.check()
    plan, model = made(storage)
    plan = dataclasses.replace(plan, tracker=tracker, registered_name="tiny", mlflow_run_id=tracker.start_parent("tiny", {}))
    number = publish(plan, RESULT, model, b"nats").model_version
    assert number == "1"
    found = card_of(tracker, "models:/tiny/1")
    assert found is not None and found.picture is not None and found.picture.startswith(b"\x89PNG")
    described = tracker.client.get_model_version("tiny", number).description
    assert described == found.markdown and len(described) <= 5000
    assert publish(plan, RESULT, model, b"nats").model_version == "1"  # told again it is the same version
