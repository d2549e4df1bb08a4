from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib
import pickle
import pkgutil
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import pixelmodels.data.sources
from pixelmodels.data import SOURCES, DatasetConfig
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.pieces import Decoded, PieceWriter
from pixelmodels.data.sources import open_source
from pixelmodels.data.sources.folder import Folder
from pixelmodels.data.sources.photos import Photos
from pixelmodels.data.vectors import VectorFile
from pixelmodels.data.writing import ImageForm
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.test_decoding import chunk, tiff, wide_png


def test_every_file_is_in_the_table() -> None:
    files = {module.name for module in pkgutil.iter_modules(pixelmodels.data.sources.__path__)}
    assert {target.split(":")[0].rsplit(".", 1)[1] for target in SOURCES.values()} == files
    for target in SOURCES.values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_unknown_sources_and_useless_options_are_told() -> None:
    with pytest.raises(
        UserError, match=r"dataset source 'digit' unknown; have binarized_mnist, cifar10, .*, photos.*; did you mean 'digits'"
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
        next(source.read({"files": [("gone.png", 9)]}))

    def refuse(key: str) -> bytes:
        raise PermissionError(key)

    monkeypatch.setattr(source.storage, "read_bytes", refuse)
    assert isinstance(next(source.read({"files": [("secret.png", 9)]})).data, BadImage)


@pytest.mark.parametrize(
    ("channels", "earlier"),
    [
        (1, {"left_unturned": ["turned.png"], "put_aside_as_grey": ["lab.tif"], "read_otherwise": ["turned.png", "twelve.tif"]}),
        (3, {"left_unturned": ["turned.png"], "read_otherwise": ["turned.png", "twelve.tif"]}),
        (None, {"left_unturned": ["turned.png"], "put_aside_as_grey": ["lab.tif"], "read_otherwise": ["turned.png", "twelve.tif"]}),
    ],
)
def test_what_earlier_versions_read_otherwise_makes_another_data_set(
    channels: Literal[1, 3] | None, earlier: dict[str, list[str]], tmp_path: Path, storage: Storage
) -> None:
    source = Folder(DatasetConfig(source="folder", path=str(tmp_path / "files"), channels=channels, size=(2, 2)))
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "files").mkdir()
    Image.fromarray(pixels).save(tmp_path / "files" / "grey.png")

    def news() -> dict[str, list[str]]:
        units = list(source.units(source.listing()))
        writer = PieceWriter(source, storage, "pieces", ImageForm(channels or 1, (2, 2), 256, "none"), seed=0)
        decoded = Decoded.of(writer({"number": 0, "unit": unit, "may_be_whole": False}) for unit in units)
        (digest,) = decoded.digests
        digests = [f"{path.name}\0{path.stat().st_size}\0".encode() + hashlib.sha256(path.read_bytes()).digest() for path in files()]
        assert digest == hashlib.sha256(b"".join(digests)).hexdigest()
        assert decoded.columns["is_image"].all() and len(decoded.columns["group"]) == len(files())
        return source.news(decoded.noted, channels or 1)

    def files() -> list[Path]:
        return sorted((tmp_path / "files").iterdir())

    assert news() == {}  # as ever
    Image.frombytes("LAB", (2, 2), bytes(12)).save(tmp_path / "files" / "lab.tif")
    (tmp_path / "files" / "twelve.tif").write_bytes(tiff(pixels.astype(int), 12, 1))
    broken = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0none")[:-1] + b"?"  # of its checksum
    exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    (tmp_path / "files" / "turned.png").write_bytes(wide_png(pixels, broken, exif))
    assert news() == earlier


@pytest.mark.parametrize("root", ["/pictures", "s3://bucket/pictures"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Error reading bytes from file"), "input/output error"),
        (OSError(errno.ESTALE, "Failed to open"), "stale file handle"),
        (OSError("An error occurred (InvalidObjectState) when calling the GetObject operation: no"), "An error .*InvalidObjectState.*no"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(root: str, error: OSError, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Folder(DatasetConfig(source="folder", path=root))

    def fail(key: str) -> bytes:
        raise error

    monkeypatch.setattr(source.storage, "read_bytes", fail)
    with pytest.raises(UserError, match=rf"^'{root}/a/1.png' cannot be read \({reason}\); see to that, or take it out") as told:
        list(source.read({"files": [("a/1.png", 100)]}))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("vectors", ["..", "../..", ".", "a/..", "a/", "/", "s3://bucket", "gs://bucket"])
def test_vectors_that_are_no_file_are_told(vectors: str) -> None:
    with pytest.raises(UserError, match=rf"^vectors '{vectors}' name no file; give a Parquet file with columns key"):
        VectorFile(vectors)


@pytest.mark.parametrize("option", ["path", "vectors"])
def test_addresses_that_are_not_read_are_told_with_their_option(option: str) -> None:
    source = "folder" if option == "path" else "digits"
    with pytest.raises(
        UserError, match=rf"^--{option} 'https://\*\*\*@h/x.parquet' is not supported; give a local path, s3://\.\.\. or gs"
    ):
        open_source(dataclasses.replace(DatasetConfig(source=source), **{option: "https://me:secret@h/x.parquet"}))
