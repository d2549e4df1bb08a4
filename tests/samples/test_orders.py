"""Samples from the command line of a model of several orders: completed from any side, told which order, and a film of each one's rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.sample import main
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.models.turns import known_from, turned_arrays
from pixelmodels.pictures import BACKGROUND, grid
from pixelmodels.samples import sample as sample_run
from pixelmodels.samples.commission import Commission
from pixelmodels.samples.pictures import film, masks
from pixelmodels.sampling import reference_sample, sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_model
from tests.training.tiny_run import TinyDataset


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PixelModel:
    """A model of eight orders of images of 4x4 with 4 levels, saved in `tmp_path` / model; a data set of such images is prepared."""
    made = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=4, context="orders")
    save_model(tmp_path / "model", made)
    monkeypatch.setattr(sample_run, "find_dataset", lambda *_: TinyDataset(spec=ImageSpec(1, 4, 4, 4)))
    return made


def drawn(tmp_path: Path, storage: Storage, *arguments: object) -> dict[str, np.ndarray]:
    out = tmp_path / "out.npz"
    assert main([str(one) for one in (tmp_path / "model", "--storage", storage.root, "--out", out, "--n", 6, *arguments)]) == 0
    return dict(np.load(out))


def test_samples_are_of_the_mixture_or_of_the_order_that_is_asked_for(model: PixelModel, storage: Storage, tmp_path: Path) -> None:
    found = drawn(tmp_path, storage, "--seed", 3)
    assert np.array_equal(found["images_NCHW"], sample(model, 6, seed=3).numpy()) and len(set(found["order_N"].tolist())) > 2
    found = drawn(tmp_path, storage, "--seed", 3, "--order", 6, "--batch-size", 4)
    assert np.array_equal(found["images_NCHW"], sample(model, 6, seed=3, order=6).numpy()) and set(found["order_N"].tolist()) == {6}


@pytest.mark.parametrize(("side", "order"), [("top", 0), ("bottom", 1), ("left", 4), ("right", 5)])
def test_test_images_are_completed_from_any_side(
    model: PixelModel, side: str, order: int, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = drawn(tmp_path, storage, "--dataset", "tiny", "--known-rows", 3, "--known-side", side, "--samples-each", 3)
    said = capsys.readouterr()
    assert f"12 of 16 pixels of each are known, the others drawn by order {order} (" in said.out + said.err
    assert "come after" not in said.out + said.err
    known_HW = known_from(side, 3, 4, 4)  # type: ignore[arg-type]
    assert np.array_equal(found["known_HW"], known_HW) and set(found["order_N"].tolist()) == {order}
    originals_NCHW = torch.from_numpy(found["originals_NCHW"])
    mask_NHW = torch.from_numpy(known_HW)[None].expand(6, -1, -1)
    x_NCHW = reference_sample(model, 6, seed=0, known_NCHW=originals_NCHW, known_mask_NHW=mask_NHW)
    assert np.array_equal(found["images_NCHW"], x_NCHW.numpy())


def test_known_pixels_that_come_too_late_are_told(
    model: PixelModel, storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn(tmp_path, storage, "--dataset", "tiny", "--known-rows", 2, "--known-side", "bottom", "--order", 0)
    said = "".join(capsys.readouterr())
    assert "drawn by order 0 (rows from the top, each from the left); 8 of them come after pixels that are drawn" in said


def test_an_animation_shows_the_rows_of_each_image_as_they_are_drawn(model: PixelModel) -> None:
    commission = Commission(np.arange(6), np.zeros(6, np.int64), seed=3)
    order_N = commission.orders_N(model)
    x_NCHW = sample(model, 6, seed=3).numpy()
    frames = film(commission, x_NCHW, model)
    assert len(frames) == 5
    for number, frame in enumerate(frames):
        shown_NHW = np.stack([list(masks(model, None, int(order)))[number] for order in order_N])
        turned_NHW = turned_arrays(shown_NHW, order_N)
        assert turned_NHW[:, :number].all() and not turned_NHW[:, number:].any()
        expected_N3HW = np.where(shown_NHW[:, None], x_NCHW * 85, BACKGROUND).repeat(3, 1).astype(np.uint8)
        assert np.array_equal(frame, grid(expected_N3HW, 256))


def test_mistakes_are_told_in_a_line(model: PixelModel, storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"order 8 is out of range; the model has 0\.\.7"):
        drawn(tmp_path, storage, "--order", 8)
    with pytest.raises(UserError, match="--known-side left says what --known-rows counts; give --known-rows N too"):
        drawn(tmp_path, storage, "--known-side", "left")
    with pytest.raises(UserError, match="--known-rows 4 is out of range; the model's images have 4 columns"):
        drawn(tmp_path, storage, "--dataset", "tiny", "--known-rows", 4, "--known-side", "left")
