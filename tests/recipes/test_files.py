"""Recipe files as people write them: numbers as on the command line, and what makes no sense told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelmodels.errors import UserError
from pixelmodels.recipes.files import read_recipe, recipe_text
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training.options import TrainAll

TEXT = recipe_text(suite("digits")[0])
RATE = f"learning_rate: {suite('digits')[0].optimizer.learning_rate}"


def read(text: str, tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(str(path), Storage(tmp_path))


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("+1e-3", 1e-3), ("1.e-3", 1e-3), (".001", 1e-3), ("2", 2.0), ("1_0.5", 10.5), ("1e3", 1000.0)],
)
def test_reals_are_read_as_on_the_command_line(written: str, value: float, tmp_path: Path) -> None:
    assert RATE in TEXT
    assert read(TEXT.replace(RATE, f"learning_rate: {written}"), tmp_path).optimizer.learning_rate == value


@pytest.mark.parametrize(("written", "value"), [("010", 10), ("1_000", 1000), ("0x10", 16), ("0o17", 15), ("+5", 5)])
def test_whole_numbers_are_read_as_on_the_command_line(written: str, value: int, tmp_path: Path) -> None:
    assert read(TEXT.replace("epochs: 50", f"epochs: {written}"), tmp_path).epochs == value


def test_what_looks_like_a_date_or_a_time_is_a_name(tmp_path: Path) -> None:
    for name in ("2026-11-28", "1:30"):
        assert read(TEXT.replace("name: pixelcnn", f"name: {name}", 1), tmp_path).name == name
    assert read("\ufeff" + TEXT, tmp_path) == suite("digits")[0]


LAUGHS = "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace(RATE, "learning_rate: .inf"), "learning_rate inf is no finite number"),
        (TEXT.replace(RATE, "learning_rate: -.inf"), "learning_rate -inf is no finite number"),
        (TEXT.replace(RATE, "learning_rate: .nan"), "learning_rate nan is no finite number"),
        (TEXT.replace(RATE, "learning_rate: 1e999"), "learning_rate inf is no finite number"),
        (TEXT.replace("epochs: 50", "epochs: 1e3"), "recipe.epochs is 1000.0; give int"),
        (TEXT.replace("epochs: 50", "epochs: 50\nepochs: 60"), "'epochs' is there twice"),
        (TEXT.replace("epochs: 50", "epochs:\t50\n\tpatience: 1"), "is no YAML"),
        (TEXT.replace("seed: 0", "seed: 18446744073709551616"), "seed 18446744073709551616 is no seed; give a whole number from 0 to"),
        ("", "holds NoneType, not the fields of a recipe"),
        (LAUGHS, "more than 10000 values"),
        ("a: &a [*a]\n", "is no YAML"),
        ("epochs: !!map [a]", "is no YAML"),
        ("epochs: !!set [a]", "is no YAML"),
        ("epochs: !!omap {a: 1}", "is no YAML"),
        ("epochs: !!bool x", "is no YAML"),
        ("epochs: !!int x", "is no YAML"),
        ("epochs: !!float x", "is no YAML"),
        ("epochs: !!binary é", "is no YAML"),
        ("epochs: !!timestamp foo", "is no YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, "is no YAML"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    assert text != TEXT
    with pytest.raises(UserError) as told:
        read(text, tmp_path)
    assert message in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("prepared", ["..", ".", "''", "../datasets", "/etc", "[../a]", '"a\\0b"'])
def test_a_prepared_data_set_that_cannot_be_one_is_told(prepared: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{TEXT}prepared: {prepared}\n")
    with pytest.raises(UserError, match=r"names the prepared data set '.*'; give a name, or name-fingerprint"):
        TrainAll(recipe_file=str(path)).chosen_dataset(Storage(tmp_path))
    path.write_text(f"{TEXT}prepared: none-{'a' * 300}\n")
    assert TrainAll(recipe_file=str(path)).chosen_dataset(Storage(tmp_path)) is None
