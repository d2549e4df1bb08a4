"""What is compared in an ablation, and what its table says of known tests."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pixelmodels.evaluation import ablation as ablation_table
from pixelmodels.evaluation.ablation import AblationRow, ablation_files, compare, compare_all, print_ablation
from pixelmodels.evaluation.nats import TEST_NATS, ImageNats, read_nats
from pixelmodels.models import build
from pixelmodels.recipes.ablation import Ablation, recipes_of
from pixelmodels.recipes.suites import ABLATIONS, ablations_of
from pixelmodels.runs.result import RunResult
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.options import TrainAll
from tests.training.tiny_run import SIZES, tiny_plan, tiny_recipe

WITH, WITHOUT = tiny_recipe(name="a", epochs=1), tiny_recipe(name="b", epochs=1, seed=1)
ONE = Ablation("seed", "0, or 1", WITH, WITHOUT)
KEYS = ("1", "2", "3", "4")


def compared(a: tuple[float, ...], b: tuple[float, ...], keys: tuple[str, ...] = KEYS, parameters: int = 100) -> AblationRow:
    """The line of two tests, in bits/dim of each image; `keys` and `parameters`, of the second."""
    of_both = {"a": (a, KEYS[: len(a)], 100), "b": (b, keys[: len(b)], parameters)}
    tests = {name: ImageNats(keys, np.full(len(bits), np.nan), np.array(bits)) for name, (bits, keys, _) in of_both.items()}
    results = {
        name: RunResult(**{field.name: None for field in dataclasses.fields(RunResult)} | {"name": name, "parameters": count})
        for name, (_, _, count) in of_both.items()
    }
    return compare(ONE, results, tests)


# ---- what is compared


@pytest.mark.parametrize("name", ABLATIONS)
def test_two_recipes_differ_in_the_improvement_alone(name: str) -> None:
    switched = []
    for one in ablations_of(name):
        old, new = one.recipe_with.to_dict(), one.recipe_without.to_dict()
        assert old.pop("name") != new.pop("name")
        parts = [part for part in old if old[part] != new[part]]
        assert len(parts) == 1, one.name
        switched.append((one.name, parts[0]))
    assert len({name for name, _ in switched}) == len(switched)


def test_digits_compare_all_improvements_with_as_few_runs_as_can_be() -> None:
    comparisons = ablations_of("digits")
    recipes = recipes_of(comparisons)
    assert len(comparisons) == 8 and len(recipes) == 10 == len({recipe.name for recipe in recipes})
    assert TrainAll(ablation=True).recipes() == recipes
    fields = {
        "gated convolutions": ("model", "gating", True, False),
        "short-cut connections": ("model", "shortcuts", True, False),
        "weight normalization": ("model", "weight_norm", True, False),
        "dropout": ("model", "dropout", 0.3, 0.0),
        "Polyak averaging": ("optimizer", "average_decay", 0.999, 0.0),
        "warm-up": ("optimizer", "warmup_steps", 50, 0),
    }
    by_name = {one.name: one for one in comparisons}
    for name, (part, field, on, off) in fields.items():
        given, lacking = by_name[name].recipe_with, by_name[name].recipe_without
        assert getattr(getattr(given, part), field) == on
        changed = dataclasses.replace(getattr(given, part), **{field: off})
        assert dataclasses.replace(given, name=lacking.name, **{part: changed}) == lacking
    scales = by_name["multi-scale"]
    assert scales.recipe_with.model.small == scales.recipe_with.model.large == scales.recipe_without.model
    loss = by_name["discretized logistic loss"]
    assert loss.recipe_with.likelihood.name == "discretized_logistic_mixture" and loss.recipe_without.likelihood.name == "categorical"
    for recipe in recipes:
        torch.manual_seed(0)
        build(recipe.model, ImageSpec(1, 8, 8, 17), recipe.likelihood)


def test_options_change_every_recipe_of_an_ablation() -> None:
    recipes = TrainAll(ablation=True, epochs=2, exclude=("pixelcnn_pp",)).recipes()
    assert len(recipes) == 9 and {recipe.epochs for recipe in recipes} == {2}


# ---- what its table says


def test_worth_is_without_minus_with_and_its_error_that_of_the_differences() -> None:
    # differences 0.1, 0.2, 0.3, 0.4: mean 0.25, variance 0.05/3, while the images themselves differ by whole bits
    row = compared((1, 5, 2, 9), (1.1, 5.2, 2.3, 9.4), parameters=40)
    assert (row.parameters_with, row.parameters_without, row.resized) == (100, 40, "2.5x")
    assert (row.improvement, row.model_with, row.model_without) == ("seed", "a", "b")
    assert row.bits_per_dim_with == 4.25 and row.bits_per_dim_without == pytest.approx(4.5, abs=1e-12)
    assert row.worth_bits_per_dim == pytest.approx(0.25, abs=1e-12)
    assert row.worth_stderr == pytest.approx(math.sqrt(0.05 / 3 / 4), rel=1e-12)


def test_one_image_has_no_standard_error() -> None:
    row = compared((2.0,), (1.0,))
    assert row.worth_bits_per_dim == -1 and math.isnan(row.worth_stderr)
    content = ablation_files([row], "tiny", [ONE])["ablation.md"].decode()
    assert "| seed | 100 | 2.0000 | 1.0000 | -1.0000 |" in content and ablation_table.SIZE_NOTE not in content


def test_tests_of_other_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="'a' and 'b' were not tested on the same images"):
        compared((1, 2, 3, 4), (1, 2, 3, 4), keys=KEYS[::-1])


def test_files_and_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        AblationRow("seed", "a", "b", 9000, 4000, 1.5, 1.75, 0.25, 0.0125),
        AblationRow("luck", "a", "c", 1030, 1000, 1.5, 1.25, -0.25, 0.03),
    ]
    luck = Ablation("luck", "some, or none", WITH, tiny_recipe(name="c"))
    unused = Ablation("unused", "this, or that", WITH, WITHOUT)
    files = ablation_files(rows, "tiny", [ONE, luck, unused])
    assert list(files) == ["ablation.md", "ablation.csv", "ablation.png"]
    content = files["ablation.md"].decode()
    assert content.startswith(
        "# What each improvement is worth: tiny\n\nWorth is test bits/dim without the improvement minus with it: above 0, it"
    )
    assert "| seed | 9,000 / 4,000 (2.2x) | 1.5000 | 1.7500 | +0.2500 ± 0.0125 |" in content
    assert "| luck | 1,030 / 1,000 | 1.5000 | 1.2500 | -0.2500 ± 0.0300 |" in content and ablation_table.SIZE_NOTE in content
    assert "- luck: some, or none (`a`, `c`)" in content and "unused" not in content
    lines = list(csv.DictReader(io.StringIO(files["ablation.csv"].decode())))
    assert [float(line["worth_bits_per_dim"]) for line in lines] == [0.25, -0.25] and tuple(lines[0]) == ablation_table.COLUMNS
    picture = np.asarray(Image.open(io.BytesIO(files["ablation.png"])).convert("RGB")).reshape(-1, 3)
    for colour in ((0x2A, 0x6F, 0x97), (0xB8, 0x53, 0x3C)):  # a bar that helps, one that harms
        assert (picture == colour).all(axis=1).sum() > 1000
    assert [ablation_table._label(row) for row in rows] == ["seed\n(2.2x the parameters)", "luck"]
    print_ablation(rows, "tiny")
    printed = capsys.readouterr().out
    for text in ("+0.2500 ± 0.0125", "9,000 / 4,000 (2.2x)", "worth (without - with)", "above 0, it helps", ablation_table.SIZE_NOTE):
        assert text in printed
    assert "\x1b" not in printed


# ---- from runs


@pytest.fixture
def results(storage: Storage) -> list[RunResult]:
    return [train(tiny_plan(storage, recipe), say=lambda _: None) for recipe in (WITH, WITHOUT)]


def test_rows_come_from_the_tests_that_runs_kept(storage: Storage, results: list[RunResult]) -> None:
    (row,) = compare_all([ONE], results, storage, print)
    assert row.parameters_with == row.parameters_without == results[0].parameters
    assert row.bits_per_dim_with == pytest.approx(results[0].test_bits_per_dim, rel=1e-12)
    assert row.worth_bits_per_dim == pytest.approx(results[1].test_bits_per_dim - results[0].test_bits_per_dim, rel=1e-9)
    tests = [read_nats(storage.read_bytes(f"runs/{result.name}-{result.run_key}/{TEST_NATS}")) for result in results]
    assert tests[0].keys == tuple(f"test/{i}" for i in range(SIZES["test"]))
    differences_N = tests[1].bits_per_dim_N - tests[0].bits_per_dim_N
    assert row.worth_stderr == pytest.approx(np.std(differences_N, ddof=1) / math.sqrt(SIZES["test"]), rel=1e-12)


def test_what_cannot_be_compared_is_told(storage: Storage, results: list[RunResult]) -> None:
    said: list[str] = []
    assert compare_all([ONE], results[:1], storage, said.append) == []
    assert said == ["seed: not compared, there is no test of b"]
    storage.delete(f"runs/a-{results[0].run_key}/{TEST_NATS}")
    assert compare_all([ONE], results, storage, said.append) == []
    assert "a: its run kept no nats of its test images; --fresh trains it anew" in said and said[-1].endswith("no test of a")
