"""Sweeps and dreams from the command line: the images and the steps that the engine draws, and mistakes in one line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.sample import main
from pixelmodels.errors import UserError
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.pictures import grid
from pixelmodels.samples import sample as sample_run
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.drawing import Means
from pixelmodels.samples.dreaming import dream_frames
from pixelmodels.samples.pictures import animation_bytes
from pixelmodels.sampling import Engine, Request, draw_all
from pixelmodels.sampling.resampling import Dream
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_model
from tests.training.tiny_run import TinyDataset

HOLE = np.zeros((4, 4), bool)
HOLE[1:3, 1:3] = True


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PixelModel:
    """A model of eight orders; a data set of its images is prepared."""
    return _saved("orders", tmp_path, monkeypatch)


@pytest.fixture
def by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PixelModel:
    """A model of three classes and one order."""
    return _saved("label", tmp_path, monkeypatch)


def _saved(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PixelModel:
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=4, context=kind)
    save_model(tmp_path / "model", model)
    data = TinyDataset(spec=ImageSpec(1, 4, 4, 4), num_classes=3)
    monkeypatch.setattr(sample_run, "find_dataset", lambda *_: data)
    monkeypatch.chdir(tmp_path)
    Image.fromarray((~HOLE * 255).astype(np.uint8)).save("known.png")
    return model


def run(storage: Storage, *arguments: object) -> None:
    assert main([str(one) for one in ("model", "--storage", storage.root, *arguments)]) == 0


def test_sweeps_are_those_of_the_engine_in_any_blocks(several: PixelModel, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--dataset", "tiny", "--known", "known.png", "--n", 6, "--samples-each", 3, "--seed", 2]
    run(storage, *common, "--sweeps", 2, "--batch-size", 4, "--out", "swept.npz")
    assert "until it is drawn again in 2 sweeps by several orders, which is an approximation" in capsys.readouterr().out
    found = np.load("swept.npz")
    known = {"known_NCHW": torch.from_numpy(found["originals_NCHW"]), "known_mask_NHW": torch.from_numpy(~HOLE)[None]}
    assert np.array_equal(found["images_NCHW"], draw_all(several, Request(n=6, seed=2, sweeps=2, **known)).numpy())
    assert np.array_equal(found["images_NCHW"][:, :, ~HOLE], found["originals_NCHW"][:, :, ~HOLE])
    run(storage, *common, "--sweeps", 0, "--out", "zero.npz")
    run(storage, *common, "--out", "without.npz")
    zero, without = np.load("zero.npz"), np.load("without.npz")
    assert all(np.array_equal(zero[name], without[name]) for name in without.files) and set(zero.files) == set(without.files)
    assert not np.array_equal(zero["images_NCHW"], found["images_NCHW"])


def steps_of(model: PixelModel, request: Request) -> np.ndarray:
    """Every step of a dream, S + 1 N C H W."""
    assert request.dream is not None
    engine = Engine(model, num_slots=request.n)
    engine.submit(request)
    found = np.zeros((request.dream.num_steps + 1, request.n, *model.spec.shape), np.uint8)
    while not engine.is_idle:
        for row in engine.step_row():
            if row.image_CHW is not None:
                found[row.redraw, row.image] = row.image_CHW.numpy()
    return found


def test_a_dream_of_classes_is_kept_step_by_step_and_shown_as_a_film(
    by_class: PixelModel, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    run(storage, "--label", 2, "--n", 3, "--dream", 5, "--dream-region", 2, "--temperature", 0.7, "--batch-size", 2, "--out", "dream.npz")
    run(storage, "--label", 2, "--n", 3, "--dream", 5, "--dream-region", 2, "--temperature", 0.7, "--gif", "dream.gif", "--out", "end.png")
    assert "3 dreams of model in" in capsys.readouterr().out
    request = Request(n=3, context=Context(label_B=torch.tensor([2, 2, 2])), temperature=0.7, dream=Dream(5, 2))
    steps, found = steps_of(by_class, request), np.load("dream.npz")
    assert np.array_equal(found["dream_SNCHW"], steps) and np.array_equal(found["images_NCHW"], steps[-1])
    with Image.open("dream.gif") as film:
        assert film.n_frames == 6
        for number in range(6):
            film.seek(number)
            assert np.array_equal(np.asarray(film.convert("RGB")), grid(steps[number], 4)), number
    assert np.array_equal(np.asarray(Image.open("end.png")), grid(steps[-1], 4))


class Counted(np.ndarray):
    """Arrays that count what is written into them along their first axis."""

    num_written = 0

    def __setitem__(self, key: Any, value: Any) -> None:
        Counted.num_written += len(self[key])
        super().__setitem__(key, value)


def test_each_step_is_kept_once_and_a_dream_with_nothing_to_draw_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, numbers_N = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=4), np.arange(3)
    counting = SimpleNamespace(uint8=np.uint8, zeros=lambda *how: np.zeros(*how).view(Counted))
    monkeypatch.setattr("pixelmodels.samples.dreaming.np", counting)
    commission = Commission(numbers_N, np.zeros(3, np.int64), dream=Dream(6, 2))
    frames_SNCHW = dream_frames(model, commission, 2, Means())
    assert Counted.num_written == 7 * 3 and np.array_equal(frames_SNCHW, steps_of(model, Request(n=3, dream=Dream(6, 2))))
    original_1CHW = torch.randint(4, (1, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    whole = replace(commission, originals_MCHW=original_1CHW, samples_each=3, known_HW=torch.ones(4, 4, dtype=torch.bool))
    assert (dream_frames(model, whole, 2, Means()) == original_1CHW.numpy()).all()


def test_a_dream_begins_with_test_images_or_keeps_what_is_known_of_them(several: PixelModel, storage: Storage) -> None:
    common = ["--dataset", "tiny", "--n", 4, "--samples-each", 2, "--dream", 4, "--dream-region", 2]
    run(storage, *common, "--out", "begun.npz")
    begun = np.load("begun.npz")
    assert np.array_equal(begun["dream_SNCHW"][0], begun["originals_NCHW"]) and not np.array_equal(
        begun["images_NCHW"], begun["originals_NCHW"]
    )
    start = torch.from_numpy(begun["originals_NCHW"])
    assert np.array_equal(begun["dream_SNCHW"], steps_of(several, Request(n=4, dream=Dream(4, 2), start_NCHW=start)))
    run(storage, *common, "--known", "known.png", "--out", "kept.npz")
    kept = np.load("kept.npz")
    assert (kept["dream_SNCHW"][..., ~HOLE] == kept["originals_NCHW"][..., ~HOLE]).all()
    assert (kept["dream_SNCHW"][1:] != kept["dream_SNCHW"][:-1]).any()
    Image.fromarray(np.full((4, 4), 85, np.uint8)).save("grey.png")
    run(storage, "--complete", "grey.png", "--n", 2, "--dream", 3, "--out", "file.npz")
    assert (np.load("file.npz")["dream_SNCHW"][0] == 1).all()


def test_an_animation_of_many_colours_is_close_and_of_few_exact() -> None:
    rng = np.random.default_rng(0)
    few = [rng.choice(np.array([0, 60, 255], np.uint8), (9, 7, 1)).repeat(3, 2) for _ in range(4)]
    many = [np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(20)]
    for pictures, most in ((few, 0), (many, 40)):
        with Image.open(io.BytesIO(animation_bytes(pictures))) as film:
            assert film.n_frames == len(pictures)
            for number, one in enumerate(pictures):
                film.seek(number)
                assert np.abs(np.asarray(film.convert("RGB")).astype(int) - one).mean() <= most


@pytest.mark.usefixtures("by_class")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset", "tiny", "--known", "known.png", "--sweeps", 1],
            "1 sweeps asked for, which are by several orders, and the model has one",
        ),
        (["--sweeps", 1], "--sweeps 1 are over what is not known of given images; give --known-rows or --known too"),
        (["--sweeps", -1], "--sweeps -1 is too few; give 0 or more"),
        (["--dream", 0], "--dream 0 is too few; give 1 or more"),
        (["--dream", 2, "--dream-region", 0], "--dream-region 0 is too few"),
        (["--dream-region", 3], "--dream-region is the size of the squares of a dream; give --dream STEPS too"),
        (["--dream", 100_001], r"100001 steps of a dream asked for; give 1\.\.100000"),
        (["--dream", 100_000, "--n", 1000], "--dream 100000: every step of 1000 images is kept, .* give 33553 steps or fewer"),
        (["--dream", 2, "--num-workers", 2], "--dream is drawn by this process"),
        (["--dream", 2, "--speculation"], "--speculation guesses rows, and a --dream has none"),
        (["--dataset", "tiny", "--known", "known.png", "--sweeps", 1, "--dream", 1], "two ways to draw pixels again"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(arguments: list[object], message: str, storage: Storage) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(storage, *arguments)
    assert "\n" not in str(error.value)
