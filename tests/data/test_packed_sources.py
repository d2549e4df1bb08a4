"""MNIST, CIFAR-10 and down-sampled ImageNet from files that the tests write in the real formats, and what is said of bad ones."""

from __future__ import annotations

import errno
import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pixelmodels.data import DatasetConfig, find_prepared, prepare
from pixelmodels.data.sources import open_source
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

Images = dict[str, npt.NDArray[np.uint8]]  # N H W C, by split
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images(counts: dict[str, int], shape: tuple[int, int, int], levels: int = 256) -> Images:
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, levels, (count, *shape)).astype(np.uint8) for split, count in counts.items()}


def write_mnist(folder: Path, packed: bool = False) -> Images:
    made = images({"train": 12, "test": 5}, (28, 28, 1))
    for split, stem in (("train", "train"), ("test", "t10k")):
        count = len(made[split])
        for kind, data in (
            ("images-idx3", struct.pack(">4I", 0x803, count, 28, 28) + made[split].tobytes()),
            ("labels-idx1", struct.pack(">2I", 0x801, count) + bytes(i % 10 for i in range(count))),
        ):
            if packed:
                (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
            else:
                (folder / f"{stem}-{kind}-ubyte").write_bytes(data)
    return made


def write_binarized_mnist(folder: Path) -> Images:
    made = images({"train": 7, "validation": 3, "test": 4}, (28, 28, 1), levels=2)
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        np.savetxt(folder / f"binarized_mnist_{name}.amat", made[split].reshape(-1, 784), fmt="%d")
    return made


def write_cifar10(folder: Path) -> Images:
    made = images({"train": 15, "test": 4}, (32, 32, 3))

    def records(first: int, part: npt.NDArray[np.uint8]) -> bytes:
        return b"".join(bytes([(first + i) % 10]) + one.transpose(2, 0, 1).tobytes() for i, one in enumerate(part))

    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(records(3 * i, made["train"][3 * i : 3 * i + 3]))
    (folder / "test_batch.bin").write_bytes(records(0, made["test"]))
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return made


def write_imagenet(folder: Path) -> Images:
    made = images({"train": 20, "test": 3}, (32, 32, 3))
    for i in range(10):
        save = np.savez_compressed if i % 2 else np.savez
        part = made["train"][2 * i : 2 * i + 2].transpose(0, 3, 1, 2).reshape(2, -1)
        save(folder / f"train_data_batch_{i + 1}.npz", data=part, labels=np.array([1 + 2 * i, 1000]), mean=part.mean(0))
    np.savez(folder / "val_data.npz", data=made["test"].transpose(0, 3, 1, 2).reshape(3, -1), labels=np.array([1, 2, 3]))
    return made


WRITERS: dict[str, Callable[[Path], Images]] = {
    "mnist": write_mnist,
    "binarized_mnist": write_binarized_mnist,
    "cifar10": write_cifar10,
    "imagenet_downsampled": write_imagenet,
}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", WRITERS)
def test_images_labels_and_splits_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    made = WRITERS[name](tmp_path)
    source = pickle.loads(pickle.dumps(open_source(DatasetConfig(source=name, path=str(tmp_path)))))
    survey = source.survey()
    assert survey.keys == sorted(survey.keys) and len(set(survey.keys)) == len(survey.keys)
    height, width, channels = survey.shape_HWC
    assert survey.shape_HWC == made["train"].shape[1:]
    assert survey.levels == (2 if name == "binarized_mnist" else 256)
    loaded = list(source.load(survey.keys, channels, (height, width)))
    for split in made:
        found = [pixels for pixels, own in zip(loaded, survey.splits, strict=True) if own == split]
        np.testing.assert_array_equal(np.stack(found), made[split])
    labels = [label for label, own in zip(survey.labels, survey.splits, strict=True) if own == "train"]
    expected: dict[str, list[int | None]] = {
        "mnist": [i % 10 for i in range(12)],
        "binarized_mnist": [None] * 7,
        "cifar10": [i % 10 for i in range(15)],
        "imagenet_downsampled": [label for i in range(10) for label in (2 * i, 999)],
    }
    assert labels == expected[name]
    names = {"mnist": tuple("0123456789"), "binarized_mnist": (), "cifar10": NAMES}
    assert survey.label_names == names.get(name, tuple(str(i) for i in range(1, 1001)))


@pytest.mark.usefixtures("ray_cluster")
def test_a_prepared_set_keeps_the_test_split_and_takes_validation_from_train(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    made = write_mnist(folder)
    config = DatasetConfig(source="mnist", path=str(folder), validation_share=0.25)
    dataset = prepare(config, storage)
    assert dataset.name == "mnist" and dataset.num_classes == 10
    assert dataset.num_images("train") + dataset.num_images("validation") == 12 and dataset.num_images("validation") > 0
    test = dataset.read("test")
    np.testing.assert_array_equal(test.images_NCHW, made["test"].transpose(0, 3, 1, 2))
    assert test.labels_N is not None and test.labels_N.tolist() == [0, 1, 2, 3, 4]
    other = tmp_path / "packed"
    other.mkdir()
    write_mnist(other, packed=True)
    assert prepare(DatasetConfig(source="mnist", path=str(other), validation_share=0.25), storage).fingerprint == dataset.fingerprint
    dynamic = prepare(DatasetConfig(source="mnist", path=str(folder), binarize="dynamic"), storage)
    assert dynamic.spec.levels == 2 and dynamic.train_images_are_grey


@pytest.mark.usefixtures("ray_cluster")
def test_files_that_did_not_change_are_not_read_again(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write_cifar10(folder)
    config = DatasetConfig(source="cifar10", path=str(folder))
    monkeypatch.setattr("pixelmodels.data.source.RACY_S", -3600)
    dataset = prepare(config, storage)
    found = find_prepared(config, storage)
    assert found is not None and found.folder == dataset.folder
    (folder / "test_batch.bin").write_bytes(bytes(2 * 3073))
    assert find_prepared(config, storage) is None


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("name", "file"), [("cifar10", "batches.meta.txt"), ("imagenet_downsampled", "map_clsloc.txt")])
def test_other_names_of_the_classes_make_another_data_set(
    name: str, file: str, tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    WRITERS[name](folder)
    monkeypatch.setattr("pixelmodels.data.source.RACY_S", -3600)
    config, unlabelled = (DatasetConfig(source=name, path=str(folder), labels=labels) for labels in (True, False))
    old, old_unlabelled = prepare(config, storage), prepare(unlabelled, storage)
    names = [f"kind_{i}" for i in range(old.num_classes)]
    text = "\n".join(names if name == "cifar10" else [f"n{i:08d} {i + 1} {one}" for i, one in enumerate(names)])
    (folder / file).write_text(text)
    assert find_prepared(config, storage) is None
    new = prepare(config, storage)
    assert new.fingerprint != old.fingerprint and new.manifest["label_names"] == names
    found = find_prepared(config, storage)
    assert found is not None and found.folder == new.folder
    assert prepare(unlabelled, storage).fingerprint == old_unlabelled.fingerprint


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("first", "last"), [(1, 26), (0, 46), (0, 61), (3, 9)])
def test_idx_files_with_more_classes_keep_their_numbers(first: int, last: int, tmp_path: Path) -> None:
    """EMNIST's letters, balanced and by_class are such files; a set that lacks some digits has ten classes all the same."""
    numbers = list(range(first, last + 1))
    for stem in ("train", "t10k"):
        pixels, labels = bytes(numbers) * 4, bytes(numbers)
        (tmp_path / f"{stem}-images.idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">4I", 0x803, len(numbers), 2, 2) + pixels))
        (tmp_path / f"{stem}-labels.idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2I", 0x801, len(numbers)) + labels))
    survey = open_source(DatasetConfig(source="mnist", path=str(tmp_path))).survey()
    assert survey.labels == numbers * 2
    assert survey.label_names == tuple(str(i) for i in range(max(10, last + 1)))


@pytest.mark.parametrize(
    ("used", "num_classes"),
    [(set(), 10), ({3}, 10), (set(range(1, 27)), 27), (set(range(47)), 47), ({*range(1, 10), *range(11, 27)}, None), ({0, 77}, None)],
)
def test_labels_of_idx_files_number_classes_all_together(used: set[int], num_classes: int | None, tmp_path: Path) -> None:
    """A small part may lack some that others have."""
    source = open_source(DatasetConfig(source="mnist", path=str(tmp_path)))
    if num_classes is not None:
        assert source.label_names(used) == tuple(map(str, range(num_classes)))  # type: ignore[attr-defined]
        return
    told = rf"labels in '{tmp_path}' go up to {max(used)}, and none is (1|10): they number no classes; .*prepare_data.py --labels False\)$"
    with pytest.raises(UserError, match=told):
        source.label_names(used)  # type: ignore[attr-defined]


def test_a_part_that_lacks_some_of_more_than_ten_classes_is_whole(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for stem, labels in (("train", [*range(1, 13)]), ("t10k", [1, 2, 3, 11, 12])):
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(labels)) + bytes(labels))
    source = open_source(DatasetConfig(source="mnist", path=str(tmp_path)))
    found = [source.look(part).labels for part in source.parts()]  # type: ignore[attr-defined]
    assert found == [[*range(1, 13)], [1, 2, 3, 11, 12]]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "t10k-labels-idx1-ubyte"),
        ("binarized_mnist", "binarized_mnist_valid.amat"),
        ("cifar10", "data_batch_3.bin"),
        ("imagenet_downsampled", "val_data.npz"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path)
    open_input, read_bytes = Storage.open_input, Storage.read_bytes

    def failing(read: Callable[[Storage, str], object]) -> Callable[[Storage, str], object]:
        def fail(storage: Storage, path: str) -> object:
            if path == file:
                raise OSError(errno.EIO, "Error reading bytes from file")
            return read(storage, path)

        return fail

    monkeypatch.setattr(Storage, "open_input", failing(open_input))
    monkeypatch.setattr(Storage, "read_bytes", failing(read_bytes))
    source = open_source(DatasetConfig(source=name, path=str(tmp_path)))
    with pytest.raises(UserError, match=rf"^'{tmp_path}/{file}' cannot be read \(input/output error\); see to that, or take it out"):
        for part in source.parts():  # type: ignore[attr-defined]
            source.look(part)  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["images-idx3-ubyte", "images-idx3-ubyte.gz", "images.idx3-ubyte", "images.idx3-ubyte.gz"])
def test_idx_files_are_found_plain_packed_and_dotted(form: str, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for stem in ("train", "t10k"):
        data = (tmp_path / f"{stem}-images-idx3-ubyte").read_bytes()
        (tmp_path / f"{stem}-images-idx3-ubyte").unlink()
        (tmp_path / f"{stem}-{form}").write_bytes(gzip.compress(data) if form.endswith("gz") else data)
    source = open_source(DatasetConfig(source="mnist", path=str(tmp_path)))
    assert [source.look(part).count for part in source.parts()] == [12, 5]  # type: ignore[attr-defined]


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for file in tmp_path.glob("*labels*"):
        file.unlink()
    source = open_source(DatasetConfig(source="mnist", path=str(tmp_path), labels=False))
    assert source.look(source.parts()[0]).labels is None  # type: ignore[attr-defined]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def patched(position: int, value: int) -> Callable[[Path], None]:
    def patch(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] = value
        path.write_bytes(data)

    return patch


def with_objects(path: Path) -> None:
    np.savez(path, data=np.array([[1], "a"], object), labels=np.array([1, 2]))


@pytest.mark.parametrize(
    ("name", "file", "damage", "words"),
    [
        ("mnist", "t10k-labels-idx1-ubyte", Path.unlink, ("is missing", "The MNIST database")),
        ("mnist", "train-images-idx3-ubyte", cut, ("9398 values", "12 x 28 x 28")),
        ("mnist", "train-images-idx3-ubyte", patched(3, 1), ("00000801, not 00000803",)),
        ("mnist", "train-labels-idx1-ubyte", cut, ("2 values",)),
        ("binarized_mnist", "binarized_mnist_valid.amat", Path.unlink, ("is missing", "Larochelle")),
        ("binarized_mnist", "binarized_mnist_test.amat", cut, ("no whole number of 28x28",)),
        ("binarized_mnist", "binarized_mnist_test.amat", patched(4, ord("2")), ("does not hold 0 and 1",)),
        ("cifar10", "data_batch_3.bin", Path.unlink, ("is missing", "The CIFAR-10 dataset")),
        ("cifar10", "data_batch_3.bin", cut, ("9209 bytes", "3073")),
        ("cifar10", "test_batch.bin", patched(0, 77), ("label 77",)),
        ("cifar10", "batches.meta.txt", Path.unlink, ("is missing",)),
        ("imagenet_downsampled", "train_data_batch_7.npz", Path.unlink, ("is missing", "image-net.org")),
        ("imagenet_downsampled", "train_data_batch_7.npz", cut, ("zip",)),
        ("imagenet_downsampled", "train_data_batch_7.npz", patched(3000, 1), ("CRC",)),
        ("imagenet_downsampled", "val_data.npz", with_objects, ("object",)),
    ],
)
def test_bad_files_are_told_in_one_line_before_anything_is_decoded(
    name: str, file: str, damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    WRITERS[name](tmp_path)
    damage(tmp_path / file)
    source = open_source(DatasetConfig(source=name, path=str(tmp_path)))
    with pytest.raises(UserError) as error:
        for part in source.parts():  # type: ignore[attr-defined]
            source.look(part)  # type: ignore[attr-defined]
        source.label_names(set())  # type: ignore[attr-defined]
    text = str(error.value)
    assert file in text and "\n" not in text
    for word in words:
        assert word in text


def test_arrays_of_a_wrong_shape_or_label_are_refused(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    source = open_source(DatasetConfig(source="imagenet_downsampled", path=str(tmp_path)))
    last = source.parts()[-1]  # type: ignore[attr-defined]
    for arrays, word in (
        ({"data": np.zeros((2, 100), np.uint8), "labels": np.array([1, 2])}, "not RGB images of 8x8"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": np.array([1, 2])}, "float32"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": np.array([], int)}, "not RGB images"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": np.array([0, 2])}, "not in 1..1000"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": np.array([2])}, "for 2 images"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "labels"),
    ):
        np.savez(tmp_path / "val_data.npz", **arrays)
        with pytest.raises(UserError, match=word):
            source.look(last)  # type: ignore[attr-defined]


def test_options_that_make_no_sense_are_refused() -> None:
    for options, word in (
        ({"source": "mnist"}, "--path"),
        ({"source": "binarized_mnist", "path": "x", "binarize": "dynamic"}, "is binary"),
        ({"source": "binarized_mnist", "path": "x", "labels": True}, "no labels"),
    ):
        with pytest.raises(UserError, match=word):
            open_source(DatasetConfig(**options))  # type: ignore[arg-type]
