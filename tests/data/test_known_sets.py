"""EMNIST, CIFAR's Python versions, CIFAR-100, SVHN and pickled ImageNet, from files that the tests write; and what is said of bad ones."""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from pixelmodels.data import DatasetConfig
from pixelmodels.data.packed import PackedSource
from pixelmodels.data.pickled import read_pickled
from pixelmodels.data.preparation import _look, _plan
from pixelmodels.data.source import Survey
from pixelmodels.data.sources import open_source
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.test_packed_sources import NAMES, WRITERS, write_cifar10, write_imagenet, write_mnist
from tests.data.writers import (
    Bytes,
    idx,
    matlab_file,
    matrix,
    noise,
    python2_pickle,
    write_cifar10_python,
    write_cifar100,
    write_emnist,
    write_svhn,
)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cluster would do is done here, one after the other; records and what comes of them are the same JSON."""
    monkeypatch.setattr("pixelmodels.data.packed.map_records", lambda function, records: [function(one) for one in records])


def opened(source: str, path: Path, **options: Any) -> PackedSource:
    found = open_source(DatasetConfig(source=source, path=str(path), **options))
    assert isinstance(found, PackedSource)
    return pickle.loads(pickle.dumps(found))  # type: ignore[no-any-return]


def images_of(source: PackedSource, survey: Survey, split: str) -> Bytes:
    keys = [key for key, own in zip(survey.keys, survey.splits, strict=True) if own == split]
    return np.stack(list(source.load(keys, survey.shape_HWC[2], survey.shape_HWC[:2])))


def labels_of(survey: Survey, split: str) -> list[int | None]:
    return [label for label, own in zip(survey.labels, survey.splits, strict=True) if own == split]


def told(source: str, path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        opened(source, path, **options).survey()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- EMNIST ---


@pytest.mark.parametrize("packed", [True, False])
def test_emnist_is_turned_upright_and_letters_begin_at_a(packed: bool, tmp_path: Path) -> None:
    made = write_emnist(tmp_path, "letters", [1, 26, 5, 5], packed)
    source = opened("emnist", tmp_path)
    survey = source.survey()
    assert survey.shape_HWC == (5, 3, 1)
    for split in made:
        np.testing.assert_array_equal(images_of(source, survey, split)[..., 0], made[split])
    assert labels_of(survey, "train") == [0, 25, 4, 4]
    assert survey.label_names == tuple("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize(
    ("name", "labels", "num_classes", "named"),
    [
        ("byclass", [0, 10, 36, 61], 62, {10: "A", 36: "a", 61: "z"}),
        ("bymerge", [0, 46], 47, {36: "a", 46: "t"}),
        ("balanced", [0, 46], 47, {35: "Z", 38: "d"}),
        ("digits", [0, 9], 10, {9: "9"}),
        ("mnist", [3, 9], 10, {3: "3"}),
    ],
)
def test_classes_of_emnists_sets(name: str, labels: list[int], num_classes: int, named: dict[int, str], tmp_path: Path) -> None:
    write_emnist(tmp_path, name, labels)
    survey = opened("emnist", tmp_path).survey()
    assert labels_of(survey, "test") == labels and len(survey.label_names) == num_classes
    assert {label: survey.label_names[label] for label in named} == named


def test_several_sets_of_emnist_need_to_be_told_apart(tmp_path: Path) -> None:
    write_emnist(tmp_path, "letters", [1, 2])
    digits = write_emnist(tmp_path, "digits", [0, 1, 2])
    assert "EMNIST's digits, letters; give --variant NAME, such as --variant digits" in told("emnist", tmp_path)
    assert "variant of source 'emnist' 'letter' unknown" in told("emnist", tmp_path, variant="letter")
    for path, options in ((tmp_path, {"variant": "digits"}), (tmp_path / "emnist-digits-test-labels-idx1-ubyte.gz", {})):
        source = opened("emnist", path, **options)
        survey = source.survey()
        np.testing.assert_array_equal(images_of(source, survey, "test")[..., 0], digits["test"])
    assert "leave one out" in told("emnist", tmp_path / "emnist-digits-test-labels-idx1-ubyte.gz", variant="letters")
    assert DatasetConfig(source="emnist", path="x", variant="letters").dataset_name() == "emnist_letters"


def test_the_mapping_names_the_classes_of_emnist(tmp_path: Path) -> None:
    write_emnist(tmp_path, "letters", [1, 2])
    before = opened("emnist", tmp_path).survey()
    mapping = tmp_path / "emnist-letters-mapping.txt"
    mapping.write_text("".join(f"{i} {64 + i} {96 + i}\n" for i in range(1, 27)))
    assert opened("emnist", tmp_path).survey().digest == before.digest
    mapping.write_text("".join(f"{i} {64 + i}\r\n" for i in range(1, 27)))
    survey = opened("emnist", tmp_path).survey()
    assert survey.label_names[:3] == ("A", "B", "C") and survey.digest != before.digest
    for text, reason in (
        ("1 2\n", "does not name the labels 1..26"),
        ("a b\n", "no list of labels"),
        ("1 99999999999", "no list of labels"),
    ):
        mapping.write_text(text)
        assert reason in told("emnist", tmp_path) and mapping.name in told("emnist", tmp_path)


def test_labels_of_emnist_are_those_of_its_set(tmp_path: Path) -> None:
    write_emnist(tmp_path, "letters", [0, 2])
    assert "label 0 is not in 1..26" in told("emnist", tmp_path)
    write_emnist(tmp_path, "letters", [1, 27])
    assert "label 27 is not in 1..26" in told("emnist", tmp_path)


# --- IDX, whatever the set ---


def test_idx_files_are_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images_NHW = noise(40, 6, 4)
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images_NHW)))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(40, dtype=np.uint8) % 10))
    whole = opened("mnist", tmp_path).survey()
    monkeypatch.setattr("pixelmodels.data.block.PIECE_BYTES", 100)
    source = opened("mnist", tmp_path)
    assert source.survey() == whole
    keys = [f"train/{i:07d}" for i in (0, 1, 17, 39)]
    np.testing.assert_array_equal(np.stack(list(source.load(keys, 1, (6, 4))))[..., 0], images_NHW[[0, 1, 17, 39]])


def test_a_file_that_unpacks_to_more_than_its_head_says_is_not_unpacked_further(tmp_path: Path) -> None:
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(2, 3, 3)) + bytes(50_000_000)))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    assert "more than 18 values, and its head says 2 x 3 x 3" in told("mnist", tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (idx(noise(0, 3, 3)), "it holds 0 images of 3 x 3 x 1"),
        (idx(noise(2, 0, 3)), "it holds 2 images of 0 x 3 x 1"),
        (b"", "its first bytes are , not 00000803"),
        (b"\0\0\x08\x03\0\0", "its first bytes are 00000803, not"),
        (struct.pack(">4I", 0xD03, 2, 3, 3) + bytes(72), "its first bytes are 00000d03"),
        (struct.pack(">4I", 0x803, 2, 1 << 15, 1 << 15), "images of 32768 x 32768 pixels; --max-pixels allows"),
        (gzip.compress(idx(noise(2, 3, 3)))[:-9], "Compressed file ended"),
        (b"\x1f\x8b" + bytes(30), "Unknown compression method"),
    ],
)
def test_bad_idx_files_are_told(data: bytes, reason: str, tmp_path: Path) -> None:
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(data)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.zeros(data[7] if len(data) > 7 and data[3] == 3 else 2, np.uint8)))
    assert reason in told("mnist", tmp_path) and "images-idx3-ubyte" in told("mnist", tmp_path)


# --- CIFAR ---


def test_cifar10_is_the_same_data_set_in_both_versions(tmp_path: Path) -> None:
    binary, python = tmp_path / "binary", tmp_path / "python"
    binary.mkdir(), python.mkdir()
    made = write_cifar10(binary)
    labels = {split: [i % 10 for i in range(len(images))] for split, images in made.items()}
    write_cifar10_python(python, made, labels, NAMES)
    source = opened("cifar10", python)
    survey = source.survey()
    assert survey == opened("cifar10", binary).survey()
    for split in made:
        np.testing.assert_array_equal(images_of(source, survey, split), made[split])


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("variant", [None, "fine", "coarse"])
def test_cifar100_has_fine_and_coarse_labels(form: str, variant: str | None, tmp_path: Path) -> None:
    made = write_cifar100(tmp_path, form)
    source = opened("cifar100", tmp_path, variant=variant)
    survey = source.survey()
    for split in made:
        np.testing.assert_array_equal(images_of(source, survey, split), made[split])
    coarse = variant == "coarse"
    assert labels_of(survey, "train") == [i % 20 if coarse else 7 * i % 100 for i in range(12)]
    assert survey.label_names == tuple(f"coarse_{i:02d}" if coarse else f"fine_{i:02d}" for i in range(20 if coarse else 100))


def test_cifar100_is_the_same_data_set_in_both_versions(tmp_path: Path) -> None:
    surveys = []
    for form in ("binary", "python"):
        (tmp_path / form).mkdir()
        write_cifar100(tmp_path / form, form)
        surveys.append([opened("cifar100", tmp_path / form, variant=variant).survey() for variant in ("fine", "coarse")])
        surveys[-1].append(opened("cifar100", tmp_path / form, labels=False).survey())
    assert surveys[0] == surveys[1]
    assert len({survey.digest for survey in surveys[0]}) == 3


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_python_3_are_read_too(protocol: int, tmp_path: Path) -> None:
    write_cifar100(tmp_path, "python")
    expected = opened("cifar100", tmp_path).survey()
    for name in ("train", "test", "meta"):
        values = pickle.loads((tmp_path / name).read_bytes(), encoding="latin1")
        if name == "test":  # as some write them
            values = {key: np.array(value) if key.endswith("_labels") else value for key, value in values.items()}
        (tmp_path / name).write_bytes(pickle.dumps(values, protocol))
    assert opened("cifar100", tmp_path).survey() == expected


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return replace


def written(value: Any) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(python2_pickle(value)) and None


@pytest.mark.parametrize(
    ("form", "file", "damage", "reason"),
    [
        ("binary", "train.bin", Path.unlink, "is missing"),
        ("binary", "train.bin", cut, "no whole number of records of 3074"),
        ("binary", "test.bin", lambda path: path.write_bytes(b""), "0 bytes are no whole number"),
        ("binary", "test.bin", lambda path: path.write_bytes(bytes([20, 0]) + bytes(3072)), "label 20 is not in 0..19"),
        ("binary", "test.bin", lambda path: path.write_bytes(bytes([0, 100]) + bytes(3072)), "label 100 is not in 0..99"),
        ("binary", "fine_label_names.txt", lambda path: path.write_text("one two"), "2 names of classes, not 100"),
        ("python", "train", cut, "ends in the middle"),
        ("python", "train", lambda path: path.write_bytes(b""), "ends in the middle"),
        ("python", "train", lambda path: path.write_bytes(bytes(10_000)), "no pickle is ever executed"),
        ("python", "train", replaced(b"cnumpy\nndarray", b"cposix\nsystem"), "asks for posix.system, and no pickle is ever executed"),
        ("python", "train", written([1, 2]), "no dictionary of data, coarse_labels, fine_labels: a list"),
        ("python", "train", written({b"data": noise(2, 3072)}), "it lacks coarse_labels, fine_labels"),
        ("python", "train", written({b"data": 5, b"coarse_labels": [], b"fine_labels": []}), "no uint8 array of images x pixels"),
        ("python", "train", written({b"data": noise(2, 3, 4), b"coarse_labels": [], b"fine_labels": []}), "no uint8 array"),
        ("python", "train", written({b"data": noise(2, 48), b"coarse_labels": [1, 2], b"fine_labels": [1, 2]}), "have 48 values, not 3072"),
        ("python", "train", written({b"data": noise(2, 3072), b"coarse_labels": [1], b"fine_labels": [1, 2]}), "1 coarse_labels for 2"),
        ("python", "train", written({b"data": noise(2, 3072), b"coarse_labels": [1, 300], b"fine_labels": [1, 2]}), "label 300 is not in"),
        ("python", "train", written({b"data": noise(2, 3072), b"coarse_labels": [1, b"2"], b"fine_labels": [1, 2]}), "no list of whole"),
        ("python", "train", written({b"data": noise(0, 3072), b"coarse_labels": [], b"fine_labels": []}), "it holds 0 images"),
        ("python", "meta", written({b"fine_label_names": [b"one"]}), "1 names of classes, not 100"),
        ("python", "meta", written({b"label_names": [b"one"]}), "does not name the classes"),
    ],
)
def test_bad_files_of_cifar100_are_told(form: str, file: str, damage: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    write_cifar100(tmp_path, form)
    damage(tmp_path / file)
    text = told("cifar100", tmp_path)
    assert reason in text and f"'{tmp_path}/{file}'" in text


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    """Whatever it is made of: each of these would leave a file behind."""
    mark = tmp_path / "executed"

    class Bad:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    programs = [pickle.dumps({"data": Bad()}, protocol) for protocol in range(6)]
    programs.append(b"\x80\x02cos\nsystem\nU\x10touch " + str(mark).encode()[:10] + b"\x85R.")
    programs.append(b"(S'touch " + str(mark).encode() + b"'\nios\nsystem\n.")
    programs.append(b"\x80\x02cnumpy\nload\nU\x03abc\x85R.")
    for program in programs:
        with pytest.raises(ValueError):
            read_pickled(io.BytesIO(program), len(program))
    assert not mark.exists()


@pytest.mark.parametrize("seed", range(60))
def test_damaged_pickles_are_told_and_nothing_else_happens(seed: int) -> None:
    """Bytes changed at random: read, or refused with a `ValueError`, and quickly."""
    rng = np.random.default_rng(seed)
    good = python2_pickle({b"data": noise(2, 12), b"labels": [1, 2], b"names": [b"x"]})
    assert {code.name for code, _, _ in pickletools.genops(good)} >= {"GLOBAL", "REDUCE", "BUILD"}
    for _ in range(50):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        try:
            read_pickled(io.BytesIO(data), len(data))
        except ValueError:
            continue


def test_long_runs_stay_in_the_file_and_what_is_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = python2_pickle({b"data": noise(40, 3072)})
    found = read_pickled(io.BytesIO(data), len(data))["data"]
    assert found.shape == (40, 3072) and not isinstance(found.data, bytes)
    assert found.open(io.BytesIO(data)).read(10) == noise(40, 3072).tobytes()[:10]
    monkeypatch.setattr("pixelmodels.data.pickled._MOST_READ", 1000)
    long = python2_pickle([1] * 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_pickled(io.BytesIO(long), len(long))


def test_bytes_that_are_saved_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3 saves them at protocol 2, short and long; in pieces that cut characters in two."""
    monkeypatch.setattr("pixelmodels.data.pickled._ENCODED_AT_A_TIME", 1001)
    short, long = bytes(range(256)), noise(40, 3072)
    data = pickle.dumps({"short": short, "data": long}, 2)
    assert data.count(b"c_codecs\nencode\n") == 1
    found = read_pickled(io.BytesIO(data), len(data))
    assert found["short"] == short and found["data"].open(io.BytesIO(data)).read() == long.tobytes()
    for bad, reason in (
        (data.replace(b"latin1", b"rot_13"), "no pickle of plain numbers"),
        (data.replace(b"c_codecs\nencode", b"c_codecs\ndecode"), "asks for _codecs.decode, and no pickle is ever executed"),
        (b"\x80\x02c_codecs\nencode\nX\x03\0\0\0\xe2\x82\xacX\x06\0\0\0latin1\x86R.", "no pickle of plain numbers"),
        (b"\x80\x02c_codecs\nencode\nK\x05X\x06\0\0\0latin1\x86R.", "no pickle of plain numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_pickled(io.BytesIO(bad), len(bad))
    monkeypatch.setattr("pixelmodels.data.pickled._MOST_ENCODED", 1000)
    once = b"\x80\x02(c_codecs\nencode\nq\x01X\x02\x01\0\0" + b"a" * 258 + b"X\x06\0\0\0latin1\x86q\x02R"
    thrice, four_times = (once + times * b"h\x01h\x02R" + b"t." for times in (2, 3))
    assert read_pickled(io.BytesIO(thrice), len(thrice)) == (b"a" * 258,) * 3
    with pytest.raises(ValueError, match="more than 1000 bytes as text; save it anew"):
        read_pickled(io.BytesIO(four_times), len(four_times))


def test_the_version_that_is_there_is_told_to_lack_a_file(tmp_path: Path) -> None:
    images = {"train": noise(10, 32, 32, 3), "test": noise(2, 32, 32, 3)}
    write_cifar10_python(tmp_path, images, {"train": [0] * 10, "test": [1] * 2}, NAMES)
    (tmp_path / "data_batch_2").unlink()
    assert f"'{tmp_path}/data_batch_2' is missing" in told("cifar10", tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    assert f"'{tmp_path}/data_batch_1.bin' is missing" in told("cifar10", tmp_path)


# --- down-sampled ImageNet ---


def test_pickled_imagenet_is_read_without_being_executed(tmp_path: Path) -> None:
    made = write_imagenet(tmp_path)
    expected = opened("imagenet_downsampled", tmp_path).survey()
    for file in [*tmp_path.glob("*.npz")]:
        with np.load(file) as arrays:
            values = {"data": arrays["data"], "labels": arrays["labels"].tolist(), "mean": arrays["data"].mean(0)}
        (tmp_path / file.stem).write_bytes(pickle.dumps(values, 4))
        file.unlink()
    source = opened("imagenet_downsampled", tmp_path)
    survey = source.survey()
    assert (survey.keys, survey.labels, survey.splits) == (expected.keys, expected.labels, expected.splits)
    np.testing.assert_array_equal(images_of(source, survey, "test"), made["test"])
    values["labels"] = [0] * len(values["labels"])
    (tmp_path / "val_data").write_bytes(pickle.dumps(values, 4))
    assert "its labels are not in 1..1000" in told("imagenet_downsampled", tmp_path)
    (tmp_path / "val_data").write_bytes(pickle.dumps({"data": Path()}, 4))
    assert "no pickle is ever executed" in told("imagenet_downsampled", tmp_path)


# --- SVHN ---


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("form", ["compressed", "plain", "scipy", "scipy, compressed"])
def test_svhn_is_read_as_it_is(extra: bool, form: str, tmp_path: Path) -> None:
    made = write_svhn(tmp_path, extra=extra, compress=form == "compressed")
    if form.startswith("scipy"):
        for file in tmp_path.iterdir():
            values = {"note": "not looked at", **{name: value for name, value in scipy.io.loadmat(file).items() if name in "Xy"}}
            scipy.io.savemat(file, values, do_compression="," in form)
    source = opened("svhn", tmp_path, variant="extra" if extra else None)
    survey = source.survey()
    train = np.concatenate([made["extra"], made["train"]]) if extra else made["train"]
    np.testing.assert_array_equal(images_of(source, survey, "train"), train)
    np.testing.assert_array_equal(images_of(source, survey, "test"), made["test"])
    assert labels_of(survey, "train")[-11:] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert survey.label_names == tuple("0123456789") and survey.shape_HWC == (32, 32, 3)


def test_our_files_are_matlabs(tmp_path: Path) -> None:
    """What the other tests write byte by byte, SciPy reads."""
    made = write_svhn(tmp_path)
    found = scipy.io.loadmat(tmp_path / "train_32x32.mat")
    np.testing.assert_array_equal(found["X"].transpose(3, 0, 1, 2), made["train"])
    assert found["y"].ravel().tolist() == [i % 10 + 1 for i in range(11)]


def test_one_image_has_no_last_dimension(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    image_HWC = noise(1, 32, 32, 3)[0]
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": image_HWC, "y": np.array([[10.0]])})
    source = opened("svhn", tmp_path)
    survey = source.survey()
    np.testing.assert_array_equal(images_of(source, survey, "test"), image_HWC[None])
    assert labels_of(survey, "test") == [0]


X, Y = matrix("X", noise(2, 32, 32, 3).transpose(1, 2, 3, 0), 2, 9), matrix("y", np.array([1, 10], np.uint8), 2, 6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no head of a MATLAB file"),
        (bytes(300), "no head of a MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "MATLAB 7.3 (HDF5); save it with -v7"),
        (matlab_file(X), "holds no variable 'y'"),
        (matlab_file(Y), "holds no variable 'X'"),
        (matlab_file(X, Y)[:-40], ""),
        (matlab_file(X)[:4000], "values, and its head says 2 x 3 x 32 x 32"),
        (matlab_file(X, compress=False)[:4000], "values, and its head says 2 x 3 x 32 x 32"),
        (matlab_file(X, matrix("y", np.array([1, 2, 3], np.uint8), 2, 6)), "3 labels for 2 images"),
        (matlab_file(X, matrix("y", np.array([0, 10], np.uint8), 2, 6)), "label 0 is not in 1..10"),
        (matlab_file(X, matrix("y", np.array([1.5, 10]), 9, 6)), "label 1.5 is not in 1..10"),
        (matlab_file(X, matrix("y", np.array([1, 2], np.uint8), 2, 4)), "its 'y' is no array of real numbers"),
        (matlab_file(matrix("X", noise(2, 32, 32).transpose(1, 2, 0), 2, 9), Y), "not uint8 of rows x columns x 3 x images"),
        (matlab_file(matrix("X", np.zeros((32, 32, 3, 2)), 9, 6), Y), "float64 shaped (32, 32, 3, 2)"),
        (matlab_file(matrix("X", np.zeros((32, 32, 3, 0), np.uint8), 2, 9), Y), "0 images"),
        (matlab_file(X, Y).replace(b"MI", b"XX").replace(b"IM", b"XX"), "no head of a MATLAB file"),
    ],
)
def test_bad_files_of_svhn_are_told(data: bytes, reason: str, tmp_path: Path) -> None:
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(data)
    assert reason in told("svhn", tmp_path) and "test_32x32.mat" in told("svhn", tmp_path)


@pytest.mark.parametrize("place", range(140, 6000, 977))
def test_a_damaged_byte_of_a_compressed_file_is_found(place: int, tmp_path: Path) -> None:
    write_svhn(tmp_path)
    data = bytearray((tmp_path / "test_32x32.mat").read_bytes())
    data[place] ^= 0x55
    (tmp_path / "test_32x32.mat").write_bytes(data)
    assert "test_32x32.mat" in told("svhn", tmp_path)


def test_variants_are_told(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    assert "'train_32x32.mat" not in told("svhn", tmp_path, variant="extra")
    assert "extra_32x32.mat' is missing" in told("svhn", tmp_path, variant="extra")
    with pytest.raises(UserError, match="variant 'extra' is given, and source 'mnist' has none"):
        opened("mnist", tmp_path, variant="extra")


@pytest.mark.parametrize("source", ["mnist", "cifar10", "svhn"])
def test_a_file_that_became_shorter_is_told(source: str, tmp_path: Path) -> None:
    writers = {"mnist": write_mnist, "cifar10": write_cifar10, "svhn": lambda folder: write_svhn(folder, compress=False)}
    writers[source](tmp_path)
    file = {"mnist": "t10k-images-idx3-ubyte", "cifar10": "test_batch.bin", "svhn": "test_32x32.mat"}[source]
    found = opened(source, tmp_path)
    survey = found.survey()
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) * 3 // 8] if source == "svhn" else data[: len(data) // 2 // 3073 * 3073])
    with pytest.raises(UserError, match=rf"{file}' is not a whole file of '{source}'"):
        images_of(found, survey, "test")


@pytest.mark.parametrize(
    ("source", "labels", "fingerprint"),
    [
        ("mnist", None, "52b98e8d24f5"),
        ("mnist", False, "aa446700956a"),
        ("binarized_mnist", None, "353a05248742"),
        ("cifar10", None, "dee31b1e1bf1"),
        ("cifar10", False, "682940b0e5a3"),
    ],
)
def test_what_was_prepared_before_is_the_same_data_set(source: str, labels: bool | None, fingerprint: str, tmp_path: Path) -> None:
    """As computed by commit aae2f54, before files were read a piece at a time."""
    files = tmp_path / "files"
    files.mkdir()
    WRITERS[source](files)
    config = DatasetConfig(source=source, path=str(files), labels=labels)
    found = open_source(config)
    assert _plan(config, Storage(tmp_path / "storage"), _look(config, found, found.survey())).fingerprint == fingerprint
