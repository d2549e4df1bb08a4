"""Samples from the command line: the same images as the library draws, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.sample import main
from pixelmodels.errors import UserError
from pixelmodels.models import Context
from pixelmodels.models.files import load_model, save_model
from pixelmodels.sampling import interpolate, sample
from pixelmodels.storage import Storage
from pixelmodels.tracking.grids import grid
from pixelmodels.training import sample_run
from tests.conformance.conftest import small_model
from tests.training.tiny_run import TinyDataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", small_model("pixelcnn", "categorical", 1, 3, 2, levels=7, context="label"))
    return tmp_path / "model"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    assert main([*arguments]) == 0
    return Path(capsys.readouterr().out.splitlines()[-1])


def test_arrays_are_what_the_library_draws(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, common = load_model(folder), [str(folder), "--storage", storage.root, "--out", str(tmp_path / "a" / "drawn.npz"), "--n", "5"]
    path = run(capsys, *common, "--seed", "3", "--label", "2", "0", "--guidance", "0.5")
    context = Context(label_B=torch.tensor([2, 0, 2, 0, 2]))
    assert np.array_equal(np.load(path)["images_NCHW"], sample(model, 5, seed=3, context=context, guidance=0.5).numpy())
    assert np.array_equal(np.load(run(capsys, *common))["images_NCHW"], sample(model, 5, seed=0).numpy())


def test_picture_from_one_class_to_another(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--storage", storage.root, "--out", str(tmp_path / "way.png")]
    path = run(capsys, str(folder), *out, "--between", "0", "2", "--num-steps", "4", "--n", "6")
    ends = [Context(label_B=torch.tensor([label])) for label in (0, 2)]
    x_NCHW = interpolate(load_model(folder), ends[0], ends[1], 4, n=6, seed=0).flatten(0, 1)
    assert np.array_equal(np.asarray(Image.open(path)), grid(x_NCHW.numpy(), 7, columns=6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "--n 0 is too few"),
        (["--out", "drawn.jpg"], r"drawn\.jpg.*\.png or \.npz"),
        (["--label", "3"], "label 3 is out of range; this model knows 0..2"),
        (["--label", "1", "--between", "0", "1"], "--between and --label"),
        (["--between", "0", "1", "--num-steps", "1"], "1 steps asked for"),
        (["--guidance", "-1"], "guidance -1.0 is negative"),
        (["--dataset", "digits"], "data set 'digits' unknown"),
        (["--out", "/proc/no/drawn.png"], "cannot be written"),
    ],
)
def test_mistakes_are_told_in_one_line(folder: Path, storage: Storage, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        main([str(folder), "--storage", storage.root, *arguments])
    assert "\n" not in str(error.value)


def test_a_data_set_of_other_images_is_told(folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_run, "find_dataset", lambda *_: TinyDataset())
    with pytest.raises(UserError, match=r"trained on images of 1x3x2 with 7 levels, data set 'tiny' has 1x4x3 with 4 levels"):
        main([str(folder), "--storage", storage.root, "--dataset", "tiny"])
