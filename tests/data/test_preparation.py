from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pixelmodels.data import (
    FIXED_EPOCH,
    SPLITS,
    Dataset,
    DatasetConfig,
    binarize_dynamic,
    decode_labels,
    decode_rows,
    draw_indices,
    find_dataset,
    find_prepared,
    preparation,
    prepare,
    writing,
)
from pixelmodels.data.source import Listing
from pixelmodels.data.sources import open_source
from pixelmodels.data.sources.folder import Folder
from pixelmodels.data.writing import ImageForm, ShardWriter, SourceLoader
from pixelmodels.errors import UserError
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import FileEntry, Storage

pytestmark = pytest.mark.usefixtures("ray_cluster")


def folder_config(path: Path, **options: object) -> DatasetConfig:
    return dataclasses.replace(DatasetConfig(source="folder", path=str(path), rows_per_shard=4), **options)  # type: ignore[arg-type]


def content(dataset: Dataset) -> dict[str, str]:
    """The sha256 that the manifest gives for every shard."""
    return {shard["file"]: shard["sha256"] for split in SPLITS for shard in dataset.shards(split)}


def test_digits_are_all_there_once(digits: Dataset) -> None:
    bunch = load_digits()
    assert digits.spec == ImageSpec(1, 8, 8, 17) and digits.num_classes == 10 and not digits.train_images_are_grey
    seen: dict[str, str] = {}
    for split in SPLITS:
        part = digits.read(split)
        assert part.keys == sorted(part.keys) and len(part) == digits.num_images(split)
        assert digits.split_bytes(split) == part.images_NCHW.nbytes
        rows = [int(key.removeprefix("digit-")) for key in part.keys]
        np.testing.assert_array_equal(part.images_NCHW[:, 0], bunch.images[rows])
        np.testing.assert_array_equal(part.labels_N, bunch.target[rows])
        assert not seen.keys() & set(part.keys)
        seen |= dict.fromkeys(part.keys, split)
    assert len(seen) == 1797
    assert abs(digits.num_images("validation") - 180) < 40 and abs(digits.num_images("test") - 180) < 40


def test_the_manifest_names_every_file_with_rows_and_sha256(digits: Dataset) -> None:
    manifest = json.loads(digits.storage.read_bytes(f"{digits.folder}/manifest.json"))
    assert digits.folder == f"datasets/digits-{manifest['fingerprint']}"
    named = {"manifest.json", "rejected.parquet"}
    for split in SPLITS:
        for shard in manifest["splits"][split]["shards"]:
            data = digits.storage.read_bytes(f"{digits.folder}/{shard['file']}")
            file = pq.ParquetFile(digits.storage.uri(f"{digits.folder}/{shard['file']}"))
            assert hashlib.sha256(data).hexdigest() == shard["sha256"] and len(data) == shard["num_bytes"]
            assert file.metadata.num_rows == shard["num_images"] <= 500
            assert {key: file.schema_arrow.metadata[key] for key in (b"height", b"width", b"channels", b"levels")} == {
                b"height": b"8",
                b"width": b"8",
                b"channels": b"1",
                b"levels": b"17",
            }
            named.add(shard["file"])
    assert set(digits.storage.list(digits.folder)) == named
    assert len(manifest["splits"]["train"]["shards"]) == 3


def test_streaming_gives_the_same_rows(digits: Dataset) -> None:
    part = digits.read("train")
    rows = {}
    for batch in digits.stream("train").iter_batches(batch_size=300, batch_format="pyarrow"):
        images_NCHW, labels_N = decode_rows(batch["image"], digits.spec.shape), decode_labels(batch["label"])
        rows |= {key: (image, label) for key, image, label in zip(batch["key"].to_pylist(), images_NCHW, labels_N, strict=True)}
    assert sorted(rows) == part.keys
    np.testing.assert_array_equal(np.stack([rows[key][0] for key in part.keys]), part.images_NCHW)
    assert part.labels_N is not None and [rows[key][1] for key in part.keys] == part.labels_N.tolist()


@pytest.mark.parametrize("name", ["what?", "a?b=c", "my%20data", "a#b;c", "new\nline", "key=value", "q'\"&é"])
def test_a_root_of_any_name_is_streamed(name: str, digits: Dataset, tmp_path: Path) -> None:
    shutil.copytree(digits.storage.root, tmp_path / name)
    there = find_dataset(Storage(tmp_path / name), "digits")
    batches = list(there.stream("test").iter_batches(batch_size=None, batch_format="pyarrow"))
    assert {tuple(batch.column_names) for batch in batches} == {("image", "label", "key")}
    assert sorted(key for batch in batches for key in batch["key"].to_pylist()) == sorted(digits.read("test").keys)


@pytest.mark.parametrize("ref", ["oddd", "od", "odd-0000000000", "ODD-000000000000"])
def test_a_mistyped_data_set_is_told_with_the_nearest(ref: str, storage: Storage) -> None:
    for number, name in enumerate(["odd", "numbered", "odd-ones", *(f"set-{letter}" for letter in "abcdefghij")]):
        storage.write_bytes(f"datasets/{name}-{number:012d}/manifest.json", b"{}")
    with pytest.raises(UserError) as error:
        find_dataset(storage, ref)
    told = str(error.value)
    assert told.startswith(f"data set '{ref}' unknown; have odd-000000000000, ") and told.count(", ") == 4
    assert told.endswith(" and 8 more; did you mean 'odd'?; prepare one with pipelines/prepare_data.py")


def test_a_data_set_that_is_like_none_is_told_without_a_guess(storage: Storage) -> None:
    storage.write_bytes("datasets/odd-000000000000/manifest.json", b"{}")
    with pytest.raises(UserError, match=r"^data set 'mnist' unknown; have odd-000000000000; prepare one with pipelines/prepare_data.py$"):
        find_dataset(storage, "mnist")


def test_a_data_set_is_picklable_and_found_by_name(digits: Dataset) -> None:
    assert pickle.loads(pickle.dumps(digits)) == digits
    assert find_dataset(digits.storage, "digits") == digits
    assert find_dataset(digits.storage, f"digits-{digits.fingerprint}") == digits
    with pytest.raises(UserError, match=rf"data set 'letters' unknown; have digits-{digits.fingerprint}; prepare one"):
        find_dataset(digits.storage, "letters")
    folder = f"datasets/digits-{'0' * 12}"  # of another version of the format
    digits.storage.write_bytes(f"{folder}/manifest.json", json.dumps(digits.manifest | {"format_version": 1}).encode())
    assert find_dataset(digits.storage, "digits") == digits
    digits.storage.delete(folder)
    with pytest.raises(UserError, match="split 'valid' unknown; have test, train, validation"):
        digits.num_images("valid")


def test_the_second_run_does_nothing(digits: Dataset) -> None:
    def changes() -> dict[str, int]:
        root = Path(digits.storage.uri(digits.folder))
        return {file.name: file.stat().st_mtime_ns for file in root.iterdir()}

    before, said = changes(), list[str]()
    assert prepare(DatasetConfig(rows_per_shard=500), digits.storage, said.append) == digits
    assert changes() == before and said[0].endswith("(already prepared)")
    # What is spelled out, the name included, is the same data set as what is left to the source.
    explicit = DatasetConfig(rows_per_shard=500, size=(8, 8), channels=1, levels=17, labels=True, name="digits")
    assert find_prepared(explicit, digits.storage) == digits


def test_every_option_that_shapes_images_changes_the_fingerprint(digits: Dataset) -> None:
    shapes = ({"size": (9, 8)}, {"channels": 3}, {"levels": 16}, {"binarize": "threshold"}, {"binarize": "dynamic"})
    for options in (*shapes, {"labels": False}, {"seed": 1}, {"test_share": 0.2}):
        assert find_prepared(dataclasses.replace(DatasetConfig(rows_per_shard=500), **options), digits.storage) is None  # type: ignore[arg-type]


def test_dynamic_binarization_keeps_train_grey_and_fixes_the_others(digits: Dataset, storage: Storage, tmp_path: Path) -> None:
    config = DatasetConfig(binarize="dynamic", rows_per_shard=700)
    dataset = prepare(config, storage)
    grey = np.round(load_digits().images * 255 / 16)
    assert dataset.spec.levels == 2 and dataset.train_images_are_grey
    train = dataset.read("train")
    np.testing.assert_array_equal(train.images_NCHW[:, 0], grey[[int(key[6:]) for key in train.keys]])
    schema = pq.read_schema(storage.uri(f"{dataset.folder}/{dataset.shards('train')[0]['file']}"))
    assert schema.metadata[b"levels"] == b"256"
    for split in ("validation", "test"):
        part = dataset.read(split)
        expected = grey[[int(key[6:]) for key in part.keys]] / 255
        drawn = part.images_NCHW[:, 0].astype(float)
        assert set(np.unique(drawn)) == {0, 1}
        np.testing.assert_array_equal(drawn[(expected == 0) | (expected == 1)], expected[(expected == 0) | (expected == 1)])
        deviation = np.sqrt((expected * (1 - expected)).sum())
        assert abs((drawn - expected).sum()) < 5 * deviation
        greys_NCHW = np.round(expected * 255).astype(np.uint8)[:, None]
        again = binarize_dynamic(greys_NCHW, seed=0, epoch=FIXED_EPOCH, indices_N=draw_indices(part.keys))
        np.testing.assert_array_equal(again, part.images_NCHW)
    assert content(prepare(dataclasses.replace(config, name="again"), Storage(tmp_path / "other"))) == content(dataset)


def test_threshold_levels_channels_and_size(storage: Storage) -> None:
    dataset = prepare(DatasetConfig(binarize="threshold", channels=3), storage)
    assert dataset.spec == ImageSpec(3, 8, 8, 2)
    part = dataset.read("test")
    images = load_digits().images[[int(key[6:]) for key in part.keys]]
    for channel in range(3):
        np.testing.assert_array_equal(part.images_NCHW[:, channel], images >= 8)
    same = prepare(DatasetConfig(channels=3, name="rgb"), storage).read("test")
    np.testing.assert_array_equal(same.images_NCHW[:, 2], images)
    larger = prepare(DatasetConfig(size=(12, 16), levels=4), storage)
    assert larger.spec == ImageSpec(1, 12, 16, 4)
    assert larger.read("test").images_NCHW.max() == 3
    with pytest.raises(UserError, match=r"'digits' is not unique; have digits-\w+, digits-\w+; give one of these"):
        find_dataset(storage, "digits")
    storage.write_bytes(f"{larger.folder}/manifest.json", b"{")  # one that is damaged cannot be meant
    assert find_dataset(storage, "digits").folder == dataset.folder


def test_photos(storage: Storage) -> None:
    dataset = prepare(DatasetConfig(source="photos", patch_size=32, rows_per_shard=300), storage)
    assert dataset.spec == ImageSpec(3, 32, 32, 256) and dataset.num_classes == 0
    assert [dataset.num_images(split) for split in SPLITS] == [416, 52, 52]
    assert dataset.read("test").labels_N is None
    assert dataset.read("test").keys == sorted(dataset.read("test").keys)


def test_a_folder_of_pictures(pictures: Path, storage: Storage) -> None:
    dataset = prepare(folder_config(pictures, labels=True), storage)
    assert dataset.name == "pictures" and dataset.spec == ImageSpec(3, 6, 5, 256)
    assert dataset.label_names == ("ants", "bees", "cats")
    seen = []
    for split in SPLITS:
        part = dataset.read(split)
        assert part.labels_N is not None
        for image_CHW, label, key in zip(part.images_NCHW, part.labels_N, part.keys, strict=True):
            i = int(key[5:7])
            assert key == f"{dataset.label_names[label]}/{i:02d}.png"
            np.testing.assert_array_equal(image_CHW, np.broadcast_to(np.array([i, 2 * i, 3 * i])[:, None, None], (3, 6, 5)))
            seen.append(i)
    assert sorted(seen) == list(range(30))
    assert [dataset.num_unlabelled(split) for split in SPLITS] == [0, 0, 0]
    assert prepare(folder_config(pictures), storage).folder == dataset.folder  # it has classes, so they are labels
    assert prepare(folder_config(pictures, labels=False), storage).num_classes == 0


def test_images_without_a_label_are_counted(pictures: Path, storage: Storage) -> None:
    for file in sorted(pictures.rglob("*.png"))[:4]:
        file.rename(pictures / file.name)
    dataset = prepare(folder_config(pictures, labels=True), storage)
    for split in SPLITS:
        labels_N = dataset.read(split).labels_N
        assert labels_N is not None and dataset.num_unlabelled(split) == (labels_N == -1).sum()
    assert sum(dataset.num_unlabelled(split) for split in SPLITS) == 4
    older = json.loads(json.dumps(dataset.manifest))
    del older["splits"]["train"]["num_unlabelled"]
    assert dataclasses.replace(dataset, manifest=older).num_unlabelled("train") == 0


def test_a_folder_is_listed_once_before_and_once_after(pictures: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    listings = []
    entries = Folder._entries
    monkeypatch.setattr(Folder, "_entries", lambda source: listings.append(1) or entries(source))
    connected: list[int] = []
    prepare(folder_config(pictures), storage, connect=lambda: connected.append(1))
    assert len(listings) == 2 and connected == [1]


def test_shards_of_large_images_have_fewer_rows() -> None:
    for image_bytes, num_rows in ((64, 500), (1 << 20, 64), (1 << 30, 1)):
        assert preparation._rows_per_shard(DatasetConfig(rows_per_shard=500), image_bytes) == num_rows


def test_shards_are_cut_of_images_that_can_be_opened() -> None:
    """So that a shard stays what it is where an image turns out to be damaged."""
    splits_N, is_used_N = np.array([0, 1, 0, 0, 2, 0, 0], np.int8), np.array([1, 1, 0, 1, 1, 0, 0], bool)
    shards = [(split, file, places_M.tolist()) for split, file, places_M in preparation._cut(splits_N, is_used_N, 2)]
    expected = [("train", 0, [0]), ("train", 1, [3]), ("validation", 0, [1]), ("test", 0, [4])]  # of train, the third shard has none
    assert shards == [(split, f"{split}-{number:05d}.parquet", places) for split, number, places in expected]


def test_fixed_draws_take_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    config = DatasetConfig(binarize="dynamic")
    survey = open_source(config).survey()
    form = ImageForm(1, (8, 8), 2, "dynamic")
    writer = ShardWriter(SourceLoader(open_source(config), 17, form), storage, "here", form, seed=3)
    task = {"split": "test", "file": "x.parquet", "may_be_whole": False, "keys": survey.keys[:150], "labels": survey.labels[:150]}
    with monkeypatch.context() as patch:
        patch.setattr(writing, "IMAGES_PER_DRAW", 1000)
        expected = writer(task)
    sizes: list[int] = []

    def draw(images_NHWC: np.ndarray, **options: Any) -> np.ndarray:
        sizes.append(len(images_NHWC))
        return binarize_dynamic(images_NHWC, **options)

    monkeypatch.setattr(writing, "binarize_dynamic", draw)
    assert writer(task) == expected and sizes == [64, 64, 22]


def test_a_folder_is_known_by_its_content(pictures: Path, storage: Storage, tmp_path: Path) -> None:
    Image.new("RGB", (5, 6), "red").save(pictures / "ants" / "one.bmp")
    first = prepare(folder_config(pictures), storage)
    copy = tmp_path / "elsewhere"
    shutil.copytree(pictures, copy)  # other place, other times
    assert prepare(folder_config(copy, name="pictures"), storage) == first
    hidden = copy / "ants" / ".DS_Store"
    hidden.write_bytes(b"x")
    assert prepare(folder_config(copy, name="pictures"), storage) == first
    size = (copy / "ants" / "one.bmp").stat().st_size
    Image.new("RGB", (5, 6), "blue").save(copy / "ants" / "one.bmp")  # the same names and sizes, other content
    assert (copy / "ants" / "one.bmp").stat().st_size == size
    changed = prepare(folder_config(copy, name="pictures"), storage)
    assert changed.fingerprint != first.fingerprint and "hidden" in changed.summary()


def test_an_unchanged_folder_is_not_read_again(pictures: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder_config(pictures)
    assert find_prepared(config, storage) is None
    prepare(config, storage)
    assert find_prepared(config, storage) is None  # written a moment ago: a change might have escaped
    long_ago = time.time() - 60
    for file in pictures.rglob("*.png"):
        os.utime(file, (long_ago, long_ago))
    dataset = prepare(config, storage)
    for module in ("pieces", "preparation"):
        monkeypatch.setattr(f"pixelmodels.data.{module}.map_records", None)
    assert find_prepared(config, storage) == dataset == prepare(config, storage)
    assert find_prepared(dataclasses.replace(config, seed=1), storage) is None
    os.utime(next(pictures.rglob("*.png")))
    assert find_prepared(config, storage) is None


def test_labels_come_by_themselves_and_a_set_without_them_stays(pictures: Path, storage: Storage) -> None:
    long_ago = time.time() - 60
    for file in pictures.rglob("*.png"):
        os.utime(file, (long_ago, long_ago))
    config, unlabelled = folder_config(pictures), folder_config(pictures, labels=False)
    old = prepare(unlabelled, storage)
    # As earlier versions noted what they had made when labels were not asked for.
    entries, num_hidden = Folder(config)._entries()
    digest = Listing.of(str(pictures), entries, ("path", "size", "modified_ns", "is_regular"), num_hidden).digest
    options = {name: value for name, value in dataclasses.asdict(config).items() if name != "vectors"}
    storage.write_bytes(f"{old.folder}/listing.json", json.dumps({"listing": digest, "config": options}).encode())
    assert find_dataset(storage, "pictures") == old
    assert find_prepared(config, storage) is None
    new = prepare(config, storage)
    assert new.fingerprint != old.fingerprint and new.label_names == ("ants", "bees", "cats")
    assert prepare(folder_config(pictures, labels=True), storage) == new
    assert prepare(unlabelled, storage) == old and find_dataset(storage, f"pictures-{old.fingerprint}") == old


def test_a_folder_as_it_comes_out_of_an_archive(tmp_path: Path, storage: Storage) -> None:
    """A folder around all, what macOS and Windows leave in folders, an empty one, names of any letters, classes that are spelled alike."""
    folder, names = tmp_path / "unpacked", ("Cat", "cat", "hot dog", "\u9ce5", "cafe\u0301")
    for label, name in enumerate(names):
        for place in range(8):
            path = folder / "archive" / name / "deeper" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 3), 10 * label + place).save(path)
    (folder / "archive" / "empty").mkdir()
    (folder / "__MACOSX" / "archive" / "cat").mkdir(parents=True)
    for path in ("__MACOSX/archive/cat/._0.png", "archive/.DS_Store", ".DS_Store", "archive/cat/Thumbs.db"):
        (folder / path).write_bytes(b"\0\5\26\7 no image")
    said: list[str] = []
    dataset = prepare(folder_config(folder), storage, say=said.append)
    assert dataset.label_names == ("Cat", "cafe\u0301", "cat", "hot dog", "\u9ce5")
    for split in SPLITS:
        part = dataset.read(split)
        assert part.labels_N is not None
        for image_CHW, label, key in zip(part.images_NCHW, part.labels_N, part.keys, strict=True):
            name = dataset.label_names[label]
            assert key.startswith(f"archive/{name}/deeper/") and image_CHW.max() // 10 == names.index(name)
    assert said[0] == "classes are looked for inside archive/: 'Cat', 'cafe\u0301', 'cat', 'hot dog', '\u9ce5'"
    assert said[1].endswith("are several: 'Cat', 'cat'") and len(said) == 3
    assert "5 classes ('Cat', " in said[2] and "archive/cat/Thumbs.db" in said[2] and "3 hidden files left out" in said[2]
    again: list[str] = []
    assert prepare(folder_config(folder), storage, say=again.append) == dataset and "already prepared" in again[-1]
    assert prepare(folder_config(folder, labels=False), storage).num_classes == 0


def test_classes_that_are_numbers_are_labels_in_their_order(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "numbers"
    for name in map(str, range(12)):
        for place in range(3):
            path = folder / "Train" / name / f"{place}.png" if place else folder / "Test" / name / "x.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 3), int(name)).save(path)
    dataset = prepare(folder_config(folder), storage)
    assert dataset.label_names == tuple(map(str, range(12)))
    assert dataset.manifest["source_digest"]["of"] == "path, size and content of every file, and what earlier versions read otherwise"
    assert dataset.num_images("test") == 12
    for split in SPLITS:
        part = dataset.read(split)
        assert part.labels_N is not None and (part.images_NCHW[:, 0, 0, 0] == part.labels_N).all()
        assert all(key.split("/")[0] == ("Test" if split == "test" else "Train") for key in part.keys)


def test_files_that_earlier_versions_read_otherwise_make_another_data_set(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "depths"
    folder.mkdir()
    for number in range(20):
        Image.new("L", (4, 3), 40 + number).save(folder / f"{number:02d}.png", transparency=40)
    dataset = prepare(folder_config(folder), storage)
    assert dataset.manifest["source_digest"]["of"] == "path, size and content of every file"
    Image.new("I;16", (4, 3), 40).save(folder / "00.png", transparency=40)
    dataset = prepare(folder_config(folder), storage)
    assert dataset.manifest["source_digest"]["of"] == "path, size and content of every file, and what earlier versions read otherwise"


@pytest.mark.parametrize("size", [(1, 9), (1, 1), (7, 5), (9, 1)])
def test_odd_sizes_and_blank_images_come_back(size: tuple[int, int], tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "blank"
    folder.mkdir()
    for number in range(20):
        pixels = np.zeros(size, np.uint8)
        pixels[-1, -1] = 255 if number == 13 else 0  # one lit pixel in all
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    dataset = prepare(folder_config(folder), storage)
    assert dataset.spec == ImageSpec(1, *size, 256)
    lit = {key: part.images_NCHW[i].sum() for part in map(dataset.read, SPLITS) for i, key in enumerate(part.keys)}
    assert lit == {f"{number:02d}.png": 255 if number == 13 else 0 for number in range(20)}


def test_own_splits_of_a_folder(pictures: Path, storage: Storage) -> None:
    for old, new in (("ants", "train"), ("bees", "val"), ("cats", "test")):
        (pictures / old).rename(pictures / new)
    dataset = prepare(folder_config(pictures), storage)
    assert [dataset.num_images(split) for split in SPLITS] == [10, 10, 10]
    assert all(key.startswith("val/") for key in dataset.read("validation").keys)
    by_hash = prepare(folder_config(pictures, splits="hash"), storage)
    assert by_hash.num_images("train") > 15


def test_mixed_sizes_and_kinds_become_one(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    kinds = [("L", (8, 8)), ("RGB", (31, 17)), ("RGBA", (9, 40)), ("P", (8, 8)), ("1", (64, 64)), ("LA", (5, 7))]
    for i, (mode, size) in enumerate(kinds * 3):
        Image.new(mode, size).save(folder / f"{i:02d}.png")
    dataset = prepare(folder_config(folder), storage)
    assert dataset.spec == ImageSpec(1, 8, 8, 256)  # as the first image
    assert sum(dataset.num_images(split) for split in SPLITS) == 18
    assert prepare(folder_config(folder, size=(4, 6), channels=3, levels=5), storage).spec == ImageSpec(3, 4, 6, 5)


def test_damage_is_told_and_mended(storage: Storage) -> None:
    config = DatasetConfig(rows_per_shard=1000)
    dataset = prepare(config, storage)
    path = Path(storage.uri(f"{dataset.folder}/{dataset.shards('train')[1]['file']}"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"is damaged \(its sha256 is not the manifest's\); delete .* and prepare the data again"):
        dataset.read("train")
    path.write_bytes(whole[:100])
    for use in (dataset.read, dataset.stream):
        with pytest.raises(UserError, match="is damaged"):
            use("train")
    mended = prepare(config, storage)
    assert content(mended) == content(dataset) and path.read_bytes() == whole


def test_without_ray_processes_make_the_same(pictures: Path, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no Ray is started behind anybody's back."""
    (pictures / "notes.txt").write_text("no image")
    expected = prepare(folder_config(pictures), storage)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", None)
    found = prepare(folder_config(pictures), Storage(tmp_path / "other"))
    assert found.fingerprint == expected.fingerprint and content(found) == content(expected) and found.skipped() == expected.skipped()
    gone = folder_config(pictures, channels=1, size=(2, 2))
    monkeypatch.setattr(Folder, "listing", _with_a_file_that_is_gone(Folder.listing))
    with pytest.raises(UserError, match=r"gone\.png' was listed, but a worker cannot see it"):
        prepare(gone, Storage(tmp_path / "other"))


def _with_a_file_that_is_gone(listing: Callable[[Folder], Listing]) -> Callable[[Folder], Listing]:
    def longer(source: Folder) -> Listing:
        found = listing(source)
        return dataclasses.replace(found, entries=[*found.entries, FileEntry("gone.png", 9, 0)])

    return longer
