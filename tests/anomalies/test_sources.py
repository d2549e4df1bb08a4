"""What `--sets` names, and image files as levels of the model's."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pixelmodels.anomalies import sources
from pixelmodels.anomalies.sources import ImageFiles, PreparedSplit, source_of, told_apart
from pixelmodels.data import dequantize, find_dataset, prepare, quantize
from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.dataset import Dataset, Split
from pixelmodels.errors import UserError
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage

SPEC = ImageSpec(1, 4, 3, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images that fit, one of another size in colour, a file that is no image, one that is empty, a hidden one, and a broken link."""
    place = tmp_path / "pictures"
    (place / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.png", "sub/a.png"):
        Image.fromarray(dequantize(rng.integers(0, 7, (4, 3)).astype(np.uint8), 7)).save(place / name)
    Image.fromarray(np.full((8, 9, 3), 200, np.uint8)).save(place / "large.png")
    (place / "notes.txt").write_text("no image")
    (place / "zero.png").write_bytes(b"")
    (place / ".hidden.png").write_bytes(b"")
    (place / "gone.png").symlink_to("nowhere.png")
    return place


@pytest.fixture
def digits(storage: Storage) -> Storage:
    """A storage root with the data set `digits`."""
    prepare(DatasetConfig(source="digits"), storage, say=lambda _: None)
    return storage


def decoded(source: ImageFiles) -> dict[str, dict[str, object]]:
    rows = source.decoded(pa.table({"key": list(source.files)})).to_pylist()
    return {row["key"]: row for row in rows}


def test_files_become_levels_and_what_is_no_image_says_why(folder: Path, storage: Storage) -> None:
    source = source_of(str(folder), storage, SPEC)
    assert isinstance(source, ImageFiles) and (source.num, source.num_hidden) == (6, 1)
    rows = decoded(source)
    assert rows["gone.png"]["image"] is None and rows["gone.png"]["reason"] == "no regular file: a broken link, say"
    for name in ("b.png", "sub/a.png"):
        own = quantize(np.asarray(Image.open(folder / name)), 7)
        assert rows[name]["image"] == own.tobytes() and not rows[name]["is_fitted"] and rows[name]["reason"] is None
        assert np.array_equal(source.rows_at([name]).images_NCHW, own[None, None])
    assert rows["large.png"]["image"] == bytes([200 * 7 // 256] * 12) and rows["large.png"]["is_fitted"]
    for name in ("notes.txt", "zero.png"):
        assert rows[name]["image"] is None and rows[name]["reason"]


def test_colours_stay_colours(folder: Path, storage: Storage) -> None:
    source = source_of(str(folder / "large.png"), storage, ImageSpec(3, 4, 3, 256))
    assert isinstance(source, ImageFiles) and source.files == ("large.png",)
    assert np.array_equal(source.rows_at(["large.png"]).images_NCHW, np.full((1, 3, 4, 3), 200))


def test_a_file_that_is_gone_since_or_far_too_large_is_told(folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(str(folder), storage, SPEC)
    assert isinstance(source, ImageFiles)
    (folder / "b.png").unlink()
    monkeypatch.setattr(sources, "MOST_PIXELS", 8)
    rows = decoded(source)
    assert rows["b.png"]["image"] is None and rows["b.png"]["reason"] == "no such file or directory"
    assert rows["sub/a.png"]["reason"] == "more than 64 bytes"


@pytest.mark.parametrize(
    ("ref", "split"), [("digits", "test"), ("digits/train", "train"), ("FULL", "test"), ("FULL/validation", "validation")]
)
def test_prepared_data_sets_and_their_splits(ref: str, split: str, digits: Storage) -> None:
    dataset = find_dataset(digits, "digits")
    source = source_of(ref.replace("FULL", f"digits-{dataset.fingerprint}"), digits, dataset.spec)
    assert isinstance(source, PreparedSplit) and (source.name, source.num) == (f"digits/{split}", dataset.num_images(split))
    whole = dataset.read(split)
    keys = [whole.keys[place] for place in (5, 0, 3)]
    rows = source.rows_at(keys)
    assert np.array_equal(rows.images_NCHW, whole.images_NCHW[[5, 0, 3]])
    assert rows.labels_N is not None and whole.labels_N is not None and np.array_equal(rows.labels_N, whole.labels_N[[5, 0, 3]])


def test_a_folder_of_a_data_set_s_name_has_to_be_told_apart(digits: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "digits").mkdir()
    with pytest.raises(UserError, match=r"'digits' is a prepared data set and a path, too; give digits/ for the files"):
        source_of("digits", digits, SPEC)
    (folder / "b.png").rename(folder / "digits" / "b.png")
    assert all(isinstance(source_of(ref, digits, SPEC), ImageFiles) for ref in ("./digits", "digits/"))


@pytest.mark.parametrize(
    ("ref", "spec", "words"),
    [
        ("nothing", SPEC, "'nothing' is no prepared data set, and no file or folder; give NAME, NAME/SPLIT, or a path"),
        ("./nothing", SPEC, "does not exist; give a folder, s3://bucket/prefix or gs://bucket/prefix"),
        ("./empty", SPEC, "has no image files"),
        ("~nobody-of-this-name/x.png", SPEC, "cannot be found"),
        ("caf\udce9.png", SPEC, r"'caf\\udce9.png' is not UTF-8; rename it"),
        ("./b.png", ImageSpec(2, 4, 3, 7), "the model's images have 2 channels, which image files do not; give a data set"),
    ],
)
def test_sets_that_there_are_not(
    ref: str, spec: ImageSpec, words: str, folder: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=words) as error:
        source_of(ref, storage, spec)
    assert "\n" not in str(error.value)


def test_files_are_drawn_as_the_normal_images_were(tmp_path: Path, storage: Storage) -> None:
    """Of a data set that is binarized dynamically, from the same files: each validation image is what the file becomes."""
    rng, place = np.random.default_rng(0), tmp_path / "grey"
    place.mkdir()
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (5, 4)).astype(np.uint8)).save(place / f"{number}.png")
    config = DatasetConfig(source="folder", path=str(place), binarize="dynamic", channels=1, seed=3)
    dataset = prepare(config, storage, say=lambda _: None)
    validation = dataset.read("validation")
    source = source_of(str(place), storage, dataset.spec, draw_seed=3)
    assert np.array_equal(source.rows_at(validation.keys).images_NCHW, validation.images_NCHW)
    cut = source_of(str(place), storage, dataset.spec)
    assert not np.array_equal(cut.rows_at(validation.keys).images_NCHW, validation.images_NCHW)


def test_a_file_that_is_gone_before_it_is_shown_is_told(folder: Path, storage: Storage) -> None:
    source = source_of(str(folder), storage, SPEC)
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png' cannot be read \(no such file or directory\)"):
        source.rows_at(["sub/a.png", "b.png"])


def test_shards_are_let_go_when_their_rows_are_found(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepare(DatasetConfig(source="digits", rows_per_shard=40), storage, say=lambda _: None)
    source, read, seen = PreparedSplit(dataset, "test"), type(dataset).read_shard, list[weakref.ref]()

    def watched(self: Dataset, split: str, number: int) -> Split:
        assert all(one() is None for one in seen[:-1])  # the last one is being looked through
        part = read(self, split, number)
        seen.append(weakref.ref(part.images_NCHW))
        return part

    keys = [source.dataset.read("test").keys[place] for place in (0, 50, 100)]
    monkeypatch.setattr(type(dataset), "read_shard", watched)
    source.rows_at(keys)
    assert len(seen) > 3


def test_two_sets_have_two_names_and_are_not_the_same(digits: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    first = find_dataset(digits, "digits")
    second = prepare(DatasetConfig(source="digits", seed=1), digits, say=lambda _: None)
    full = [f"digits-{one.fingerprint}" for one in (first, second)]
    for refs in ((full[0], f"{full[0]}/test"), (".", f"{folder}/"), ("b.png", "./b.png")):
        with pytest.raises(UserError, match="which are the same images; give two sets, or one"):
            told_apart([source_of(ref, digits, first.spec) for ref in refs])
    assert [one.name for one in told_apart([source_of(ref, digits, first.spec) for ref in full])] == [f"{name}/test" for name in full]
    others = [source_of(ref, digits, first.spec) for ref in (full[0], f"{full[1]}/train", "b.png")]
    assert [one.name for one in told_apart(others)] == ["digits/test", "digits/train", "b.png"]
