"""Data sets prepared from Parquet, Arrow, a saved Hugging Face data set and tar shards, local and in a bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixelmodels.data import DatasetConfig, find_prepared, prepare
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.reading import picture, png
from tests.data.test_huggingface import save_by_hand
from tests.data.test_parquet import table, write_arrow
from tests.data.test_webdataset import samples, shard

NAMES = ("u", "v", "w")


def write_parquet(folder: Path) -> None:
    for split, numbers in (("train", range(30)), ("test", range(30, 36))):
        pq.write_table(table(numbers, NAMES), folder / f"{split}-00000-of-00001.parquet", row_group_size=7)


def write_feather(folder: Path) -> None:
    write_arrow(folder / "train.feather", table(range(30), NAMES), "file", 7, compression="lz4")
    write_arrow(folder / "test.feather", table(range(30, 36), NAMES), "file", 7)


def write_huggingface(folder: Path) -> None:
    save_by_hand(folder / "train", 30)
    save_by_hand(folder / "test", 36, list(range(30, 36)))
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def write_webdataset(folder: Path) -> None:
    shard(folder / "train-000000.tar", samples(range(20)))
    shard(folder / "train-000001.tar.gz", samples(range(20, 30)))
    shard(folder / "test-000000.tar", samples(range(30, 36)))
    (folder / "classes.txt").write_text("\n".join(NAMES))


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "parquet": ("parquet", write_parquet),
    "feather": ("parquet", write_feather),
    "huggingface": ("huggingface", write_huggingface),
    "webdataset": ("webdataset", write_webdataset),
}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", WRITERS)
def test_from_disk_and_from_a_bucket(kind: str, bucket: str, tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    source, write = WRITERS[kind]
    folder = tmp_path / kind
    folder.mkdir()
    write(folder)
    monkeypatch.setattr("pixelmodels.data.source.RACY_S", -3600)
    config = DatasetConfig(source=source, path=str(folder))
    dataset = prepare(config, storage)
    assert dataset.name == kind and dataset.label_names == NAMES and dataset.num_skipped == 0
    assert (dataset.spec.shape, dataset.spec.levels) == ((3, 4, 4), 256)
    test = dataset.read("test")
    np.testing.assert_array_equal(test.images_NCHW, np.stack([picture(i) for i in range(30, 36)]).transpose(0, 3, 1, 2))
    assert test.labels_N is not None and test.labels_N.tolist() == [0, 1, 2, 0, 1, 2]
    rest = [dataset.read(split) for split in ("train", "validation")]
    found = {image.tobytes(): int(label) for part in rest for image, label in zip(part.images_NCHW, part.labels_N, strict=True)}  # type: ignore[arg-type]
    assert found == {picture(i).transpose(2, 0, 1).tobytes(): i % 3 for i in range(30)}
    assert (again := find_prepared(config, storage)) is not None and again.folder == dataset.folder
    there = Storage(f"{bucket}/records/{kind}")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        there.write_bytes(str(file.relative_to(folder)), file.read_bytes())
    remote = prepare(dataclasses.replace(config, path=there.root), Storage(f"{bucket}/root"))
    assert remote.fingerprint == dataset.fingerprint
    for split in ("train", "validation", "test"):
        assert [one["sha256"] for one in remote.shards(split)] == [one["sha256"] for one in dataset.shards(split)]
    plain = prepare(dataclasses.replace(config, labels=False, splits="hash"), storage)
    assert plain.num_classes == 0 and plain.fingerprint != dataset.fingerprint
    assert sum(plain.num_images(split) for split in ("train", "validation", "test")) == 36


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_no_image_is_put_aside_and_counted(tmp_path: Path, storage: Storage) -> None:
    rows = [png(i) if i % 20 else None for i in range(60)]
    pq.write_table(pa.table({"image": pa.array(rows, pa.binary())}), tmp_path / "a.parquet")
    config = DatasetConfig(source="parquet", path=str(tmp_path / "a.parquet"), name="some")
    with pytest.raises(UserError, match=r"3 of 60 rows are no images: a.parquet/0000000 .null."):
        prepare(config, storage)
    dataset = prepare(dataclasses.replace(config, max_bad_share=0.05), storage)
    assert sum(dataset.num_images(split) for split in ("train", "validation", "test")) == 57
    assert [(one["key"], one["reason"]) for one in dataset.skipped()] == [(f"a.parquet/{i:07d}", "null") for i in (0, 20, 40)]


@pytest.mark.usefixtures("ray_cluster")
def test_other_columns_make_another_data_set(tmp_path: Path, storage: Storage) -> None:
    """The same file with other columns is another data set, and nothing of the first one is gone on from."""
    made = pa.table(
        {"left": [png(i) for i in range(12)], "right": [png(i + 12) for i in range(12)], "kind": ["a", "b"] * 6, "class": [0, 1, 2] * 4}
    )
    pq.write_table(made, tmp_path / "sides.parquet")
    config = DatasetConfig(source="parquet", path=str(tmp_path / "sides.parquet"), name="sides", image_column="left")
    left = prepare(config, storage)
    right = prepare(dataclasses.replace(config, image_column="right"), storage)
    kinds = prepare(dataclasses.replace(config, label_column="kind"), storage)
    assert len({left.fingerprint, right.fingerprint, kinds.fingerprint}) == 3
    assert left.label_names == right.label_names == ("0", "1", "2") and kinds.label_names == ("a", "b")
    assert prepare(config, storage).folder == left.folder


@pytest.mark.usefixtures("ray_cluster")
def test_other_names_of_the_classes_make_another_data_set(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_webdataset(folder)
    config = DatasetConfig(source="webdataset", path=str(folder))
    first = prepare(config, storage)
    (folder / "classes.txt").write_text("x\ny\nz\n")
    second = prepare(config, storage)
    assert second.label_names == ("x", "y", "z") and second.fingerprint != first.fingerprint


@pytest.mark.usefixtures("ray_cluster")
def test_a_wrong_column_of_images_is_told(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "shards"
    shard(folder / "a.tar", samples(range(3)))
    with pytest.raises(UserError) as error:
        prepare(DatasetConfig(source="webdataset", path=str(folder), image_column="jpg", size=(4, 4)), storage)
    assert f"'{folder}' has no images (3 other samples, the first is 'a.tar/000000': no image among its members" in str(error.value)
    assert str(error.value).endswith("; name the images with --image-column (also there: 'png', 'cls'), or give other files")
    made = pa.table({"image": [png(i) for i in range(3)], "hash": [b"none"] * 3})
    pq.write_table(made, tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"has no images \(3 other rows, .*; name the images with --image-column \(also there: 'image'\), or"
    ):
        prepare(DatasetConfig(source="parquet", path=str(tmp_path / "a.parquet"), image_column="hash", size=(4, 4)), storage)


@pytest.mark.usefixtures("ray_cluster")
def test_rows_without_image_or_label_are_counted_as_what_they_are(tmp_path: Path, storage: Storage) -> None:
    made = pa.table({"image": pa.array([png(i) if i else None for i in range(60)]), "label": [("a", "b", None)[i % 3] for i in range(60)]})
    pq.write_table(made, tmp_path / "train.parquet")
    said: list[str] = []
    dataset = prepare(DatasetConfig(source="parquet", path=str(tmp_path / "train.parquet")), storage, say=said.append)
    without = {split: dataset.num_unlabelled(split) for split in ("train", "validation", "test")}
    assert without == {"train": 16, "validation": 0, "test": 4}
    assert "2 classes ('a', 'b'); images without a label: 16 of train, 4 of test;" in said[-1]
    assert "1 rows put aside (1 empty): train.parquet/0000000 (null); all in" in said[-1]
