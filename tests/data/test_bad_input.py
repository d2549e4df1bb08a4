from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pixelmodels.data import SPLITS, DatasetConfig, pieces, preparation, prepare
from pixelmodels.data.source import Listing
from pixelmodels.data.sources import open_source
from pixelmodels.data.sources.folder import Folder
from pixelmodels.data.writing import ImageForm, ShardWriter, SourceLoader
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.test_decoding import chunk

ROOT = Path(__file__).resolve().parents[2]


def folder_config(path: Path, **options: object) -> DatasetConfig:
    return dataclasses.replace(DatasetConfig(source="folder", path=str(path)), **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_cluster")
def test_files_that_are_no_images_are_counted_named_and_put_aside(pictures: Path, storage: Storage) -> None:
    (pictures / "ants" / "notes.txt").write_text("not an image")
    whole = (pictures / "bees" / "01.png").read_bytes()
    (pictures / "bees" / "cut.png").write_bytes(whole[:-30])  # its header can be read, its pixels cannot
    said: list[str] = []
    dataset = prepare(folder_config(pictures, max_bad_share=0.1), storage, said.append)
    assert sum(dataset.num_images(split) for split in SPLITS) == 30
    assert dataset.num_skipped == 2
    assert [entry["key"] for entry in dataset.skipped()] == ["ants/notes.txt", "bees/cut.png"]
    assert "not an image file" in dataset.skipped()[0]["reason"]
    (line,) = said
    assert "2 files put aside (1 no image, 1 damaged): ants/notes.txt (not an image file" in line and "rejected.parquet" in line


@pytest.mark.usefixtures("ray_cluster")
def test_too_many_of_them_are_an_error(pictures: Path, storage: Storage) -> None:
    for i in range(4):
        (pictures / f"{i}.dat").write_bytes(bytes(100))
    with pytest.raises(UserError, match=r"4 of 34 files are no images: 0.dat \(not an .*\), .* and 1 more; .*--max-bad-share"):
        prepare(folder_config(pictures), storage)
    assert storage.list("datasets") == []
    assert prepare(folder_config(pictures, max_bad_share=0.2), storage).num_skipped == 4


def bad_files(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Files that are no images, one of each kind, put into a folder: stage, kind and (part of) the reason of each, by its key."""
    photo = folder / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(photo, quality=95)
    whole = photo.read_bytes()
    photo.unlink()
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(40_000_000), 9))  # unpacked by whoever reads all metadata
    grey = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0)) + text + chunk(b"IDAT", zlib.compress(bytes(50)))
    files = {
        "cut.jpg": (whole[: len(whole) // 2], "pixels", "damaged", "truncated"),
        "cut in its head.jpg": (whole[:100], "header", "no image", "not an image file"),
        "empty.png": (b"", "header", "empty", "an empty file"),
        "notes.png": (b"a text", "header", "no image", "not an image file"),
        "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "header", "no image", "not an image file"),
        "bomb.png": (bomb, "header", "too large", "more than 10000 pixels"),
        "text.png": (b"\x89PNG\r\n\x1a\n" + grey + chunk(b"IEND", b""), "pixels", "damaged", ""),
        "long.bin": (bytes(80_001), "reading", "too large", "80001 bytes are too many"),
    }
    for name, (data, _, _, _) in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe")
    Image.new("F", (3, 3)).save(folder / "float.tif")
    told = {name: (stage, kind, reason) for name, (_, stage, kind, reason) in files.items()}
    return told | {"pipe": ("listing", "unreadable", "not a regular"), "float.tif": ("header", "unknown range", "no known range")}


@pytest.mark.usefixtures("ray_cluster")
def test_every_kind_of_bad_file_is_in_the_table_and_counted(pictures: Path, storage: Storage) -> None:
    plain = prepare(folder_config(pictures, max_pixels=10_000), storage)
    told = bad_files(pictures)
    said: list[str] = []
    dataset = prepare(folder_config(pictures, max_pixels=10_000, max_bad_share=0.5), storage, said.append)
    table = pq.read_table(storage.uri(f"{dataset.folder}/rejected.parquet"))
    assert table.column_names == ["key", "reason", "stage", "kind"] and table.to_pylist() == dataset.skipped()
    assert [row["key"] for row in dataset.skipped()] == sorted(told)
    for row in dataset.skipped():
        stage, kind, reason = told[row["key"]]
        assert (row["stage"], row["kind"]) == (stage, kind) and reason in row["reason"], row
    kinds = {"no image": 3, "too large": 2, "damaged": 2, "empty": 1, "unreadable": 1, "unknown range": 1}
    assert dataset.manifest["skipped"]["count"] == dataset.num_skipped == len(told) == 10
    assert dataset.manifest["skipped"]["kinds"] == kinds
    *_, line = said
    assert "10 files put aside (3 no image, 2 " in line and "and 7 more; all in" in line and "/rejected.parquet" in line
    # The images are all there, as without the others.
    assert [dataset.read(split).keys for split in SPLITS] == [plain.read(split).keys for split in SPLITS]
    assert storage.list("preparing") == []


@pytest.mark.usefixtures("ray_cluster")
def test_over_the_limit_it_fails_after_the_report_and_goes_on_from_there(pictures: Path, storage: Storage) -> None:
    told = bad_files(pictures)
    long_ago = time.time() - 60
    for file in pictures.rglob("*"):
        os.utime(file, (long_ago, long_ago))
    with pytest.raises(UserError, match=r"^10 of 40 files are no images: bomb.png \(.*\), .*, cut.jpg \(.*\) and 7 more; all") as error:
        prepare(folder_config(pictures, max_pixels=10_000), storage)
    assert "\n" not in str(error.value) and storage.list("datasets") == []
    (report,) = re.findall(r"all are in '(.*?)'", str(error.value))
    assert pq.read_table(report)["key"].to_pylist() == sorted(told)
    said: list[str] = []
    dataset = prepare(folder_config(pictures, max_pixels=10_000, max_bad_share=0.25), storage, said.append)
    assert dataset.num_skipped == 10 and said[0] == f"goes on from 1 of 1 parts of '{pictures}' that are decoded"
    assert storage.list("preparing") == [] and pq.read_table(storage.uri(f"{dataset.folder}/rejected.parquet")).num_rows == 10


@pytest.mark.usefixtures("ray_cluster")
def test_one_bad_file_is_always_accepted(pictures: Path, storage: Storage) -> None:
    (pictures / "notes.txt").write_text("no")
    assert prepare(folder_config(pictures, max_bad_share=0.0), storage).num_skipped == 1
    (pictures / "more.txt").write_text("no")
    with pytest.raises(UserError, match=r"2 of 32 files are no images: more.txt \(.*\), notes.txt \(.*\); all are in .* share of 0.01 may"):
        prepare(folder_config(pictures), storage)


@pytest.mark.usefixtures("ray_cluster")
def test_what_windows_leaves_in_folders_does_not_count(pictures: Path, storage: Storage) -> None:
    for name in ("Thumbs.db", "ants/desktop.ini", "bees/THUMBS.DB", "cats/ehthumbs.db"):
        (pictures / name).write_bytes(b"no image")
    (pictures / "notes.txt").write_text("no")
    dataset = prepare(folder_config(pictures), storage)
    assert dataset.num_skipped == 5 and sum(dataset.num_images(split) for split in SPLITS) == 30
    for name in ("thumbs.db.txt", "my_desktop.ini"):
        (pictures / name).write_bytes(b"no image")
        with pytest.raises(UserError, match=rf"2 of 32 files are no images: .*{name}.*"):
            prepare(folder_config(pictures), storage)
        (pictures / name).unlink()


@pytest.mark.usefixtures("ray_cluster")
def test_what_an_earlier_version_put_aside_is_still_told(pictures: Path, storage: Storage) -> None:
    (pictures / "notes.txt").write_text("no")
    dataset = prepare(folder_config(pictures), storage)
    entries = [{"key": "notes.txt", "reason": "not an image file"}]
    storage.write_bytes(f"{dataset.folder}/skipped.json", json.dumps(entries).encode())
    old = dataclasses.replace(dataset, manifest={**dataset.manifest, "skipped": {"count": 1, "file": "skipped.json", "num_hidden": 0}})
    assert old.skipped() == entries and "1 files put aside: notes.txt (not an image file); all in" in old.summary()


@pytest.mark.usefixtures("ray_cluster")
def test_images_that_are_lost_on_the_way_are_told_with_all_numbers(
    pictures: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = preparation.map_records
    monkeypatch.setattr(preparation, "map_records", lambda *arguments: list(whole(*arguments))[1:])
    (pictures / "notes.txt").write_text("no")
    with pytest.raises(RuntimeError, match=r"^31 images were read, and \d+ were written, 1 rejected and 0 left out"):
        prepare(folder_config(pictures), storage)
    assert not list(Path(storage.uri("datasets")).glob("*/manifest.json"))


@pytest.mark.usefixtures("ray_cluster")
def test_truncated_ones_count_too_and_leave_no_data_set(pictures: Path, storage: Storage) -> None:
    for file in sorted((pictures / "cats").iterdir())[:5]:
        file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="5 of 30 files are no images"):
        prepare(folder_config(pictures), storage)
    assert not any(name == "manifest.json" for folder in storage.list("datasets") for name in storage.list(f"datasets/{folder}"))


@pytest.mark.usefixtures("ray_cluster")
def test_images_that_are_too_large_are_put_aside_undecoded(pictures: Path, storage: Storage) -> None:
    dataset = prepare(folder_config(pictures, max_pixels=30), storage)
    assert dataset.num_skipped == 0
    with pytest.raises(UserError, match=r"has no images \(30 other files, the first is 'ants/00.png': 5 x 6 is more than 29 pixels"):
        prepare(folder_config(pictures, max_pixels=29), storage)


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_that_changes_meanwhile_is_told(pictures: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pieces.map_records

    def meddle(*arguments: object) -> object:
        (pictures / "new.png").write_bytes((pictures / "ants" / "00.png").read_bytes())
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pieces, "map_records", meddle)
    with pytest.raises(UserError, match="changed while it was read"):
        prepare(folder_config(pictures), storage)
    assert storage.list("preparing") == storage.list("datasets") == []


@pytest.mark.usefixtures("ray_cluster")
def test_links_that_lead_nowhere_and_sockets_are_put_aside(pictures: Path, storage: Storage) -> None:
    (pictures / "ants" / "broken.png").symlink_to("nowhere.png")
    (pictures / "again").symlink_to(pictures)
    os.mkfifo(pictures / "pipe")
    dataset = prepare(folder_config(pictures, max_bad_share=0.1), storage)
    assert {entry["key"]: entry["reason"] for entry in dataset.skipped()} == dict.fromkeys(
        ("again", "ants/broken.png", "pipe"), "not a regular file"
    )
    assert sum(dataset.num_images(split) for split in SPLITS) == 30


@pytest.mark.usefixtures("ray_cluster")
def test_a_file_that_a_worker_cannot_see_is_told_in_one_line(pictures: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Folder.listing

    def lose(source: Folder) -> Listing:
        found = listing(source)
        (pictures / "bees" / "01.png").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Folder, "listing", lose)
    with pytest.raises(UserError, match=r"01.png' was listed, but a worker cannot see it") as told:
        prepare(folder_config(pictures), storage)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("ray_cluster")
def test_a_shard_that_the_driver_cannot_see_is_told(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when two hosts have a folder each at the storage root's place."""
    whole = preparation.map_records

    def lose(*arguments: object) -> object:
        results = list(whole(*arguments))  # type: ignore[arg-type]
        next(Path(storage.uri("datasets")).glob("*/validation-00000.parquet")).unlink()
        return results

    monkeypatch.setattr(preparation, "map_records", lose)
    with pytest.raises(
        UserError, match=r"shard 'validation-00000.parquet' written by a worker is not at '.*'; give a --storage that every host"
    ):
        prepare(DatasetConfig(), storage)
    assert not list(Path(storage.uri("datasets")).glob("*/manifest.json"))


def test_a_shard_that_has_no_room_is_told_in_one_line(storage: Storage) -> None:
    """A limit on the size of files says what a disk that is full says: the write fails in the middle."""
    config = DatasetConfig()
    survey = open_source(config).survey()
    form = ImageForm(1, (8, 8), 17, "none")
    writer = ShardWriter(SourceLoader(open_source(config), 17, form), storage, "datasets/digits-0", form, seed=0)
    task = {"split": "test", "file": "test-00000.parquet", "may_be_whole": False, "keys": survey.keys, "labels": survey.labels}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"digits-0/test-00000.parquet' \([0-9,]+ bytes\) cannot be written \(.*\); make room .*same command"
        ) as told:
            writer(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value) and storage.list("datasets/digits-0") == []
    assert writer(task)["num_images"] == 1797


def test_folders_that_cannot_be_used(pictures: Path, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        prepare(folder_config(tmp_path / "empty"), storage)
    with pytest.raises(UserError, match="does not exist"):
        prepare(folder_config(tmp_path / "missing"), storage)
    with pytest.raises(UserError, match="is a file"):
        prepare(folder_config(pictures / "ants" / "00.png"), storage)
    with pytest.raises(UserError, match="lies in the folder of images"):
        prepare(folder_config(pictures), Storage(pictures / "storage"))
    (tmp_path / "short-cut").symlink_to(pictures)
    for images, root in ((pictures, tmp_path / "short-cut" / "storage"), (tmp_path / "short-cut", pictures / "storage")):
        with pytest.raises(UserError, match="lies in the folder of images"):
            prepare(folder_config(images), Storage(root))


@pytest.mark.parametrize("source", ["folder", "mnist", "cifar10"])
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff", b"a\xc3/below"])
def test_a_path_that_is_no_text_is_told(
    source: str, name: bytes, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = os.fsencode(tmp_path) + b"/" + name
    os.makedirs(place)
    with pytest.raises(UserError, match=r"--path b'.*\\x.*' is not UTF-8, so no file below it can be opened; rename it") as told:
        prepare(DatasetConfig(source=source, path=os.fsdecode(place)), storage)
    assert "\n" not in str(told.value)
    str(told.value).encode()  # it can be printed
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match="is not UTF-8"):
        prepare(DatasetConfig(source=source, path="."), storage)
    with pytest.raises(UserError, match=r"--vectors b'.*' is not UTF-8"):
        prepare(DatasetConfig(vectors=os.fsdecode(place) + "/v.parquet"), storage)


@pytest.mark.parametrize(("letters", "shortened"), [(242, False), (243, True), (255, True)])
def test_the_name_of_a_folder_is_shortened_where_it_is_too_long(letters: int, shortened: bool) -> None:
    names = [folder_config(Path("/x") / (letter * letters)).dataset_name() for letter in "ab"]
    assert all(len(name) == 242 for name in names) and len(set(names)) == 2
    assert (names[0] == "a" * letters) == (not shortened)
    assert len({folder_config(Path("/x") / ("a" * 250 + end)).dataset_name() for end in "xyz"}) == 3


def test_a_file_name_that_is_no_text_is_told(pictures: Path, storage: Storage) -> None:
    with open(os.fsencode(pictures) + b"/\xff.png", "wb"):
        pass
    with pytest.raises(UserError, match=r"name is not UTF-8 .*; rename it"):
        prepare(folder_config(pictures), storage)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"levels": 1}, "1 levels asked for; give 2..256"),
        ({"levels": 257}, "give 2..256"),
        ({"binarize": "sometimes"}, "binarize 'sometimes' unknown; have none, threshold, dynamic"),
        ({"binarize": "dynamic", "levels": 17}, "gives 2 levels, but levels is 17"),
        ({"channels": 2}, "give 1 .* or 3"),
        ({"size": (0, 8)}, "size"),
        ({"patch_size": 12}, "patch size 12 unknown; have 8, 16, 32"),
        ({"splits": "own"}, "have auto, hash"),
        ({"validation_share": 0.0}, "validation_share 0.0 out of range"),
        ({"validation_share": 0.5, "test_share": 0.5}, "add up to 1"),
        ({"max_bad_share": 2.0}, "from 0 to 1"),
        ({"rows_per_shard": 0}, "give 1 or more"),
        ({"max_pixels": 10**9}, "out of range"),
        ({"name": "../up"}, "letters, digits"),
        ({"name": "a" * 243}, r"'a{40}\.\.\.' has 243 letters, too many for a folder; give at most 242"),
        ({"name": "a" * 5000}, "has 5000 letters"),
    ],
)
def test_options_out_of_range_are_one_line(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        DatasetConfig(**options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--source", "folder", "--path", "{empty}"], "has no images"),
        (["--path", ""], "--path '' names nothing; give a local path, s3://bucket/prefix or gs://bucket/prefix"),
        (["--path", "s3://"], "--path 's3://' names nothing; give"),
        (["--source", "folder", "--path", "gs:///"], "--path 'gs:///' names nothing; give"),
        (["--source", "folder", "--path", "{empty}", "--patch-size", "8"], "--patch-size 8 has no meaning for source 'folder'; it is for"),
        (["--source", "pictures"], "dataset source 'pictures' unknown; have arrays, binarized_mnist, cifar10, cifar100, digits, emnist"),
        (["--storage", "/proc/nowhere"], "storage root '/proc/nowhere' cannot be written"),
        (["--levels", "300"], "300 levels asked for; give 2..256"),
        (["--name", "n" * 245], "has 245 letters, too many for a folder; give at most 242"),
        (["--source", "folder", "--path", "{empty}/caf\udce9"], "caf\\xe9' is not UTF-8"),
    ],
)
def test_the_pipeline_tells_a_mistake_in_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "pipelines/prepare_data.py", "--storage", str(tmp_path / "storage")]
    command += [argument.format(empty=tmp_path / "empty") for argument in arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:1"}  # no Ray is needed to find these out
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and told in done.stderr
