from __future__ import annotations

import importlib
import pickle
import pkgutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

import pixelmodels.data.sources
from pixelmodels.data import SOURCES, DatasetConfig
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.sources import open_source
from pixelmodels.data.sources.folder import Folder
from pixelmodels.data.sources.photos import Photos
from pixelmodels.errors import UserError


def test_every_file_is_in_the_table() -> None:
    files = {module.name for module in pkgutil.iter_modules(pixelmodels.data.sources.__path__)}
    assert {target.split(":")[0].rsplit(".", 1)[1] for target in SOURCES.values()} == files
    for target in SOURCES.values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_unknown_sources_and_useless_options_are_told() -> None:
    with pytest.raises(
        UserError, match=r"dataset source 'digit' unknown; have binarized_mnist, cifar10, digits, folder, .*, photos; did you mean 'digits'"
    ):
        open_source(DatasetConfig(source="digit"))
    with pytest.raises(UserError, match="path 'x' has no meaning for source 'digits'"):
        open_source(DatasetConfig(path="x"))
    with pytest.raises(UserError, match="--path"):
        open_source(DatasetConfig(source="folder"))
    with pytest.raises(UserError, match="no labels"):
        open_source(DatasetConfig(source="photos", labels=True))


def test_digits_are_those_of_scikit_learn() -> None:
    source = pickle.loads(pickle.dumps(open_source(DatasetConfig())))
    survey, bunch = source.survey(), load_digits()
    assert len(survey.keys) == 1797 and survey.keys == sorted(survey.keys)
    assert (survey.shape_HWC, survey.levels) == ((8, 8, 1), 17)
    pixels = np.stack(list(source.load(survey.keys, 1, (8, 8))))
    np.testing.assert_array_equal(pixels[..., 0], bunch.images)
    assert survey.labels == bunch.target.tolist()


@pytest.mark.parametrize("patch_size", [8, 16, 32])
def test_no_pixel_of_a_photo_is_in_two_patches(patch_size: int) -> None:
    source = Photos(DatasetConfig(source="photos", patch_size=patch_size))  # type: ignore[arg-type]
    survey = source.survey()
    photos = {Path(name).name: image for name, image in zip(*(load_sample_images()[key] for key in ("filenames", "images")), strict=True)}
    owner = {name: np.zeros(photo.shape[:2], int) for name, photo in photos.items()}
    split_number = {"train": 1, "validation": 2, "test": 3}
    for key, split, pixels in zip(survey.keys, survey.splits, source.load(survey.keys, 3, (patch_size, patch_size)), strict=True):
        name, y, x = key.split("/")
        window = np.s_[int(y[1:]) : int(y[1:]) + patch_size, int(x[1:]) : int(x[1:]) + patch_size]
        assert pixels.shape == (patch_size, patch_size, 3)
        np.testing.assert_array_equal(pixels, photos[name][window])
        assert (owner[name][window] == 0).all()
        owner[name][window] = split_number[str(split)]
    for name in photos:
        assert np.bincount(owner[name].ravel(), minlength=4).tolist() == [427 * 640 - 260 * 1024, 208 * 1024, 26 * 1024, 26 * 1024]


def test_a_test_pixel_is_one_at_every_patch_size() -> None:
    def pixels_of(patch_size: int) -> dict[str, set[tuple[str, int, int]]]:
        survey = Photos(DatasetConfig(source="photos", patch_size=patch_size)).survey()  # type: ignore[arg-type]
        regions: dict[str, set[tuple[str, int, int]]] = {}
        for key, split in zip(survey.keys, survey.splits, strict=True):
            name, y, x = key.split("/")
            corners = {(name, int(y[1:]) + dy, int(x[1:]) + dx) for dy in range(0, patch_size, 8) for dx in range(0, patch_size, 8)}
            regions.setdefault(str(split), set()).update(corners)
        return regions

    for one, other in pairwise(pixels_of(size) for size in (8, 16, 32)):
        assert one == other


def test_a_file_that_a_worker_cannot_see_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Folder(DatasetConfig(source="folder", path=str(tmp_path)))
    with pytest.raises(UserError, match=r"gone.png' was listed, but a worker cannot see it; every host must see --path"):
        next(source.load(["gone.png"], 1, (4, 4)))

    def refuse(key: str) -> bytes:
        raise PermissionError(key)

    monkeypatch.setattr(source.storage, "read_bytes", refuse)
    assert isinstance(next(source.load(["secret.png"], 1, (4, 4))), BadImage)
