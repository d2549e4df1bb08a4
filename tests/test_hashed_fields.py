"""Runs, data sets and sweeps that were made before a field was there are known by the same names after it came."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pixelmodels.data import DatasetConfig, prepare
from pixelmodels.errors import UserError
from pixelmodels.hashed_fields import FROM_THE_BEGINNING, default_of, hashed, hashed_fields
from pixelmodels.models import ARCHITECTURES, architecture_class, config_class
from pixelmodels.recipes import suites
from pixelmodels.recipes.ablation import recipes_of
from pixelmodels.recipes.recipe import Recipe, run_key
from pixelmodels.storage import Storage
from pixelmodels.tuning.options import Tune, check_same, sweep_name

FIXTURES = Path(__file__).parent / "fixtures"
OLD: dict[str, Any] = json.loads((FIXTURES / "hashes_47ad97b.json").read_text())  # what commit 47ad97b computed
RUNS: list[tuple[dict[str, Any], str]] = [(values, key) for listed in OLD["suites"].values() for values, key in listed]
LATER = FIXTURES / "later_defaults.json"


def key_of(values: dict[str, Any]) -> str:
    return run_key(Recipe.from_dict(values), OLD["fingerprint"])


def grown(kind: type[Any], name: str = "later", default: Any = 0.5) -> type[Any]:
    """A dataclass as it would be with one more field."""
    return dataclasses.make_dataclass(kind.__name__, [(name, type(default), default)], bases=(kind,), frozen=True)


def test_run_keys_are_those_that_they_were() -> None:
    assert [key_of(values) for values, _ in RUNS] == [key for _, key in RUNS]


@pytest.mark.parametrize("name", OLD["suites"])
def test_suites_still_name_the_same_runs(name: str) -> None:
    """A suite that is changed on purpose leaves its old runs behind: say so in the changelog, and put its new keys into the file."""
    plain, _, is_ablation = name.partition(" ")
    recipes = recipes_of(suites.ablations_of(plain)) if is_ablation else suites.suite(plain)
    old = {values["name"]: key for values, key in OLD["suites"][name]}
    now = {recipe.name: run_key(recipe, OLD["fingerprint"]) for recipe in recipes}
    assert {name: now.get(name) for name in old} == old


@pytest.mark.parametrize(("options", "folder"), OLD["datasets"], ids=lambda value: value if isinstance(value, str) else "")
def test_data_sets_are_those_that_they_were(options: dict[str, Any], folder: str, storage: Storage) -> None:
    name, _, fingerprint = folder.rpartition("-")
    splits = {split: {"num_images": 1, "shards": []} for split in ("train", "validation", "test")}
    image = {"channels": 1, "height": 1, "width": 1, "levels": 2}
    manifest = {"format_version": 2, "name": name, "fingerprint": fingerprint, "image": image, "label_names": [], "splits": splits}
    manifest["skipped"] = {"count": 0, "num_hidden": 0}
    storage.write_bytes(f"datasets/{folder}/manifest.json", json.dumps(manifest).encode())

    def connect() -> None:
        raise AssertionError("it is not the data set that is there")

    config = DatasetConfig(**{**options, "size": tuple(options["size"])} if "size" in options else options)
    assert prepare(config, storage, say=lambda _: None, connect=connect).fingerprint == fingerprint


def test_sweeps_are_called_as_they_were() -> None:
    for options, name in OLD["sweeps"]:
        asked = Tune(**options)
        settings = asked.settings(start_from="pixelcnn", dataset="digits-957a09fb5b32", epochs=asked.epochs or 4)
        assert sweep_name(asked, settings, "digits") == name


def test_a_later_field_of_a_recipe_is_hashed_away_from_its_default_only() -> None:
    values, key = RUNS[0]
    kind = grown(Recipe)
    assert run_key(kind.from_dict(values), OLD["fingerprint"]) == key
    assert run_key(kind.from_dict({**values, "later": 0.5}), OLD["fingerprint"]) == key
    other = kind.from_dict({**values, "later": 0.25})
    assert run_key(other, OLD["fingerprint"]) not in (key, run_key(dataclasses.replace(other, later=0.125), OLD["fingerprint"]))
    assert kind.from_dict(json.loads(json.dumps(other.to_dict()))) == other
    with pytest.raises(UserError, match="'later'"):  # by a version that does not know it
        Recipe.from_dict(other.to_dict())


@pytest.mark.parametrize("part", ["optimizer", "likelihood"])
def test_a_later_field_of_a_part_is_hashed_away_from_its_default_only(part: str) -> None:
    recipe = Recipe.from_dict(RUNS[0][0])
    kind, plain = grown(type(getattr(recipe, part))), dataclasses.asdict(getattr(recipe, part))
    keys = [run_key(dataclasses.replace(recipe, **{part: kind(**plain, later=value)}), OLD["fingerprint"]) for value in (0.5, 0.25, 0.125)]
    assert keys[0] == RUNS[0][1] and len(set(keys)) == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_later_field_of_a_model_is_hashed_away_from_its_default_only(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model inside another one too: of those of `multiscale_pixelrnn`."""
    old = {key: values for values, key in RUNS if f'"{architecture}"' in json.dumps(values["model"])}
    assert old
    kind = grown(config_class(architecture))
    monkeypatch.setattr(architecture_class(architecture), "config_class", kind)
    for key, values in old.items():
        assert key_of(values) == key
        assert len({key, *(key_of({**values, "model": changed(values["model"], architecture, value)}) for value in (0.25, 0.125))}) == 3


def changed(model: dict[str, Any], architecture: str, value: float) -> dict[str, Any]:
    """A model's plain config with `later` set wherever it is of the architecture."""
    config = {name: changed(part, architecture, value) if isinstance(part, dict) else part for name, part in model["config"].items()}
    return {**model, "config": {**config, "later": value} if model["architecture"] == architecture else config}


def test_a_later_field_with_a_factory_and_a_class_of_its_own() -> None:
    @dataclasses.dataclass(frozen=True)
    class Flip:
        share: float  # has no default: always part of the hash
        axis: int = 1

    kind = dataclasses.make_dataclass(
        "Recipe", [("flip", Flip, dataclasses.field(default_factory=lambda: Flip(0.5)))], bases=(Recipe,), frozen=True
    )
    values, key = RUNS[0]
    assert run_key(kind.from_dict(values), OLD["fingerprint"]) == key
    other = kind.from_dict({**values, "flip": {"share": 0.25}})
    assert other.to_dict(hashed_fields)["flip"] == {"share": 0.25}
    assert dataclasses.replace(other, flip=Flip(0.25, axis=0)).to_dict(hashed_fields)["flip"] == {"share": 0.25, "axis": 0}


def test_a_later_option_of_a_data_set_is_hashed_away_from_its_default_only(storage: Storage, ray_cluster: None) -> None:
    kind = grown(DatasetConfig, default=0)
    folder = next(folder for options, folder in OLD["datasets"] if options == {"size": [4, 6]})
    made = [prepare(kind(size=(4, 6), later=later), storage, say=lambda _: None) for later in (0, 1)]
    assert made[0].folder == f"datasets/{folder}" != made[1].folder
    assert "later" not in made[0].manifest["options"] and made[1].manifest["options"]["later"] == 1


def test_a_later_option_of_a_sweep_is_a_setting_away_from_its_default_only() -> None:
    kind = grown(Tune, default=0)
    before = Tune().settings(start_from="pixelcnn", dataset="digits-957a09fb5b32", epochs=4)
    assert hashed(kind(), {**before, "later": 0}) == before
    after = hashed(kind(later=9), {**before, "later": 9})
    assert after == {**before, "later": 9}
    check_same("tiny", before, dict(before))
    with pytest.raises(UserError, match=r"later None then, 9 now"):
        check_same("tiny", before, after)
    with pytest.raises(UserError, match=r"later 9 then, None now"):
        check_same("tiny", after, before)


def test_defaults_of_later_fields_stay() -> None:
    """A later field at its default is in no hash, so its default is part of what old hashes mean.

    A new field: add it, with its default, to tests/fixtures/later_defaults.json. Its default must be what there was before the field.
    A default that has changed: whatever was trained or prepared before would be found, and taken for something else. Keep the default;
    recipes and suites may give another value.
    """
    recipe = Recipe.from_dict(RUNS[0][0])
    kinds = [Recipe, type(recipe.optimizer), type(recipe.likelihood), DatasetConfig, Tune, *map(config_class, ARCHITECTURES)]
    found: dict[str, dict[str, str]] = {}
    for kind in kinds:
        first = FROM_THE_BEGINNING.get(kind.__name__, "").split()
        later = {spec.name: default_of(spec) for spec in dataclasses.fields(kind) if spec.name not in first}
        found[kind.__name__] = {name: repr(value) for name, value in later.items() if value is not dataclasses.MISSING}
    assert {name: defaults for name, defaults in found.items() if defaults} == json.loads(LATER.read_text())
