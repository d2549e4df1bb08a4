"""A user's mistakes: exit status 2 and one line on stderr that names the value and the choices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import evaluate, train_all
from pixelmodels.data.dataset import FORMAT_VERSION
from pixelmodels.errors import exit_with
from pixelmodels.models.files import AVERAGE
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from tests.training.tiny_run import tiny_plan, tiny_recipe

ROOT = Path(__file__).resolve().parents[2]


def line_of(main: object, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as leaving:
        exit_with(lambda: main(argv))  # type: ignore[operator]
    assert leaving.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "digts"], ["suite 'digts' unknown", "digits_by_class, ", "did you mean 'digits'"]),
        (["--only", "pixelcn"], ["model 'pixelcn' unknown", "did you mean 'pixelcnn'"]),
        (["--exclude", "resnet"], ["model 'resnet' unknown"]),
        (["--only", "pixelcnn", "--exclude", "pixelcnn"], ["leave no model"]),
        (["--dataset", "mnist"], ["data set 'mnist' unknown", "prepare_data.py"]),
        (["--likelihood", "mixx"], ["likelihood 'mixx' unknown", "discretized_logistic_mixture"]),
        (["--epochs", "0"], ["epochs is 0"]),
        (["--learning-rate", "-1"], ["learning_rate is -1"]),
        (["--condition-on", "lable"], ["lable", "label", "vector", "grey", "small"]),
        (["--small-factor", "4"], ["--small-factor 4", "no model is given a small image", "add --condition-on small"]),
        (["--small-factor", "4", "--condition-on", "label"], ["--small-factor 4", "add --condition-on small"]),
        (["--condition-on", "small", "--small-factor", "1", "--only", "pixelcnn"], ["small_factor is 1", "2 or more"]),
        (["--condition-on", "small"], ["'multiscale_pixelrnn' is conditioned on 'small'", "--exclude multiscale_pixelrnn"]),
        (["--ablation", "--condition-on", "small"], ["--exclude gated_pixelcnn-multi-scale"]),
        (["--num-workers", "0"], ["--num-workers 0"]),
        (["--suite", "photos", "--ablation"], ["suite 'photos' has no ablation", "have digits", "leave out --ablation"]),
        (["--suite", "digts", "--ablation"], ["suite 'digts' unknown", "did you mean 'digits'"]),
        (["--ablation", "--only", "pixelsnail"], ["model 'pixelsnail' unknown", "gated_pixelcnn-without-gating"]),
        (["--ablation", "--likelihood", "categorical"], ["--likelihood categorical", "leave one of the two out"]),
    ],
)
def test_train_all_tells_mistakes_in_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(train_all.main, [*arguments, "--storage", str(tmp_path / "storage")], capsys)
    for word in words:
        assert word in line


@pytest.mark.parametrize("root", ["/proc/pixelmodels", __file__, "ftp://host/folder"])
def test_a_storage_root_that_cannot_be_written_is_named(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root in line_of(train_all.main, ["--storage", root], capsys)


MANIFEST = {
    "format_version": FORMAT_VERSION,
    "name": "tiny",
    "fingerprint": "0123456789ab",
    "image": {"channels": 1, "height": 4, "width": 3, "levels": 4},
    "label_names": ["a", "b"],
    "train_images_are_grey": False,
    "splits": {split: {"num_images": 9, "num_unlabelled": 0, "shards": []} for split in ("train", "validation", "test")},
}


def add_dataset(storage: Storage, name: str, **changes: Any) -> None:
    manifest = {**MANIFEST, "name": name, **changes}
    storage.write_bytes(f"datasets/{name}-{manifest['fingerprint']}/manifest.json", json.dumps(manifest).encode())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, dict[str, str]]:
    """A storage root with runs, and data sets that fit them or do not; and the folders of a run on labels, on vectors, on nothing."""
    storage = Storage(str(tmp_path_factory.mktemp("trained")))
    folders = {}
    for name, kinds in (("run", ("label",)), ("vectors", ("vector",)), ("plain", ())):
        plan = tiny_plan(storage, tiny_recipe(epochs=1, condition_on=kinds))
        train(plan, say=lambda _: None)
        folders[name] = plan.folder
    add_dataset(storage, "tiny")
    add_dataset(storage, "wide", image={"channels": 1, "height": 4, "width": 9, "levels": 4})
    add_dataset(storage, "others", label_names=["a", "b", "c"])
    add_dataset(storage, "renamed", label_names=["a", "B"])
    add_dataset(storage, "reordered", label_names=["b", "a"])
    some = {split: {"num_images": 9, "num_unlabelled": 2, "shards": []} for split in ("train", "validation", "test")}
    add_dataset(storage, "partly", splits=some)
    add_dataset(storage, "dynamic", train_images_are_grey=True)
    return storage, folders


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}", "--dataset", "mnist"], ["data set 'mnist' unknown", "tiny"]),
        (["runs/none", "--dataset", "tiny"], ["model 'runs/none' not found", "models:/digits/1"]),
        (["datasets", "--dataset", "tiny"], ["holds no model"]),
        (["{run}", "--dataset", "tiny", "--split", "testing"], ["split 'testing' unknown", "did you mean 'test'"]),
        (["{run}", "--dataset", "wide"], ["data set 'wide'", "1x4x3", "1x4x9"]),
        (["{run}", "--dataset", "others"], ["2 classes", "'others' has 3", "only the data set knows 'c'", "--without-context"]),
        (["{run}", "--dataset", "renamed"], ["'renamed'", "only the model knows 'b'; only the data set knows 'B'", "--without-context"]),
        (["{run}", "--dataset", "reordered"], ["'reordered'", "label 0 is 'a' to the model and 'b' there", "--without-context"]),
        (["{run}", "--dataset", "partly"], ["'partly'", "2 of test", "without a label", "--without-context"]),
        (["{vectors}", "--dataset", "tiny"], ["vectors of 3 numbers", "'tiny' has 0", "--without-context"]),
        (["{plain}", "--dataset", "tiny", "--without-context"], ["--without-context", "not conditioned on anything"]),
        (["{run}", "--dataset", "dynamic", "--split", "train"], ["drawn anew each epoch", "validation or test"]),
        (["{run}", "--dataset", "tiny", "--num-workers", "0"], ["--num-workers 0 is too few"]),
        (["{run}", "--dataset", "tiny", "--batch-size", "0"], ["--batch-size 0 is too few"]),
        (["{run}", "--dataset", "tiny", "--num-images", "-1"], ["--num-images -1 is too few"]),
        (["{run}", "--dataset", "tiny", "--probe", "--probe-images", "0"], ["--probe-images 0 is too few"]),
    ],
)
def test_evaluate_tells_mistakes_in_one_line(
    arguments: list[str], words: list[str], trained: tuple[Storage, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, folders = trained
    line = line_of(evaluate.main, [*(word.format(**folders) for word in arguments), "--storage", storage.root], capsys)
    for word in words:
        assert word in line


def test_evaluate_names_a_damaged_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = Storage(str(tmp_path))
    plan = tiny_plan(storage, tiny_recipe(epochs=1))
    folder = f"{plan.folder}/checkpoints/{train(plan, say=lambda _: None).best_step:08d}"
    add_dataset(storage, "tiny")
    weights = f"{folder}/{AVERAGE}"
    storage.write_bytes(weights, storage.read_bytes(weights)[:-5])
    line = line_of(evaluate.main, [folder, "--dataset", "tiny", "--storage", storage.root], capsys)
    assert folder in line and "average.safetensors is cut short" in line


def test_a_mistake_in_a_process_of_its_own() -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "train_all.py"), "--suite", "digts"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: suite 'digts' unknown")
