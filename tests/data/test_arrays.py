"""NumPy's arrays as people save them: what is taken for what, and what is said of the rest."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pixelmodels.data import DatasetConfig, prepare
from pixelmodels.data.packed import PackedSource
from pixelmodels.data.source import Survey
from pixelmodels.data.sources import open_source
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.writers import noise

Array = npt.NDArray[Any]


def here(function: Callable[[Any], Any], records: list[Any]) -> list[Any]:
    return [function(one) for one in records]


@pytest.fixture(autouse=True)
def without_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr("pixelmodels.data.packed.map_records", here)


def opened(path: Path, **options: Any) -> PackedSource:
    source = open_source(DatasetConfig(source="arrays", path=str(path), **options))
    assert isinstance(source, PackedSource)
    return source


def read(path: Path, **options: Any) -> tuple[Survey, dict[str | None, Array], dict[str | None, list[int | None]]]:
    """The survey; images N,H,W,C and labels by split."""
    source = opened(path, **options)
    survey = source.survey()
    assert survey.keys == sorted(survey.keys) and len(set(survey.keys)) == len(survey.keys)
    loaded = list(pickle.loads(pickle.dumps(source)).load(survey.keys, survey.shape_HWC[2], survey.shape_HWC[:2]))
    images: dict[str | None, list[Array]] = {}
    labels: dict[str | None, list[int | None]] = {}
    for pixels, split, label in zip(loaded, survey.splits, survey.labels, strict=True):
        assert pixels.dtype == np.uint8 and pixels.shape == survey.shape_HWC
        images.setdefault(split, []).append(pixels)
        labels.setdefault(split, []).append(label)
    return survey, {split: np.stack(some) for split, some in images.items()}, labels


def told(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        opened(path, **options).survey()
    assert "\n" not in str(error.value)
    return str(error.value)


GREY, COLOUR = noise(6, 5, 4), noise(6, 5, 4, 3)
LABELS = np.array([0, 1, 2, 2, 1, 0])


# --- shapes and values ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY, GREY[..., None]),
        (GREY[..., None], GREY[..., None]),
        (GREY[:, None], GREY[..., None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2).copy(), COLOUR),
        (GREY.astype(np.int64), GREY[..., None]),
        (GREY.astype(">u2"), GREY[..., None]),
        (GREY.astype(np.int16), GREY[..., None]),
        *[((COLOUR / 255).astype(kind), COLOUR) for kind in ("f2", "f4", "f8", ">f4")],
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pixels_are_those_of_the_array(values: Array, expected: Array, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"things.{ending}"
    np.save(path, values) if ending == "npy" else np.savez_compressed(path, values)
    survey, images, _ = read(path)
    np.testing.assert_array_equal(images[None], expected)
    assert survey.levels == 256 and survey.shape_HWC == expected.shape[1:] and set(survey.splits) == {None}


def test_floats_become_the_nearest_of_256_levels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[[0.0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 1.0]]]))
    assert read(tmp_path)[1][None].ravel().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32])
def test_images_of_zeros_and_ones_have_two_levels(kind: type[Any], tmp_path: Path) -> None:
    ones = noise(5, 4, 4, levels=2)
    np.savez(tmp_path / "x.npz", train_images=ones.astype(kind), test_images=np.zeros((2, 4, 4), kind))
    survey, images, _ = read(tmp_path)
    assert survey.levels == 2
    np.testing.assert_array_equal(images["train"][..., 0], ones)


def test_one_brighter_image_makes_all_of_them_of_256_levels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=noise(5, 4, 4, levels=2), test_images=GREY[:, :4])
    assert read(tmp_path)[0].levels == 256


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (GREY.astype(float), "floats are taken where they are 0..1; save numpy.round(x).astype(numpy.uint8)"),
        (GREY.astype(np.float32) / 127.5 - 1, "has values from -"),
        (np.full((2, 4, 4), np.nan), "values from nan to nan"),
        (np.full((2, 4, 4), np.inf), "values from inf to inf"),
        (GREY.astype(int) + 1, "to 256, and pixels are 0..255"),
        (GREY.astype(int) - 300, "pixels are 0..255; save uint8"),
        (GREY.astype(complex), "complex128 shaped (6, 5, 4); save whole numbers"),
        (np.full((2, 4, 4), "a"), "save whole numbers"),
        (GREY.reshape(6, 20), "uint8 shaped (6, 20), which are no images; save it as images x rows x columns"),
        (GREY[0, 0], "which are no images"),
        (np.uint8(3), "which are no images"),
        (COLOUR[0], "shaped (5, 4, 3), which may be read in two ways"),
        (noise(6, 3, 4, 3), "shaped (6, 3, 4, 3), which may be read in two ways"),
        (noise(6, 1, 28, 1), "which may be read in two ways"),
        (noise(6, 5, 4, 4), "which are no images"),
        (noise(6, 5, 4, 2), "which are no images"),
        (noise(2, 2, 5, 4, 3), "which are no images"),
        (noise(0, 5, 4), "it holds 0 images"),
        (noise(3, 0, 4), "it holds 3 images of 0 x 4 x 1"),
        (np.asfortranarray(GREY), "save numpy.ascontiguousarray of it"),
        (np.array([[[None]]]), "never unpickled"),
        (np.zeros((2, 4, 4), [("r", "u1"), ("g", "u1")]), "not plain numbers"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_what_are_no_images_is_refused(values: Array, reason: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"images.{ending}"
    np.save(path, values) if ending == "npy" else np.savez(path, images=values)
    assert reason in told(path)


def test_large_images_are_refused_by_their_head(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(1, 40, 50))
    assert "images of 40 x 50 pixels; --max-pixels allows 1999" in told(tmp_path, max_pixels=1999)


# --- names ---


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("x_train", "y_train", "x_test", "y_test"), ("train", "test")),
        (("X_train", "Y_train", "X_valid", "Y_valid"), ("train", "validation")),
        (("train_images", "train_labels", "val_images", "val_labels"), ("train", "validation")),
        (("trainImages", "trainLabels", "testImages", "testLabels"), ("train", "test")),
        (("train", "train_targets", "test", "test_targets"), ("train", "test")),
        (("images/train", "labels/train", "images/test", "labels/test"), ("train", "test")),
    ],
)
def test_names_say_what_an_array_is(names: tuple[str, ...], splits: tuple[str, ...], tmp_path: Path) -> None:
    values = (GREY, LABELS, GREY[:3], LABELS[:3, None])
    np.savez(tmp_path / "set.npz", **dict(zip(names, values, strict=True)), mean=GREY.mean(0)[0])
    survey, images, labels = read(tmp_path / "set.npz")
    assert labels == {splits[0]: LABELS.tolist(), splits[1]: LABELS[:3].tolist()}
    for split, expected in zip(splits, (GREY, GREY[:3]), strict=True):
        np.testing.assert_array_equal(images[split][..., 0], expected)
    assert survey.label_names == ("0", "1", "2")
    assert read(tmp_path)[0] == survey  # the folder of the file
    for name, split in zip(names[::2], splits, strict=True):
        np.save(tmp_path / f"{name.replace('/', '-')}.npy", images[split])
    for name, split in zip(names[1::2], splits, strict=True):
        np.save(tmp_path / f"{name.replace('/', '-')}.npy", labels[split])
    (tmp_path / "set.npz").unlink()
    assert read(tmp_path)[2] == labels


@pytest.mark.parametrize("values", [(GREY,), (GREY, LABELS)])
def test_arrays_without_names(values: tuple[Array, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", *values)
    _, images, labels = read(tmp_path / "mine.npz")
    np.testing.assert_array_equal(images[None][..., 0], GREY)
    assert labels[None] == (LABELS.tolist() if len(values) == 2 else [None] * 6)
    assert DatasetConfig(source="arrays", path=str(tmp_path / "mine.npz")).dataset_name() == "mine"


def test_kmnists_files_go_together_and_other_sets_need_to_be_told(tmp_path: Path) -> None:
    for name, shift in (("kmnist", 0), ("k49", 40)):
        for split in ("train", "test"):
            np.savez_compressed(tmp_path / f"{name}-{split}-imgs.npz", GREY + (split == "test"))
            np.savez_compressed(tmp_path / f"{name}-{split}-labels.npz", (LABELS + shift).astype(np.uint8))
    assert "several sets of images (k49, kmnist); give --variant NAME" in told(tmp_path)
    assert "set of" in told(tmp_path, variant="mnist") and "have k49, kmnist" in told(tmp_path, variant="mnist")
    _, images, labels = read(tmp_path, variant="kmnist")
    assert set(images) == {"train", "test"} and labels["test"] == LABELS.tolist()
    np.testing.assert_array_equal(images["test"][..., 0], GREY + 1)
    assert read(tmp_path, variant="k49")[0].label_names == tuple(map(str, range(43)))
    _, images, labels = read(tmp_path / "kmnist-train-imgs.npz")
    assert set(images) == {"train"} and labels["train"] == LABELS.tolist()


def test_numbers_are_parts_of_one_set(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"train_{i}.npy", GREY[2 * i : 2 * i + 2])
        np.save(tmp_path / f"train_labels_{i}.npy", LABELS[2 * i : 2 * i + 2])
    _, images, labels = read(tmp_path)
    np.testing.assert_array_equal(images["train"][..., 0], GREY)
    assert labels["train"] == LABELS.tolist()


def test_a_split_belongs_to_the_content(tmp_path: Path) -> None:
    digests = []
    for name in ("train", "test", "val", "things"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{name}.npy", GREY)
        digests.append(read(tmp_path / name)[0].digest)
    assert len(set(digests)) == 4
    np.savez_compressed(tmp_path / "x.npz", train=GREY)  # packed or not is no difference
    assert read(tmp_path / "x.npz")[0].digest == digests[0]


def test_what_is_unclear_is_told(tmp_path: Path) -> None:
    for arrays, reason in (
        ({"train_images": GREY, "train_masks": GREY}, "several sets of images (masks, unnamed)"),
        ({"x_train": GREY, "train_data": GREY}, "are images of the same split; keep one"),
        ({"x": GREY, "y": LABELS, "labels": LABELS}, "several arrays are labels of 'x' in 'x.npz' ('y' in 'x.npz', 'labels' in 'x.npz')"),
        ({"weights": LABELS}, "holds no images ('weights' in 'x.npz' int64 (6,))"),
        ({"images": LABELS}, "which are no images"),
        ({"x_train": GREY, "x_test": COLOUR}, "different shapes"),
        ({"x_train": GREY > 100, "x_test": GREY}, "of bool and of numbers"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        assert reason in told(tmp_path / "x.npz")
    (tmp_path / "x.npz").unlink()
    assert "holds no images (no array)" in told(tmp_path)


def test_an_array_for_each_image_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.sources.arrays._MOST_FILES", 3)
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", GREY[0])
    assert "holds 4 arrays, more than 3; stack the images" in told(tmp_path)


# --- labels ---


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([0, 2, 2, 0, 0, 0], [0, 2, 2, 0, 0, 0], "012"),
        ([1, 3, 3, 1, 1, 1], [0, 2, 2, 0, 0, 0], "123"),
        ([3, 3, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3], "0123"),
        ([0.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0, 1, 1, 0, 0, 0], "01"),
        ([True, False, True, True, True, True], [1, 0, 1, 1, 1, 1], "01"),
        (["b", "a", "b", "é", "a", "b"], [1, 0, 1, 2, 0, 1], "abé"),
        ([b"b", b"a", b"b", b"b", b"a", b"b"], [1, 0, 1, 1, 0, 1], "ab"),
    ],
)
def test_labels_are_numbers_or_texts(values: list[Any], labels: list[int], names: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=GREY, y=np.array(values))
    survey, _, found = read(tmp_path / "x.npz")
    assert found[None] == labels and survey.label_names == tuple(names)
    survey, _, found = read(tmp_path / "x.npz", labels=False)
    assert found[None] == [None] * 6 and survey.label_names == ()


def test_classes_are_those_of_all_parts(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=GREY, y_train=["b", "c", "b", "c", "b", "c"], x_test=GREY[:2], y_test=["a", "c"])
    survey, _, labels = read(tmp_path / "x.npz")
    assert survey.label_names == ("a", "b", "c") and labels == {"train": [1, 2, 1, 2, 1, 2], "test": [0, 2]}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (LABELS[:5], "int64 shaped (5,), for 6 images; save one label for each, or give --labels False"),
        (np.eye(6), "shaped (6, 6), for 6 images"),
        (np.array([0.5, 1, 1, 1, 1, 1]), "some are no whole numbers"),
        (np.array([np.nan, 1, 1, 1, 1, 1]), "some are no whole numbers"),
        (LABELS - 1, "are -1 to 1, 3 different ones: they number no classes"),
        (LABELS * 1000, "are 0 to 2000, 3 different ones: they number no classes"),
        (LABELS.astype("M8[s]"), "save labels as whole numbers or texts"),
        (np.array(["x" * 2000] * 6), "save labels as whole numbers or texts"),
    ],
)
def test_labels_that_number_no_classes_are_told(values: Array, reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=GREY, y=values)
    assert reason in told(tmp_path / "x.npz")
    assert len(read(tmp_path / "x.npz", labels=False)[0].keys) == 6


def test_labels_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GREY)
    assert "has no array of labels; name one y, labels or targets" in told(tmp_path, labels=True)


# --- files that are not whole ---


def npy(head: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    text = head.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy", data)
    return stream.getvalue()


HEAD = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 4), }"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_file_made_of_its_description_is_read(version: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy(HEAD, GREY.tobytes(), version))
    np.testing.assert_array_equal(read(tmp_path)[1][None][..., 0], GREY)


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        ("x.npy", b"", "x.npy"),
        ("x.npy", b"\x93NUMPY", "x.npy"),
        ("x.npy", bytes(100), "magic string is not correct"),
        ("x.npy", npy(HEAD, GREY.tobytes()[:-1]), "119 values, and its head says 6 x 5 x 4"),
        ("x.npy", npy(HEAD, GREY.tobytes() + b"!"), "more than 120 values, and its head says 6 x 5 x 4"),
        ("x.npy", npy(HEAD.replace("|u1", "|O"), bytes(120)), "never unpickled"),
        ("x.npy", npy(HEAD.replace("6, 5", "6666666666, 5"), bytes(120)), "120 values, and its head says 6666666666 x 5 x 4"),
        ("x.npy", npy(HEAD.replace("6", "-6"), bytes(120)), "x.npy"),
        ("x.npy", npy("__import__('os').abort()", bytes(120)), "x.npy"),
        ("x.npz", b"", "not a zip"),
        ("x.npz", b"PK\x03\x04" + bytes(100), "not a zip"),
        ("x.npz", archive(x=npy(HEAD, GREY.tobytes()))[:-30], "not a zip"),
        ("x.npz", archive(x=npy(HEAD, GREY.tobytes()[:-1])), "119 values"),
        ("x.npz", archive(x=npy(HEAD, bytes(30_000_000))), "more than 120 values"),
        ("x.npz", archive(x=npy(HEAD, GREY.tobytes()), y=npy(HEAD.replace("(6, 5, 4)", "(6,)"), b"\0\1")), "2 bytes of an array of 6"),
        ("x.npz", archive(x=npy(HEAD, GREY.tobytes()), y=npy(HEAD.replace("(6, 5, 4)", "(6,)").replace("|u1", "|O"), b"")), "never unp"),
    ],
)
def test_bad_files_are_told(file: str, data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(data)
    assert reason in told(tmp_path) and file in told(tmp_path)


def test_a_damaged_byte_of_an_archive_is_found(tmp_path: Path) -> None:
    data = bytearray(archive(x=npy(HEAD, GREY.tobytes())))
    data[150] ^= 0x55
    (tmp_path / "x.npz").write_bytes(data)
    assert "x.npz" in told(tmp_path)


def test_many_arrays_in_an_archive_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.npy.MOST_ARRAYS", 2)
    (tmp_path / "x.npz").write_bytes(archive(a=b"", b=b"", c=b""))
    assert "3 arrays, more than 2" in told(tmp_path)


# --- prepared ---


@pytest.mark.usefixtures("ray_cluster")
def test_a_prepared_set_keeps_its_splits(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "mnist.npz"
    images, labels = noise(30, 6, 6), np.arange(30) % 10
    np.savez_compressed(path, x_train=images[:20], y_train=labels[:20], x_test=images[20:], y_test=labels[20:])
    dataset = prepare(DatasetConfig(path=str(path)), storage, say=lambda _: None)
    assert dataset.name == "mnist" and dataset.num_classes == 10 and dataset.manifest["options"]["source"] == "arrays"
    assert dataset.num_images("train") + dataset.num_images("validation") == 20
    test = dataset.read("test")
    np.testing.assert_array_equal(test.images_NCHW[:, 0], images[20:])
    assert test.labels_N is not None and test.labels_N.tolist() == labels[20:].tolist()


def test_names_of_classes_are_no_labels(tmp_path: Path) -> None:
    """As this project's own samples have them, and scikit-learn's data sets."""
    images, labels = noise(4, 5, 6), np.array([0, 1, 1, 0])
    for number, (pixels, told, names) in enumerate(
        [("images_NCHW", "label_N", "class_names"), ("data", "target", "target_names"), ("images", "labels", "label_names")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.savez(folder / "a.npz", **{pixels: images, told: labels, names: np.array(["cat", "dog"])})
        survey = opened(folder).survey()
        assert survey.labels == labels.tolist() and len(survey.keys) == 4


def test_arrays_that_are_not_taken_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, foo=GREY, bar=LABELS)
    end = "call them y, labels or targets to have them"
    assert opened(path).survey().remarks == (
        f"images are taken from 'foo' in 'x.npz', without labels (also there: 'bar' in 'x.npz'); {end}",
    )
    assert opened(path, labels=False).survey().remarks == ()
    assert told(path, labels=True).startswith(f"'{path}' has no array of labels")
    np.savez(path, x=GREY, y=np.array(["a", "b"] * 3))
    assert opened(path).survey().remarks == ()
    np.save(tmp_path / "alone.npy", GREY)
    assert opened(tmp_path / "alone.npy").survey().remarks == (
        f"images are taken from 'alone.npy', without labels (nothing else is there); {end}",
    )
    np.savez(path, x=GREY, y=np.array([1, 10**6, 2, 3, 4, 5]))
    assert f"labels in '{path}' are 1 to 1000000" in told(path)
    assert f"set of '{path}' 'z' unknown" in told(path, variant="z")
