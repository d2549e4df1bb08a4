from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pixelmodels.data import SPLITS, Dataset, DatasetConfig, prepare
from pixelmodels.data.copies import copies_in, table_of
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

pytestmark = pytest.mark.usefixtures("ray_cluster")


def picture(seed: int) -> np.ndarray:
    """A picture 16, 16, 3 with contrast, like no other."""
    small_HWC = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small_HWC).resize((16, 16), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 train, 10 validation, 10 test PNGs; of train, 0 and 1 are one of test, 2 is one of validation, 3 and 4 are nearly one of test."""
    counts = {"train": 40, "validation": 10, "test": 10}
    pictures = {f"{split}/{i:02d}.png": picture(100 * k + i) for k, (split, count) in enumerate(counts.items()) for i in range(count)}
    pictures["train/00.png"] = pictures["train/01.png"] = pictures["test/07.png"]
    pictures["train/02.png"] = pictures["validation/03.png"]
    for i, change in ((3, 2), (4, -3)):
        pictures[f"train/{i:02d}.png"] = np.clip(pictures["test/05.png"].astype(int) + change, 0, 255).astype(np.uint8)
    for name, image_HWC in pictures.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HWC).save(path)
    return tmp_path / "pictures"


def config(folder: Path, **options: object) -> DatasetConfig:
    return dataclasses.replace(DatasetConfig(source="folder", path=str(folder), rows_per_shard=7), **options)  # type: ignore[arg-type]


def pairs(table: pa.Table) -> set[tuple[str, ...]]:
    return set(zip(*(table[name].to_pylist() for name in ("train_key", "split", "key", "kind")), strict=True))


EXACT = {
    ("train/00.png", "test", "test/07.png", "exact"),
    ("train/01.png", "test", "test/07.png", "exact"),
    ("train/02.png", "validation", "validation/03.png", "exact"),
}
NEAR = {("train/03.png", "test", "test/05.png", "near"), ("train/04.png", "test", "test/05.png", "near")}


def table_in(dataset: Dataset) -> pa.Table:
    return pq.read_table(dataset.storage.uri(f"{dataset.folder}/duplicates.parquet"))


def test_copies_in_a_prepared_data_set(folder: Path, storage: Storage) -> None:
    dataset = prepare(config(folder), storage, say=lambda _: None)
    found = copies_in(dataset)
    assert pairs(table_of(found, dataset.keys_at)) == EXACT | NEAR
    counts = {one.split: one.counts() for one in found}
    assert counts["test"] == {"train_exact": 2, "train_near": 2, "exact": 1, "near": 1, "not_compared": 0}
    assert counts["validation"] == {"train_exact": 1, "train_near": 0, "exact": 1, "near": 0, "not_compared": 0}


def test_exact_copies_of_files_are_counted_without_being_asked(folder: Path, storage: Storage) -> None:
    lines: list[str] = []
    dataset = prepare(config(folder), storage, say=lines.append)
    duplicates = dataset.manifest["duplicates"]
    assert (duplicates["dropped"], duplicates["num_dropped"]) == ("none", 0)
    assert {split: (count["train_exact"], count["exact"]) for split, count in duplicates["counts"].items()} == {
        "test": (2, 1),
        "validation": (1, 1),
    }
    assert "train has exact copies: 2 of test images, 1 of validation images (pipelines/inspect_data.py shows them" in lines[-1]
    assert dataset.num_images("train") == 40


@pytest.mark.parametrize(("which", "wanted"), [("exact", EXACT), ("near", EXACT | NEAR)])
def test_copies_are_left_out_of_train_and_of_nothing_else(which: str, wanted: set[tuple[str, ...]], folder: Path, storage: Storage) -> None:
    whole, lines = prepare(config(folder), storage, say=lambda _: None), list[str]()
    dataset = prepare(config(folder, drop_duplicates=which), storage, say=lines.append)
    assert dataset.fingerprint != whole.fingerprint
    for split in SPLITS:
        gone = {key for key, *_ in wanted} if split == "train" else set()
        before, after = whole.read(split), dataset.read(split)
        kept = [row for row, key in enumerate(before.keys) if key not in gone]
        assert after.keys == [before.keys[row] for row in kept]
        np.testing.assert_array_equal(after.images_NCHW, before.images_NCHW[kept])
    assert pairs(table_in(dataset)) == wanted
    assert dataset.manifest["duplicates"]["num_dropped"] == len(wanted)
    assert f"{len(wanted)} {'exact' if which == 'exact' else 'exact or near'} copies of test or validation images left out" in lines[-1]
    assert not {one.split: one.counts() for one in copies_in(dataset)}["test"]["train_exact"]
    again = prepare(config(folder, drop_duplicates=which), storage, say=lines.append)
    assert again == dataset and "already prepared" in lines[-1]


def test_a_source_without_files_of_its_own_drops_copies_too(storage: Storage) -> None:
    dataset = prepare(DatasetConfig(drop_duplicates="near"), storage, say=lambda _: None)
    whole = prepare(DatasetConfig(), storage, say=lambda _: None)
    assert dataset.num_images("train") >= 0.999 * whole.num_images("train")
    assert dataset.num_images("train") + dataset.manifest["duplicates"]["num_dropped"] == whole.num_images("train")
    assert [dataset.num_images(split) for split in ("validation", "test")] == [whole.num_images(split) for split in ("validation", "test")]


def test_images_that_are_drawn_are_compared_before_they_are(folder: Path, storage: Storage) -> None:
    dataset = prepare(config(folder, drop_duplicates="near", binarize="dynamic", channels=1), storage, say=lambda _: None)
    assert pairs(table_in(dataset)) == EXACT | NEAR


def test_a_killed_run_that_drops_copies_goes_on(folder: Path, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    whole = prepare(config(folder, drop_duplicates="near"), Storage(tmp_path / "other"), say=lambda _: None)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pixelmodels.data.preparation._commit", killed)
        prepare(config(folder, drop_duplicates="near"), storage, say=lambda _: None)
    dataset = prepare(config(folder, drop_duplicates="near"), storage, say=lambda _: None)
    assert dataset.manifest["splits"] == whole.manifest["splits"] and pairs(table_in(dataset)) == EXACT | NEAR
    # The note of the listing is written where no file has changed for some seconds, which is so for neither, the last one or both.
    files, of_whole = ({*one.storage.list(one.folder)} - {"listing.json"} for one in (dataset, whole))
    assert files == of_whole


def test_no_vectors_are_mixed_up(folder: Path, storage: Storage, tmp_path: Path) -> None:
    keys = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    vectors = tmp_path / "vectors.parquet"
    rows = pa.array([[float(i), -float(i)] for i in range(len(keys))], pa.list_(pa.float32()))
    pq.write_table(pa.table({"key": keys, "vector": rows}), vectors)
    train = prepare(config(folder, drop_duplicates="near", vectors=str(vectors)), storage, say=lambda _: None).read("train")
    assert train.vectors_NV is not None
    assert train.vectors_NV[:, 0].tolist() == [keys.index(key) for key in train.keys]


def test_what_may_be_dropped() -> None:
    with pytest.raises(UserError, match="drop_duplicates 'all' unknown; have none, exact, near"):
        DatasetConfig(drop_duplicates="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("places", [[], [0], [39, 0, 0, 13, 7, 6], list(range(40))])
def test_keys_of_some_images(places: list[int], folder: Path, storage: Storage) -> None:
    dataset = prepare(config(folder), storage, say=lambda _: None)
    keys = dataset.read("train").keys
    assert dataset.keys_at("train", np.array(places, np.int64)) == [keys[place] for place in places]


@pytest.mark.parametrize("which", ["none", "exact", "near"])
def test_copies_of_test_images_in_validation_are_told(which: str, folder: Path, storage: Storage) -> None:
    """As where validation images are drawn from train's, of which some are copies of test's."""
    shutil.copy(folder / "test/07.png", folder / "validation/00.png")
    shutil.copy(folder / "test/07.png", folder / "validation/01.png")
    shutil.copy(folder / "train/03.png", folder / "validation/02.png")  # nearly one of test
    lines: list[str] = []
    dataset = prepare(config(folder, drop_duplicates=which), storage, say=lines.append)
    near = 1 if which == "near" else 0
    assert dataset.manifest["duplicates"]["validation_in_test"] == {"exact": 2, "near": near}
    assert f"validation has copies of test images: 2 exact{', 1 near' if near else ''}" in lines[-1]
    assert dataset.num_images("validation") == 10


def test_no_copies_of_test_images_in_validation_are_no_words(folder: Path, storage: Storage) -> None:
    lines: list[str] = []
    prepare(config(folder), storage, say=lines.append)
    assert "validation has" not in lines[-1]
