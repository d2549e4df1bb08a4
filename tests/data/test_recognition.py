"""What a path is taken for: every kind of files that people have, in the layouts in which they have them."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.prepare_data import Arguments
from pixelmodels.commandline import parse
from pixelmodels.data import SOURCES, DatasetConfig, find_prepared, prepare
from pixelmodels.data.recognition import GENERAL, SETS, recognize, recognized
from pixelmodels.data.sources import SHIPPED, open_source, with_files
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.test_packed_sources import write_binarized_mnist, write_cifar10, write_imagenet, write_mnist
from tests.data.writers import noise, write_cifar100, write_emnist, write_svhn


def write_images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names or ("a.png", "b.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as stream:
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(stream, "JPEG" if name.endswith("jpg") else "PNG")


def touch(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")

    return write


HERE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "mnist": ("mnist", write_mnist),
    "mnist, packed": ("mnist", lambda folder: write_mnist(folder, packed=True)),
    "mnist, both": ("mnist", lambda folder: (write_mnist(folder), write_mnist(folder, packed=True))),
    "mnist, dotted": ("mnist", touch("train-images.idx3-ubyte", "train-labels.idx1-ubyte", "t10k-images.idx3-ubyte")),
    "mnist beside a picture": ("mnist", lambda folder: (write_mnist(folder), write_images(folder, "grid.png"))),
    "emnist": ("emnist", lambda folder: write_emnist(folder, "letters", [1, 2])),
    "binarized": ("binarized_mnist", write_binarized_mnist),
    "cifar10": ("cifar10", write_cifar10),
    "cifar10, python": ("cifar10", touch("batches.meta", "data_batch_1", "data_batch_5", "readme.html", "test_batch")),
    "cifar100": ("cifar100", lambda folder: write_cifar100(folder, "binary")),
    "cifar100, python": ("cifar100", lambda folder: write_cifar100(folder, "python")),
    "imagenet": ("imagenet_downsampled", write_imagenet),
    "imagenet, python": ("imagenet_downsampled", touch("train_data_batch_1", "val_data")),
    "svhn": ("svhn", write_svhn),
    "arrays": ("arrays", lambda folder: np.save(folder / "train.npy", noise(2, 3, 3))),
    "img2dataset": ("webdataset", touch("00000.tar", "00000.parquet", "00000_stats.json", "00001.tar", "00001.parquet")),
    "a cache of Hugging Face's": ("parquet", touch("cifar10-train.arrow", "cifar10-test.arrow", "dataset_info.json")),
    "other endings": ("parquet", touch("a.pq", "b.parq")),
    "ipc": ("parquet", touch("a.ipc")),
    "arrays with a README": ("arrays", touch("README.md", "x.npz")),
    "kmnist": ("arrays", touch("kmnist-train-imgs.npz", "kmnist-train-labels.npz")),
    "images": ("folder", write_images),
    "images in capitals": ("folder", touch("A.JPG", "B.TIFF")),
    "images without endings": ("folder", lambda folder: write_images(folder, "0001", "0002")),
    "class folders": ("folder", lambda folder: write_images(folder, "ant/1.png", "bee/2.png")),
    "splits and classes": ("folder", lambda folder: write_images(folder, "train/ant/1.png", "test/ant/2.png")),
    "splits in a folder": ("folder", lambda folder: write_images(folder, "archive/train/ant/1.png", "archive/test/ant/2.png")),
    "images, README, table": ("folder", lambda folder: (write_images(folder), touch("README.md", "labels.csv", "LICENSE")(folder))),
    "parquet": ("parquet", touch("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")),
    "parquet of a hub": ("parquet", touch("README.md", "data/train-00000-of-00001.parquet")),
    "parquet in splits": ("parquet", touch("train/a.parquet", "test/a.parquet")),
    "arrow": ("parquet", touch("a.arrow")),
    "hugging face": ("huggingface", touch("dataset_info.json", "state.json", "data-00000-of-00001.arrow")),
    "hugging face, splits": ("huggingface", touch("dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow")),
    "tar shards": ("webdataset", touch("train-000000.tar", "train-000001.tar")),
    "tar shards in splits": ("webdataset", touch("train/000000.tar", "val/000000.tar")),
    "packed tar shards": ("webdataset", touch("train-000000.tar.gz", "train-000001.tar.gz")),
    "hidden files": ("folder", lambda folder: (write_images(folder), touch(".DS_Store", "__MACOSX/x.npy", ".cache/y.npz")(folder))),
}
HERE["what is no file"] = ("folder", lambda folder: (write_images(folder, "1"), strange(folder)))
BELOW: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "torchvision's mnist": ("mnist", "MNIST/raw", lambda folder: in_folder(folder / "MNIST/raw", write_mnist)),
    "torchvision's cifar": (
        "cifar10",
        "cifar-10-batches-py",
        touch("cifar-10-python.tar.gz", "cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"),
    ),
    "an unpacked archive": ("cifar100", "cifar-100-binary", lambda folder: in_folder(folder / "cifar-100-binary", cifar100)),
    "arrays": ("arrays", "data", touch("data/x.npy", "notes.txt")),
    "hugging face": ("huggingface", "saved", touch("saved/dataset_dict.json", "saved/train/state.json", "saved/test/state.json")),
}


def strange(folder: Path) -> None:
    """A pipe, which would never end to be read, a link to nowhere and one to itself."""
    os.mkfifo(folder / "0_pipe")
    (folder / "0_nowhere").symlink_to(folder / "gone")
    (folder / "0_ring").symlink_to(folder / "0_ring")


def cifar100(folder: Path) -> None:
    write_cifar100(folder, "binary")


def in_folder(folder: Path, write: Callable[[Path], object]) -> None:
    folder.mkdir(parents=True)
    write(folder)


def told(path: Path | str) -> str:
    with pytest.raises(UserError) as error:
        recognize(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", HERE)
def test_a_folder_is_taken_for_what_it_holds(name: str, tmp_path: Path) -> None:
    source, write = HERE[name]
    write(tmp_path)
    found = recognize(str(tmp_path))
    assert (found.source, found.path) == (source, str(tmp_path))
    lines: list[str] = []
    config = recognized(DatasetConfig(path=str(tmp_path)), lines.append)
    assert config == DatasetConfig(source=source, path=str(tmp_path))
    assert lines == [
        f"'{tmp_path}' is taken for {found.about} (source {source}); prepare_data.py --source NAME takes it for something else"
    ]
    assert recognized(config, lines.append) is config and len(lines) == 1


@pytest.mark.parametrize("name", BELOW)
def test_a_set_is_found_in_a_folder_below(name: str, tmp_path: Path) -> None:
    source, below, write = BELOW[name]
    write(tmp_path)
    found = recognize(f"{tmp_path}/")
    assert (found.source, found.path) == (source, f"{tmp_path}/{below}")


def test_every_source_with_files_is_known() -> None:
    to_come = {"parquet", "huggingface", "webdataset"}
    assert {kind.source for kind in (*SETS, *GENERAL)} - to_come == set(SOURCES) - set(SHIPPED) - to_come


@pytest.mark.parametrize(("name", "source"), [("x.npz", "arrays"), ("x.npy", "arrays"), ("a.parquet", "parquet"), ("a.tar", "webdataset")])
def test_one_file_is_taken_for_what_it_is_called(name: str, source: str, tmp_path: Path) -> None:
    touch(name)(tmp_path)
    found = recognize(str(tmp_path / name))
    assert (found.source, found.path) == (source, str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("train-images-idx3-ubyte.gz", "is one file of IDX files of MNIST, Fashion-MNIST or KMNIST; give the folder that holds it"),
        ("data_batch_1.bin", "is one file of CIFAR-10's files; give the folder"),
        ("train_32x32.mat", "is one file of SVHN's cropped digits; give the folder"),
        ("photo.png", "is one file of image files; give the folder"),
        ("notes.txt", "is a file of no known kind; give a folder with images"),
        ("cifar-10-binary.tar.gz", "is a packed archive; unpack it (mkdir -p cifar-10-binary && tar -xf "),
        ("cifar-10-python.tar", "is a packed archive; unpack it (mkdir -p cifar-10-python && tar -xf "),
        ("my images.zip", "my images.zip' -d 'my images') and give --path 'my images'"),
        ("images.7z", "7z x -oimages"),
        ("shard0.tar.gz", "--path shard0, or --source webdataset where it holds WebDataset's shards"),
        ("shard0.TGZ", "--path shard0, or --source webdataset"),
    ],
)
def test_one_file_that_will_not_do_is_told(name: str, reason: str, tmp_path: Path) -> None:
    touch(name)(tmp_path)
    assert reason in told(tmp_path / name)


def test_one_image_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    write_images(tmp_path, "photo")
    assert "is one image; give the folder that holds it" in told(tmp_path / "photo")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (touch(), "has nothing in it; give --path FOLDER"),
        (touch("notes.txt", "a/b/c/d.txt"), "holds nothing that is recognized (it has 'notes.txt', 'a/'); give a folder with images"),
        (touch(*(f"{i}.txt" for i in range(9))), "'4.txt' and 4 more)"),
        (touch("cifar-10-binary.tar.gz"), "cifar-10-binary.tar.gz' is a packed archive; unpack it"),
        (touch("downloads/archive.zip"), "archive.zip' is a packed archive; unpack it (unzip -q"),
        (touch("x.npy", "a.parquet"), "NumPy arrays in '.' (source arrays), Parquet or Arrow files in '.' (source parquet); say which"),
        (touch("embeddings.npy", "images/a.png"), "several things: NumPy arrays in '.' (source arrays), image files in 'images' (source f"),
        (touch("MNIST/raw/train-images-idx3-ubyte", "svhn/raw/train_32x32.mat"), "several things: IDX files of MNIST"),
        (touch("a/x.npy", "b/x.npy"), "holds NumPy arrays in several folders ('a', 'b'); give one of them with --path"),
        (
            touch("MNIST/raw/train-images-idx3-ubyte", "KMNIST/raw/train-images-idx3-ubyte"),
            "in several folders ('KMNIST/raw', 'MNIST/raw')",
        ),
    ],
)
def test_what_is_unclear_is_told(write: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    write(tmp_path)
    assert reason in told(tmp_path)


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "does not exist; give --path FOLDER" in told(tmp_path / "nowhere")
    with pytest.raises(UserError, match="does not exist"):
        open_source(DatasetConfig(path=str(tmp_path / "nowhere")))


def test_large_folders_are_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many files nor many folders, nor a ring of links, cost more than a few listings."""
    write_images(tmp_path, *(f"class_{i:03d}/{j}.png" for i in range(60) for j in range(2)))
    (tmp_path / "class_000/ring").symlink_to(tmp_path)
    looked: list[str] = []
    glance = Storage.glance

    def counting(storage: Storage, path: str = "", most: int = 1000) -> tuple[str, ...]:
        looked.append(path)
        names = glance(storage, path, most)
        assert len(names) <= most
        return names

    monkeypatch.setattr(Storage, "glance", counting)
    assert recognize(str(tmp_path)).source == "folder" and len(looked) <= 45
    assert len(glance(Storage(tmp_path), "", 7)) == 7


def test_packed_archives_are_unpacked_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex
    import subprocess

    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    write_mnist(tmp_path / "files")
    with tarfile.open(tmp_path / "fashion set.tar.bz2", "w:bz2") as archive:
        for file in (tmp_path / "files").iterdir():
            archive.add(file, file.name)
    text = told(tmp_path / "fashion set.tar.bz2")
    command, path = text.partition("unpack it (")[2].split(") and give --path ")
    subprocess.run(command, shell=True, check=True)
    assert recognize(*shlex.split(path)).source == "mnist"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.write(tmp_path / "files/train-images-idx3-ubyte", "train-images-idx3-ubyte")
    assert "unzip -q" in told("x.zip")


def test_another_source_than_what_is_there_is_told(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(
        UserError, match=r"is missing; source 'mnist' needs it.*; it seems to hold CIFAR-10's files: give --source cifar10$"
    ):
        open_source(DatasetConfig(source="mnist", path=str(tmp_path))).listing()
    with pytest.raises(UserError, match=r"holds no images \(no array\).*: give --source cifar10"):
        open_source(DatasetConfig(source="arrays", path=str(tmp_path))).listing()
    in_folder(tmp_path / "other/MNIST/raw", write_mnist)
    with pytest.raises(UserError, match=r"is missing.*\(IDX files of MNIST, .* are in '.*/MNIST/raw'\)"):
        open_source(DatasetConfig(source="mnist", path=str(tmp_path / "other"))).listing()
    with pytest.raises(UserError, match=r"'.*/raw' seems to hold IDX files of .*: give --source mnist --path .*/raw$"):
        open_source(DatasetConfig(source="svhn", path=str(tmp_path / "other"))).listing()


# --- configs ---


def test_no_path_is_digits_as_ever() -> None:
    assert DatasetConfig() == DatasetConfig(source="digits") and DatasetConfig(source="auto").source == "digits"
    assert DatasetConfig(path="x").source == "auto"


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ([], DatasetConfig(source="digits")),
        (["--path", "x"], DatasetConfig(source="auto", path="x")),
        (["--source", "auto", "--path", "x"], DatasetConfig(source="auto", path="x")),
        (["--source", "photos"], DatasetConfig(source="photos")),
        (["--source", "svhn", "--path", "x", "--variant", "extra"], DatasetConfig(source="svhn", path="x", variant="extra")),
    ],
)
def test_the_command_line_leaves_the_source_open(words: list[str], config: DatasetConfig) -> None:
    assert parse(Arguments, words).data == config


def test_files_of_ones_own_take_the_place_of_those_that_ship(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    lines: list[str] = []
    digits = DatasetConfig(source="digits", levels=4)
    assert with_files(digits, str(tmp_path), lines.append) == dataclasses.replace(digits, source="svhn", path=str(tmp_path))
    assert len(lines) == 1
    cifar = DatasetConfig(source="cifar10")
    assert with_files(cifar, str(tmp_path), lines.append) == dataclasses.replace(cifar, path=str(tmp_path))
    assert with_files(digits, None, lines.append) == digits and len(lines) == 1


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_recognized_is_the_data_set_that_it_is_when_told(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.source.RACY_S", -3600)
    folder = tmp_path / "root/MNIST/raw"
    in_folder(folder, write_mnist)
    lines: list[str] = []
    told = prepare(DatasetConfig(source="mnist", path=str(folder)), storage, say=lines.append)
    open_ = DatasetConfig(path=str(tmp_path / "root"))
    found = find_prepared(open_, storage)
    assert found is not None and found.folder == told.folder
    assert prepare(open_, storage, say=lines.append).folder == told.folder and told.name == "mnist"
    assert len(lines) == 3 and "is taken for IDX files" in lines[1] and "already prepared" in lines[2]


# --- buckets ---


def copy(folder: Path, uri: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            Storage(uri).write_bytes(str(file.relative_to(folder)), file.read_bytes())


def same_there_as_here(folder: Path, uri: str) -> None:
    """Each set is recognized, and surveyed as the one on disk is."""
    writers: dict[str, Callable[[Path], object]] = {
        "mnist": lambda path: write_mnist(path, packed=True),
        "emnist": lambda path: write_emnist(path, "letters", [1, 2, 3]),
        "cifar10": write_cifar10,
        "cifar100": lambda path: write_cifar100(path, "python"),
        "svhn": write_svhn,
        "arrays": lambda path: np.savez_compressed(path / "x.npz", train_images=noise(3, 4, 4), train_labels=np.arange(3)),
    }
    for source, write in writers.items():
        in_folder(folder / source, write)
        copy(folder / source, f"{uri}/{source}")
        config = recognized(DatasetConfig(path=f"{uri}/{source}/"))
        assert config.source == source
        there, here = open_source(config), open_source(DatasetConfig(source=source, path=str(folder / source)))
        survey = here.survey()
        assert there.survey() == survey
        height, width, channels = survey.shape_HWC
        for one, other in zip(
            there.load(survey.keys, channels, (height, width)), here.load(survey.keys, channels, (height, width)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert recognize(f"{uri}/arrays/x.npz").source == "arrays"
    assert len(open_source(DatasetConfig(path=f"{uri}/arrays/x.npz")).survey().keys) == 3
    write_images(folder / "pictures", "train/ant/1.png", "test/ant/2.png")
    copy(folder / "pictures", f"{uri}/pictures")
    assert recognize(f"{uri}/pictures").source == "folder"
    assert "has nothing in it" in told(f"{uri}/nothing")
    assert "several things" in told(uri)


def test_an_s3_bucket(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.packed.map_records", lambda function, records: [function(one) for one in records])
    same_there_as_here(tmp_path, f"{bucket}/recognition")
    assert "cannot be looked into" in told("s3://no-such-bucket/x") or "has nothing in it" in told("s3://no-such-bucket/x")


def test_a_google_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gs import google_bucket_server

    monkeypatch.setattr("pixelmodels.data.packed.map_records", lambda function, records: [function(one) for one in records])
    with google_bucket_server("recognition-tests") as uri:
        same_there_as_here(tmp_path, f"{uri}/recognition")


def test_a_bucket_is_asked_for_one_page(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"{bucket}/pages")
    for i in range(5):
        storage.write_bytes(f"{i}.png", b"")
        storage.write_bytes(f"sub_{i}/x.png", b"")
    assert storage.glance() == tuple(sorted([f"{i}.png" for i in range(5)] + [f"sub_{i}/" for i in range(5)]))
    assert len(storage.glance("", 3)) == 3 and storage.glance("sub_1") == ("x.png",) and storage.glance("gone") == ()
    assert io.BytesIO(storage.read_bytes("1.png")).read() == b""


def test_packed_shards_that_are_not_numbered_are_told(tmp_path: Path) -> None:
    touch("shard0.tar.gz", "shard1.tar.gz")(tmp_path)
    assert told(tmp_path).endswith("or --source webdataset where it holds WebDataset's shards")
    touch("birds-000.tar.gz")(tmp_path)
    assert recognize(str(tmp_path)).source == "webdataset"
