"""Files that a model is given, or that it completes: the context that training would make of them, and nothing left out in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.sample import main
from pixelmodels.data import dequantize
from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextSpec, PixelModel, build
from pixelmodels.models.context_images import grey, small
from pixelmodels.models.files import save_model
from pixelmodels.pictures import grid
from pixelmodels.sampling import reference_sample, sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from tests.conformance.conftest import small_config

SPEC = ImageSpec(3, 4, 4, 7)
GIVEN = ContextSpec(2, 3, ImageSpec(1, 4, 4, 7), ImageSpec(3, 2, 2, 7))  # all kinds


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PixelModel:
    """A model that is given grey and small images; saved as `model` in the working directory."""
    monkeypatch.chdir(tmp_path)
    return saved(GIVEN)


@pytest.fixture
def x_MCHW(tmp_path: Path) -> Tensor:
    """Two images; their files, their grey and their small ones are in folders of the working directory."""
    x_MCHW = torch.randint(7, (2, *SPEC.shape), generator=torch.Generator().manual_seed(1))
    for folder, images in {"colour": x_MCHW, "grey": grey(x_MCHW), "small": small(x_MCHW, 2)}.items():
        (tmp_path / folder).mkdir()
        for i, image_CHW in enumerate(dequantize(images.numpy().astype(np.uint8), 7)):
            Image.fromarray(image_CHW.transpose(1, 2, 0).squeeze()).save(tmp_path / folder / f"{i}.png")
    return x_MCHW


def saved(context_spec: ContextSpec) -> PixelModel:
    model = build(small_config("gated_pixelcnn"), SPEC, LikelihoodConfig("categorical"), context_spec).double().eval()
    for parameter in model.parameters():
        if not parameter.any():  # what begins with zeros
            parameter.data.normal_(0, 0.3)
    save_model(Path("model"), model)
    return model


def run(storage: Storage, *arguments: object) -> None:
    assert main(["model", "--storage", storage.root, *map(str, arguments)]) == 0


def test_a_file_that_is_completed_gives_its_grey_and_small_image(
    model: PixelModel, x_MCHW: Tensor, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    run(storage, "--complete", "colour", "--known-rows", 2, "--n", 6, "--samples-each", 3, "--label", 1, 0, "--out", "completed.npz")
    assert "conditioned on a vector, of which nothing is given: the samples do without" in capsys.readouterr().out
    found, x_NCHW = np.load("completed.npz"), x_MCHW.repeat_interleave(3, 0)
    mask_NHW = torch.zeros(6, 4, 4, dtype=torch.bool)
    mask_NHW[:, :2] = True
    known = {"known_NCHW": x_NCHW, "known_mask_NHW": mask_NHW}
    label_N = torch.tensor([1, 0, 1, 0, 1, 0])
    context = Context(label_N, None, grey(x_NCHW), small(x_NCHW, 2))
    assert np.array_equal(found["originals_NCHW"], x_NCHW)
    assert np.array_equal(found["images_NCHW"][:, :, :2], x_NCHW[:, :, :2])
    assert np.array_equal(found["images_NCHW"], reference_sample(model, 6, seed=0, context=context, **known).numpy())
    assert not np.array_equal(found["images_NCHW"], reference_sample(model, 6, seed=0, context=Context(label_N), **known).numpy())
    assert np.array_equal(found["label_N"], label_N)
    assert np.array_equal(found["given_image_NCHW"], grey(x_NCHW))


@pytest.mark.parametrize("folder", ["grey", "colour"])
def test_grey_images_are_coloured(
    folder: str, model: PixelModel, x_MCHW: Tensor, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    run(storage, "--given", folder, "--n", 6, "--samples-each", 3, "--out", "coloured.npz")
    said = capsys.readouterr().out
    assert f"3 samples of each of 2 of 2 images of '{folder}'" in said
    assert "conditioned on a class and a vector and a small image, of which nothing is given" in said
    found, grey_NCHW = np.load("coloured.npz"), grey(x_MCHW).repeat_interleave(3, 0)
    assert np.array_equal(found["given_image_NCHW"], grey_NCHW)
    assert np.array_equal(found["images_NCHW"], sample(model, 6, seed=0, context=Context(image_BCHW=grey_NCHW)).numpy())
    run(storage, "--given", folder, "--n", 6, "--samples-each", 3, "--out", "coloured.png")
    rows = [np.concatenate([grey(x_MCHW)[[i]].expand(1, 3, 4, 4), found["images_NCHW"][3 * i : 3 * i + 3]]) for i in (0, 1)]
    assert np.array_equal(np.asarray(Image.open("coloured.png")), grid(np.concatenate(rows).astype(np.uint8), 7, columns=4))


def test_small_images_are_enlarged_and_kept(model: PixelModel, x_MCHW: Tensor, storage: Storage) -> None:
    common = ["--given", "small", "--n", 4, "--samples-each", 2, "--label", 0, 1, 1]
    run(storage, *common, "--out", "enlarged.npz")
    images_NCHW, small_NCHW = np.load("enlarged.npz")["images_NCHW"], small(x_MCHW, 2).repeat_interleave(2, 0)
    context = Context(label_B=torch.tensor([0, 1, 1, 0]), small_BCHW=small_NCHW)
    assert np.array_equal(images_NCHW, sample(model, 4, seed=0, context=context).numpy())
    assert np.array_equal(images_NCHW[..., ::2, ::2], small_NCHW)
    run(storage, *common, "--out", "enlarged.png", "--gif", "enlarged.gif")
    blocks = small(x_MCHW, 2).repeat_interleave(2, 2).repeat_interleave(2, 3).numpy()
    rows = [np.concatenate([blocks[[i]], images_NCHW[2 * i : 2 * i + 2]]) for i in (0, 1)]
    assert np.array_equal(np.asarray(Image.open("enlarged.png")), grid(np.concatenate(rows).astype(np.uint8), 7, columns=3))


@pytest.mark.usefixtures("model", "x_MCHW")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--given", "none"], "--given 'none' not found; give an image file, or a folder of them"),
        (
            ["--given", "large.png"],
            r"large\.png' is 5x4 \(height x width\), the images that the model is given are 4x4 or 2x2; resize",
        ),
        (["--given", "mixed"], r"--given: 'mixed/1\.png' is 2x2 \(height x width\), the images that the model is given are 4x4; resize"),
        (["--given", "model/model.json"], r"--given: 'model/model\.json' cannot be read"),
    ],
)
def test_files_that_cannot_be_given_are_told(arguments: list[str], message: str, storage: Storage) -> None:
    Image.fromarray(np.zeros((5, 4), np.uint8)).save("large.png")
    Path("mixed").mkdir()
    for i, side in enumerate((4, 2)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(f"mixed/{i}.png")
    with pytest.raises(UserError, match=message) as error:
        run(storage, *arguments)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("model", "x_MCHW")
def test_a_given_image_that_is_not_made_of_the_file_is_told(storage: Storage) -> None:
    saved(ContextSpec(image=ImageSpec(1, 4, 4, 5)))
    with pytest.raises(UserError, match="1x4x4 with 5 levels, which cannot be made of its own images; give them with --given"):
        run(storage, "--complete", "colour", "--known-rows", 2)


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        (ContextSpec(image=GIVEN.image), [], "conditioned on an image, of which"),
        (ContextSpec(small=GIVEN.small), ["--seed", 3], "conditioned on a small image, of which"),
        (ContextSpec(2), [], "conditioned on a class, of which"),
        (GIVEN, [], "conditioned on a class and a vector and an image and a small image, of which"),
        (GIVEN, ["--label", 1], "also conditioned on a vector and an image and a small image, of which"),
        (GIVEN, ["--between", 0, 1, "--num-steps", 2], "also conditioned on a vector and an image and a small image, of which"),
        (ContextSpec(2), ["--label", 1], None),
        (ContextSpec(2), ["--between", 0, 1, "--num-steps", 2], None),
        (ContextSpec(), [], None),
    ],
)
def test_what_samples_do_without_is_told(
    spec: ContextSpec,
    options: list[object],
    says: str | None,
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(spec)
    run(storage, "--out", "drawn.npz", "--n", 2, *options)
    lines = [line for line in capsys.readouterr().out.splitlines() if "conditioned on" in line]
    assert lines == ([] if says is None else [f"the model is {says} nothing is given: the samples do without"])
