"""Samples of classes that are asked for by name, and the names beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.sample import main
from pixelmodels.data import quantize
from pixelmodels.errors import UserError
from pixelmodels.evaluation.sample_grids import sample_grid, written
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextBlend, ContextSpec, PixelModel, build
from pixelmodels.models.files import load_model, save_model
from pixelmodels.pictures import grid
from pixelmodels.samples import sample as sample_run
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.pictures import film, gif_bytes, picture
from pixelmodels.sampling import sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_config
from tests.training.tiny_run import SPEC, TinyDataset

NAMES = ("ant", "1", "Hot dog / très long: " + "ü" * 100, "caf\udce9", "鳥")


def named_model(names: tuple[str, ...] = NAMES, spec: ImageSpec = ImageSpec(1, 3, 2, 7)) -> PixelModel:  # noqa: B008
    torch.manual_seed(0)
    context = ContextSpec(num_classes=len(names), class_names=names)
    return build(small_config("gated_pixelcnn"), spec, LikelihoodConfig("categorical"), context).double().eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", named_model())
    return tmp_path / "model"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[Path, str]:
    assert main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().out
    return Path(said.splitlines()[-1]), said


def test_names_draw_what_their_numbers_draw(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = [folder, "--storage", storage.root, "--out", tmp_path / "drawn.npz", "--n", 6, "--guidance", 0.5]
    path, said = run(capsys, *command, "--label", "ANT", "1", "caf\udce9", "鳥", "2", "-1")
    label_N = torch.tensor([0, 1, 3, 4, 2, -1])  # `1` is the name of the second class, and nothing is called `2`
    expected = sample(load_model(folder), 6, seed=0, context=Context(label_B=label_N), guidance=0.5)
    found = np.load(path)
    assert np.array_equal(found["images_NCHW"], expected.numpy()) and np.array_equal(found["label_N"], label_N)
    assert found["class_names"].tolist() == ["ant", "1", NAMES[2], r"caf\udce9", "鳥"]
    assert rf"classes in turn: 'ant' (0), '1' (1), 'caf\udce9' (3), '鳥' (4), '{NAMES[2]}' (2), no class" in said
    path, said = run(capsys, *command)
    assert set(np.load(path)) == {"images_NCHW"}
    assert "the model is conditioned on a class ('ant', '1', " in said and ", of which nothing is given" in said


def test_the_way_from_a_name_to_another(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = [folder, "--storage", storage.root, "--out", tmp_path / "way.png", "--n", 3, "--num-steps", 4]
    path, said = run(capsys, *command, "--between", "ant", 1)
    first, second = (Context(label_B=torch.full((3,), label)) for label in (0, 1))
    shares = torch.linspace(0, 1, 4, dtype=torch.float64)
    steps = [sample(load_model(folder), 3, seed=0, context=ContextBlend(first, second, share.expand(3))) for share in shares]
    captions = ["ant"] * 3 + [""] * 6 + ["1"] * 3
    wanted = grid(torch.cat(steps).numpy(), 7, columns=3, captions=captions)
    assert np.array_equal(np.asarray(Image.open(path)), wanted) and "from 'ant' (0) to '1' (1)" in said
    plain = grid(torch.cat(steps).numpy(), 7, columns=3)
    assert np.array_equal(wanted[:, -plain.shape[1] :], plain) and wanted.shape[1] > plain.shape[1]


def test_single_files_are_called_by_their_class(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = [folder, "--storage", storage.root, "--out", f"{tmp_path}/single/", "--n", 5]
    path, _ = run(capsys, *command, "--label", *range(2, 5), "ant", "1")
    files = sorted(path.iterdir())
    names = [file.name for file in files]
    assert [names[0][:27], *names[1:]] == ["0000-Hot_dog_très_long_üüüü", "0001-caf_udce9.png", "0002-鳥.png", "0003-ant.png", "0004-1.png"]
    assert len(names[0].encode()) <= 90
    levels_NHW = quantize(np.stack([np.asarray(Image.open(file)) for file in files]), 7)
    expected = sample(load_model(folder), 5, seed=0, context=Context(label_B=torch.tensor([2, 3, 4, 0, 1])))
    assert np.array_equal(levels_NHW, expected[:, 0].numpy())
    run(capsys, *command, "--label", "Hot dog / très long: " + "Ü" * 100, "caf\udce9", "鳥", "ant", 1)  # again, the same files
    assert sorted(path.iterdir()) == files
    with pytest.raises(UserError, match=r"which is none of these samples"):
        main([str(argument) for argument in (*command, "--label", "ant")])


def test_pictures_have_a_name_for_each_column(folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = [folder, "--storage", storage.root, "--out", tmp_path / "drawn.png", "--gif", tmp_path / "drawn.gif", "--n", 8]
    path, _ = run(capsys, *command, "--label", "ant", "鳥")
    context = Context(label_B=torch.tensor([0, 4] * 4))
    x_NCHW = sample(load_model(folder), 8, seed=0, context=context).numpy()
    found = np.asarray(Image.open(path))
    columns = 4  # two of each
    assert np.array_equal(found, grid(x_NCHW, 7, columns=columns, captions=["ant", "class 4"] * 4))  # there are no letters for the bird
    with Image.open(tmp_path / "drawn.gif") as gif:
        gif.seek(gif.n_frames - 1)
        assert np.array_equal(np.asarray(gif.convert("RGB")), found)
        gif.seek(0)
        assert np.array_equal(np.asarray(gif.convert("RGB"))[:18], found[:18])  # the names are there from the beginning


def test_test_images_have_the_names_of_their_own_classes(
    storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = named_model(TinyDataset().label_names, SPEC)
    save_model(tmp_path / "tiny", model)
    monkeypatch.setattr(sample_run, "find_dataset", lambda *_: TinyDataset())
    command = [tmp_path / "tiny", "--storage", storage.root, "--dataset", "tiny", "--n", 4, "--samples-each", 2]
    path, _ = run(capsys, *command, "--known-rows", 2, "--out", tmp_path / "known.npz")
    found, test = np.load(path), TinyDataset().some("test", 2)
    names = [TinyDataset().label_names[label] for label in test.labels_N]  # type: ignore[union-attr]
    assert found["class_names"][found["label_N"]].tolist() == [name for name in names for _ in range(2)]
    path, _ = run(capsys, *command, "--out", tmp_path / "of_class.png")
    shown = np.asarray(Image.open(path))
    x_NCHW = sample(model, 4, seed=0, context=Context(label_B=torch.from_numpy(test.labels_N).repeat_interleave(2))).numpy()  # type: ignore[arg-type]
    rows = np.concatenate([test.images_NCHW[:, None], x_NCHW.reshape(2, 2, *SPEC.shape)], 1).reshape(-1, *SPEC.shape)
    assert np.array_equal(shown, grid(rows, SPEC.levels, columns=3, captions=[name for name in names for _ in range(3)]))


def test_pictures_of_a_training_name_the_columns() -> None:
    named, unnamed = named_model(TinyDataset().label_names, SPEC), named_model(TinyDataset().label_names, SPEC)
    unnamed.context_spec = ContextSpec(num_classes=2)
    with_names, without = (sample_grid(TinyDataset(), model, 6, seed=1) for model in (named, unnamed))  # type: ignore[arg-type]
    x_NCHW = sample(named, 6, seed=1, context=Context(label_B=torch.tensor([0, 1] * 3))).numpy()
    assert np.array_equal(without, grid(x_NCHW, SPEC.levels, columns=2))
    assert np.array_equal(with_names, grid(x_NCHW, SPEC.levels, columns=2, captions=[*TinyDataset().label_names] * 3))
    assert not np.array_equal(with_names, without)


def test_animations_that_show_the_first_images_only_have_their_names() -> None:
    model = named_model(("left", "right"), ImageSpec(1, 200, 300, 7))
    n = 20
    context = Context(label_B=torch.tensor([0, 1]))
    commission = Commission(np.arange(n), np.arange(n) % 2, context=context, columns=4)
    x_NCHW = np.zeros((n, 1, 200, 300), np.uint8)
    pictures = film(commission, x_NCHW, model)
    eight = Commission(np.arange(8), np.arange(8) % 2, context=context, columns=4)
    assert np.array_equal(pictures[-1], picture(eight, x_NCHW[:8], model)) and gif_bytes(pictures[-2:])[:3] == b"GIF"


def test_a_name_without_letters_is_told_by_its_number() -> None:
    spec = ContextSpec(len(NAMES), class_names=NAMES)
    assert written(["ant", "鳥", "", r"caf\udce9"], spec) == ["ant", "class 4", "", r"caf\udce9"]
