"""A user's mistakes with sweeps and recipe files: one line that names the value, the choices and the remedy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from pipelines import train_all, tune
from pixelmodels.data import DatasetConfig, prepare
from pixelmodels.data.dataset import config_of
from pixelmodels.errors import UserError
from pixelmodels.models.multiscale_pixelrnn import MultiscalePixelRNNConfig
from pixelmodels.recipes.files import read_recipe, recipe_text
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training.options import TrainAll
from pixelmodels.tuning.options import Tune, check_same
from pixelmodels.tuning.record import Records, TrialRecord


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "gated_pixelcn"], r"space 'gated_pixelcn' unknown; have architectures, .*did you mean 'gated_pixelcnn'"),
        (["--suite", "digts"], r"suite 'digts' unknown; .*did you mean 'digits'"),
        (["--dataset", "mnist"], r"data set 'mnist' unknown; .*prepare_data.py"),
        (["--start-from", "resnet"], r"recipe 'resnet' unknown; have .*pixelcnn"),
        (["--space", "pixelrnn", "--start-from", "pixelcnn"], r"--start-from pixelcnn is a recipe of pixelcnn.*pixelrnn_row_lstm"),
        (["--space", "pixelrnn", "--suite", "super_resolution"], r"space 'pixelrnn' is of pixelrnn_row_lstm.*has only"),
        (["--num-samples", "0"], r"--num-samples 0 is too few"),
        (["--epochs", "0"], r"--epochs 0 is too few"),
        (["--max-minutes", "-1"], r"--max-minutes -1.0 is too few"),
        (["--max-minutes", "nan"], r"--max-minutes nan is too few"),
        (["--checkpoint-every-s", "-5"], r"--checkpoint-every-s -5.0; give 0 or more"),
        (["--seed", "18446744073709551616"], r"--seed 18446744073709551616 is no seed; give a whole number from 0 to 18446744073709551615"),
        (["--checkpoint-every-s", "inf"], r"--checkpoint-every-s inf is no finite number"),
        (["--max-parameters", "0"], r"--max-parameters 0 is too few"),
        (["--reduction-factor", "1"], r"--reduction-factor 1 stops nothing; .*--no-asha"),
        (["--name", "a/b"], r"--name 'a/b' must be a plain folder name"),
        (["--num-workers", "0"], r"--num-workers 0"),
        (["--num-sample", "3"], r"--num-sample.*did you mean --num-samples"),
        (["--suite", "cifar10", "--space", "gated_pixelcnn"], r"do not come with a package; give their folder with --data-path"),
    ],
)
def test_tune_tells_mistakes_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as mistake:
        tune.main([*arguments, "--storage", str(tmp_path / "storage")])
    assert "\n" not in str(mistake.value)


def test_a_recipe_goes_to_its_file_and_back(storage: Storage, tmp_path: Path) -> None:
    for recipe in (*suite("digits"), *suite("cifar10")):
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe_text(recipe, ("found by a sweep",)))
        assert path.read_text().startswith("# found by a sweep\nname: ")
        assert read_recipe(str(path), storage) == recipe
    assert any(isinstance(recipe.model, MultiscalePixelRNNConfig) for recipe in suite("digits"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("batch_size:", "batchsize:"),
            r"best.yaml': field of recipe 'batchsize' unknown; .*did you mean 'batch_size'",
        ),
        (lambda text: text.replace("num_layers", "num_layer"), r"field of model 'num_layer' unknown; .*did you mean 'num_layers'"),
        (
            lambda text: text.replace("architecture: pixelcnn", "architecture: pixelcn"),
            r"model 'pixelcn' unknown; .*did you mean 'pixelcnn'",
        ),
        (lambda text: text.replace("batch_size: 64", "batch_size: many"), r"recipe.batch_size is 'many'; give int"),
        (lambda text: text.replace("epochs: 50", "epochs: 0"), r"epochs is 0; give more than 0"),
        (lambda text: "- 1\n- 2\n", r"holds list, not the fields of a recipe"),
        (lambda text: "{", r"is no YAML"),
    ],
)
def test_recipe_files_that_make_no_sense_are_refused(change, message, storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    text = recipe_text(suite("digits")[0])
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(UserError, match=message) as mistake:
        train_all.main(["--recipe-file", str(path), "--storage", storage.root])
    assert "\n" not in str(mistake.value)


def test_a_recipe_file_brings_the_data_set_that_it_was_found_on(ray_cluster: None, storage: Storage, tmp_path: Path) -> None:
    images, path = tmp_path / "images", tmp_path / "best.yaml"
    images.mkdir()
    for number in range(30):
        Image.new("L", (4, 4), number).save(images / f"{number:02d}.png")
    config = DatasetConfig(source="folder", path=str(images), name="mine")
    dataset = prepare(config, storage, connect=lambda: None)
    recipe = dataclasses.replace(suite("digits")[0], dataset=config_of(dataset))  # whose path the manifest does not know
    path.write_text(recipe_text(recipe, prepared=f"mine-{dataset.fingerprint}"))
    assert read_recipe(str(path), storage) == recipe
    found = TrainAll(recipe_file=str(path), storage=storage.root).chosen_dataset(storage)
    assert found is not None and found.fingerprint == dataset.fingerprint
    assert TrainAll(recipe_file=str(path), data_path=str(images)).chosen_dataset(storage) is None
    assert TrainAll(recipe_file=str(path)).chosen_dataset(Storage(str(tmp_path / "other"))) is None


def test_a_recipe_file_is_told_apart_from_a_suite(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe file 'best.yaml' does not exist, here or below the storage root"):
        train_all.main(["--recipe-file", "best.yaml", "--storage", storage.root])
    with pytest.raises(UserError, match=r"--recipe-file best.yaml and --suite photos both say what to train"):
        train_all.main(["--recipe-file", "best.yaml", "--suite", "photos", "--storage", storage.root])
    with pytest.raises(UserError, match=r"--recipe-file best.yaml and --ablation both say what to train"):
        train_all.main(["--recipe-file", "best.yaml", "--ablation", "--storage", storage.root])


def test_a_sweep_of_other_settings_is_not_gone_on_with() -> None:
    before = Tune().settings(start_from="pixelcnn", dataset="digits-1", epochs=5)
    check_same("mine", before, dict(before))
    with pytest.raises(
        UserError, match=r"sweep 'mine' was begun with other settings \(epochs 5 then, 6 now\); give another --name, or --fresh"
    ):
        check_same("mine", before, {**before, "epochs": 6})


def test_a_damaged_record_is_told(storage: Storage) -> None:
    records = Records(storage, "mine")
    trial = TrialRecord(0, {"kind": "fine"}, {}, "pixelcnn", 3, curve={1: 2.5, 2: 2.0})
    records.write(trial)
    assert records.trials() == [trial]
    storage.write_bytes("sweeps/mine/trials/000.json", b"{}")
    with pytest.raises(UserError, match=r"is no trial of this version .*--fresh"):
        records.trials()
    storage.write_bytes("sweeps/mine/sweep.json", b'{"id": "1", "colour": "red"}')
    with pytest.raises(UserError, match=r"sweep.json' is no sweep of this version .*--fresh"):
        records.head()
    records.write(dataclasses.replace(trial, number=1))
    for name in ("best.yaml", "summary.json", "importances.png", "running.json"):
        storage.write_bytes(f"sweeps/mine/{name}", b"{}")
    records.clear()
    assert storage.list("sweeps/mine") == ["running.json"]  # who holds the folder
    assert records.trials() == [] and records.head() is None


def test_seeds_that_samplers_can_take_stay_as_they_are_and_larger_ones_fit() -> None:
    assert [Tune(seed=seed).sampler_seed for seed in (0, 7, 2**31 - 1)] == [0, 7, 2**31 - 1]
    assert all(0 <= Tune(seed=seed).sampler_seed < 2**31 for seed in (2**31, 20261128153000, 2**64 - 1))
