"""What `--dry-run` says, and when it says that there is no room; and what a suite says that lacks its files."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import train_all as pipeline
from pixelmodels.data import prepare
from pixelmodels.errors import UserError
from pixelmodels.ray_cluster import WorkerNeeds, has_memory
from pixelmodels.recipes.files import recipe_text
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training import dry_run as module
from pixelmodels.training.dry_run import check_weights_fit, dry_run
from pixelmodels.training.options import TrainAll, check_images
from pixelmodels.training.train_all import _plans as plans_of
from pixelmodels.training.train_all import train_all
from tests.data.test_packed_sources import write_cifar10
from tests.data.writers import idx

LARGE = {"CPU": 64.0, "memory": float(1 << 40)}


def said(options: TrainAll, monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module.ray_cluster, "connect", lambda: None)
    monkeypatch.setattr(module, "cluster_nodes", lambda needs: list(nodes))
    dry_run(options, lines.append)
    return lines


def test_each_recipe_is_told_with_its_steps_although_nobody_has_the_files(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainAll(
        suite="mnist_dynamic", storage=storage.root, only=("pixelcnn", "gated_pixelcnn"), epochs=2, num_workers=2, accumulate=4
    )
    lines = said(options, monkeypatch, LARGE)
    assert "mnist, not prepared yet: about 54,000 training images, as published" in lines[0]
    assert "room for 31 model(s)" in lines[1]
    assert lines[2].startswith("pixelcnn: 638,017 parameters; ") and "8 image(s) at a time, float32, in 4 parts" in lines[2]
    assert "1,688 steps" in lines[2] and "the largest node has 1024.0 GiB" in lines[2]  # 2 * ceil(54,000 / 64)
    assert re.fullmatch(
        r"  estimated, not measured, on A100 .*; 8: [\d.]+ ms a step, 0.0 GiB each, [\d.]+ MB/s read, 4.47 MB sent by each; 64: .*",
        lines[3],
    )
    assert lines[4].startswith("gated_pixelcnn: 897,985 parameters; ") and len(lines) == 6
    assert not storage.exists("runs") and not storage.exists("datasets")


def test_a_published_recipe_is_told_with_what_it_is_conditioned_on(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainAll(suite="mnist_dynamic", storage=storage.root, only=("pixelcnn",), condition_on=("small",))
    assert not said(options, monkeypatch, LARGE)[2].startswith("pixelcnn: 638,017 parameters; ")
    for kind, word in (("grey", "is grey already"), ("vector", "has no vectors")):
        with pytest.raises(UserError, match=word):
            said(dataclasses.replace(options, condition_on=(kind,)), monkeypatch, LARGE)
    with pytest.raises(UserError, match="has no labels"):
        said(dataclasses.replace(options, suite="mnist_fixed", condition_on=("label",)), monkeypatch, LARGE)


def test_a_cluster_that_can_never_give_it_is_told_in_one_line_and_status_2(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainAll(suite="mnist_dynamic", storage=storage.root, only=("pixelcnn",))
    with pytest.raises(UserError, match=r"--num-workers 1: the cluster can never give"):
        said(options, monkeypatch, {"CPU": 1.0, "memory": 1e12})
    with pytest.raises(UserError, match=r"'pixelcnn' needs about 1\.\d GiB for each worker.*no room.*--accumulate 2 or more"):
        said(options, monkeypatch, {"CPU": 8.0, "memory": 1e8})
    monkeypatch.setattr(module, "room", lambda *_: 1)
    flags = ["--dry-run", "--suite", "mnist_dynamic", "--only", "pixelcnn", "--storage", storage.root]
    with pytest.raises(SystemExit) as end:
        pipeline.exit_with(lambda: pipeline.main(flags))
    captured = capsys.readouterr()
    assert end.value.code == 2 and captured.err.count("\n") == 1 and captured.err.startswith("error: ")


def test_memory_is_needed_where_the_cpus_are() -> None:
    two = WorkerNeeds(2)
    assert has_memory(two, 4e9, [{"CPU": 2.0, "memory": 8e9}])
    assert not has_memory(two, 5e9, [{"CPU": 2.0, "memory": 8e9}])
    assert not has_memory(two, 5e9, [{"CPU": 1.0, "memory": 2e10}])
    assert has_memory(two, 5e9, [{"CPU": 1.0, "memory": 5e9}, {"CPU": 1.0, "memory": 5e9}])


def test_a_suite_without_its_files_says_how_to_name_them(storage: Storage) -> None:
    with pytest.raises(UserError, match=r"source 'cifar10', whose files .*--data-path.*--dataset"):
        train_all(TrainAll(suite="cifar10", storage=storage.root))
    with pytest.raises(UserError, match="'x' does not exist; give --data-path FOLDER"):
        train_all(TrainAll(suite="digits", data_path="x", storage=storage.root))


@pytest.mark.usefixtures("ray_cluster")
def test_the_files_of_data_path_are_used_and_their_shape_is_checked(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write_cifar10(folder)
    options = TrainAll(suite="cifar10", data_path=str(folder), storage=storage.root, only=("pixelcnn_pp_conditional",), precision="float32")
    (recipe,) = options.recipes()
    assert recipe.dataset.path == str(folder) and recipe.precision == "float32"
    dataset = prepare(recipe.dataset, storage)
    check_images(options, dataset)
    with pytest.raises(UserError, match=r"images of 32x32 with 3 channel\(s\), and suite 'imagenet64' is for 64x64"):
        check_images(dataclasses.replace(options, suite="imagenet64", only=()), dataset)
    named: Any = dataclasses.replace(options, data_path=None, dataset=dataset.name, only=("pixelcnn",))
    assert any("train 1" in line and "10 classes" in line for line in said(named, monkeypatch, LARGE))


def test_files_of_ones_own_take_the_place_of_images_that_ship(tmp_path: Path) -> None:
    path, lines = str(tmp_path / "mine.npz"), list[str]()
    np.savez(path, x_train=np.zeros((4, 6, 6), np.uint8), x_test=np.zeros((2, 6, 6), np.uint8))
    recipes = TrainAll(data_path=path).recipes(lines.append)
    assert {(recipe.dataset.source, recipe.dataset.path) for recipe in recipes} == {("arrays", path)}
    assert len(lines) == 1 and f"'{path}' is taken for NumPy arrays (source arrays)" in lines[0]
    (recipe, *_) = TrainAll(suite="cifar10", data_path=path).recipes(lines.append)
    assert (recipe.dataset.source, recipe.dataset.path) == ("cifar10", path) and len(lines) == 1
    with pytest.raises(UserError, match=r"does not exist; give --data-path FOLDER"):
        TrainAll(data_path=f"{path}.gone").recipes()
    assert TrainAll(data_path=f"{path}.gone", dataset="digits").recipes()[0].dataset.source == "digits"


@pytest.mark.parametrize("dry", [True, False])
def test_files_of_another_source_are_told_with_the_options_of_training(
    tmp_path: Path, storage: Storage, dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_NHW = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images_NHW))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(20, dtype=np.uint8) % 10))
    options = TrainAll(suite="mnist_fixed", data_path=str(tmp_path), storage=storage.root, only=("pixelcnn",))
    with pytest.raises(UserError) as error:
        if dry:
            said(options, monkeypatch, LARGE)
        else:
            plans_of(options, options.recipes(), None, SimpleNamespace(storage=storage), print)
    told = str(error.value)
    assert "give their folder with --data-path; it seems to hold IDX files of MNIST, Fashion-MNIST or KMNIST: give --source mnist" in told
    assert told.endswith(" (--source: of pipelines/prepare_data.py; then train on it with --dataset NAME)")
    with pytest.raises(UserError, match=r"'.*gone' does not exist; give --data-path FOLDER with images, or with files of a known set$"):
        TrainAll(data_path=str(tmp_path / "gone")).recipes()


def test_flags_change_recipes() -> None:
    plain = suite("mnist_fixed")
    changed = TrainAll(suite="mnist_fixed", accumulate=3, activation_checkpointing=True, precision="bfloat16").recipes()
    assert [(one.accumulate, one.activation_checkpointing, one.precision) for one in changed] == [(3, True, "bfloat16")] * len(plain)
    assert TrainAll(suite="mnist_fixed").recipes() == plain


@pytest.mark.parametrize(("nodes", "fits"), [([1.9], False), ([1.9, 2.1], True), ([math.inf], True)])
def test_weights_that_fit_no_node_are_told_before_anything_is_trained(nodes: list[float], fits: bool) -> None:
    """100 million numbers: weights, gradients, two moments and the average are 2 GB."""
    recipe, there = suite("digits")[0], [{"CPU": 4.0, "memory": 1e9 * size} for size in nodes]
    if fits:
        check_weights_fit(recipe, 10**8, WorkerNeeds(1), there)
    else:
        with pytest.raises(UserError, match=r"^recipe 'pixelcnn' needs 1.9 GiB .* node has 1.8 GiB: no room for 1; give it"):
            check_weights_fit(recipe, 10**8, WorkerNeeds(1), there)


def test_weights_that_fit_no_gpu_of_the_cluster_are_told_by_who_has_none() -> None:
    recipe, there = suite("digits")[0], [{"CPU": 4.0, "memory": 1e12}]
    needs = WorkerNeeds(1, use_gpu=True)
    check_weights_fit(recipe, 10**8, needs, there)  # nobody knows
    check_weights_fit(recipe, 10**8, needs, there, gpu_bytes=3 << 30)
    with pytest.raises(UserError, match=r"needs 1.9 GiB .* and a GPU has 1.0 GiB: no room; give it fewer features"):
        check_weights_fit(recipe, 10**8, needs, there, gpu_bytes=1 << 30)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 RGB pictures of 5x4 (height x width)."""
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.fromarray(np.full((5, 4, 3), (i, 2 * i, 3 * i), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("dry", [True, False])
def test_a_recipe_that_cannot_order_colours_is_told_first_with_what_can(
    pictures: Path, storage: Storage, dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(**given: Any) -> tuple[str, list[str]]:
        options, lines = TrainAll(data_path=str(pictures), storage=storage.root, **given), list[str]()
        with pytest.raises(UserError) as error:
            if dry:
                dry_run(options, lines.append)
            else:
                plans_of(options, options.recipes(), None, SimpleNamespace(storage=storage), lines.append)
        return str(error.value), [line for line in lines if " parameters; " in line]

    monkeypatch.setattr(module.ray_cluster, "connect", lambda: None)
    monkeypatch.setattr(module, "cluster_nodes", lambda needs: [LARGE])
    why = "cannot be trained on colour images: neither the architecture nor likelihood 'categorical' orders the 3 channels"
    mixture = "--likelihood discretized_logistic_mixture"
    assert told() == (f"'pixelsnail' of 'digits' {why}; give --suite photos, or {mixture}, or --exclude pixelsnail", [])
    both = "'pixelcnn_pp', 'pixelsnail' of 'digits'"
    exclude = "--exclude pixelcnn pixelcnn_pp pixelsnail"
    assert told(exclude=("pixelcnn",), likelihood="categorical") == (f"{both} {why}; give --suite photos, or {mixture}, or {exclude}", [])
    file = storage.root + "/snail.yaml"
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(recipe_text(next(recipe for recipe in suite("digits") if recipe.name == "pixelsnail")))
    assert told(recipe_file=file) == (f"'pixelsnail' of 'snail' {why}; give {mixture}", [])


@pytest.mark.parametrize("given", [{"suite": "photos"}, {"likelihood": "discretized_logistic_mixture"}, {"exclude": ("pixelsnail",)}])
def test_what_is_said_of_colours_helps(given: dict[str, Any], pictures: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(TrainAll(data_path=str(pictures), storage=storage.root, **given), monkeypatch, LARGE)
    assert len([line for line in lines if " parameters; " in line]) == len(suite(given.get("suite", "digits"))) - ("exclude" in given)
