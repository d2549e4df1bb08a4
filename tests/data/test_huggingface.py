"""Data sets that `datasets` saves to disk, those of older versions made by hand, and what is said of bad ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pixelmodels.errors import UserError
from tests.data.reading import check_pictures, picture, png, read_all
from tests.data.test_parquet import table, write_arrow


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The library, which asks nobody for anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", os.fspath(tmp_path_factory.mktemp("hf")))
        import datasets

        datasets.disable_progress_bars()
        yield datasets


def made(datasets: ModuleType, numbers: range, **features: Any) -> Any:
    columns = {"image": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers], "label": [i % 3 for i in numbers]}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])} | features
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def save_by_hand(folder: Path, rows: int, mapping: list[int] | None = None, key: str = "_indices_files", **info: Any) -> Path:
    """A data set as older versions saved it: Arrow's stream, two JSON files and, where rows were chosen, a mapping of them."""
    write_arrow(folder / "dataset.arrow", table(range(rows)), "stream", 4)
    state: dict[str, Any] = {"_data_files": [{"filename": "dataset.arrow"}], "_fingerprint": "0", "_split": None}
    if mapping is not None:
        write_arrow(folder / "indices.arrow", pa.table({"indices": pa.array(mapping, pa.uint64())}), "stream", 3)
        state[key] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["u", "v", "w"]}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features} | info))
    return folder


def test_splits_labels_and_shards(datasets: ModuleType, tmp_path: Path) -> None:
    whole = datasets.DatasetDict({"train": made(datasets, range(10)), "test": made(datasets, range(10, 14))})
    whole.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "test": 1})
    assert len(list((tmp_path / "saved/train").glob("*.arrow"))) == 3
    found, names = read_all("huggingface", tmp_path / "saved")
    assert names == ("ant", "bee", "cat")
    check_pictures(found, [10, 11, 12, 13, *range(10)])
    assert [one.label for one in found] == [names[i % 3] for i in [10, 11, 12, 13, *range(10)]]
    assert [one.split for one in found] == ["test"] * 4 + ["train"] * 10
    assert [one.key for one in found][3:6] == ["test/0000003", "train/0000000", "train/0000001"]
    without, none = read_all("huggingface", tmp_path / "saved", labels=False, splits="hash")
    assert none == () and {(one.split, one.label) for one in without} == {(None, None)}


def test_a_single_data_set_in_another_order(datasets: ModuleType, tmp_path: Path) -> None:
    shuffled = made(datasets, range(12)).shuffle(seed=1).select([5, 0, 7, 2])
    shuffled.save_to_disk(tmp_path / "saved")
    numbers = [int(Path(row["path"]).stem) for row in shuffled.cast_column("image", datasets.Image(decode=False))["image"]]
    found, _ = read_all("huggingface", tmp_path / "saved")
    check_pictures(found, numbers)
    assert [one.key for one in found] == [f"{i:07d}" for i in range(4)]
    assert {one.split for one in found} == {None}


def test_images_that_were_arrays_or_pictures(datasets: ModuleType, tmp_path: Path) -> None:
    from PIL import Image

    columns = {"picture": [Image.fromarray(picture(i)) for i in range(3)], "fine_label": ["x", "y", None]}
    features = datasets.Features({"picture": datasets.Image(), "fine_label": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    found, names = read_all("huggingface", tmp_path / "saved")
    check_pictures(found, [0, 1, 2])
    assert names == ("x", "y") and [one.label for one in found] == ["x", "y", None]


def test_images_that_are_files_elsewhere(datasets: ModuleType, tmp_path: Path) -> None:
    """`save_to_disk` copies the files; a data set that was written without their content has only paths."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    columns = {"image": [str(tmp_path / f"{i}.png") for i in range(3)]}
    saved = datasets.Dataset.from_dict(columns, features=datasets.Features({"image": datasets.Image()}))
    saved.save_to_disk(tmp_path / "saved")
    check_pictures(read_all("huggingface", tmp_path / "saved")[0], [0, 1, 2])
    write_arrow(tmp_path / "saved/data-00000-of-00001.arrow", saved.data.table, "stream", 10)
    found, _ = read_all("huggingface", tmp_path / "saved")
    assert [one.reason for one in found] == [f"only a path ('{tmp_path}/{i}.png'), and no bytes of an image" for i in range(3)]


@pytest.mark.parametrize("shape", [(4, 4, 3), (3, 4, 4), (4, 4, 1), (4, 4)])
def test_arrays_of_pixels(shape: tuple[int, ...], datasets: ModuleType, tmp_path: Path) -> None:
    channels = 3 if 3 in shape else 1
    arrays = [picture(i, channels=channels) for i in range(5)]
    stored = [array.transpose(2, 0, 1) if shape[0] == 3 else array.reshape(shape) for array in arrays]
    kind = datasets.Array3D(shape, "uint8") if len(shape) == 3 else datasets.Array2D(shape, "uint8")
    features = datasets.Features({"image": kind, "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict({"image": stored, "label": [0, 1, -1, 0, 1]}, features=features).save_to_disk(tmp_path / "saved")
    found, _ = read_all("huggingface", tmp_path / "saved")
    check_pictures(found, list(range(5)), channels=channels)
    assert [one.label for one in found] == ["a", "b", None, "a", "b"]


def test_arrays_of_other_types_are_told(datasets: ModuleType, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Array2D((4, 4), "float32")})
    datasets.Dataset.from_dict({"image": [np.zeros((4, 4))]}, features=features).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"no column that is surely of images; have image \(list<.*float"):
        read_all("huggingface", tmp_path / "saved")


def test_parquet_and_shards_that_the_library_writes_read_right_too(datasets: ModuleType, tmp_path: Path) -> None:
    made(datasets, range(8)).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    found, names = read_all("parquet", tmp_path)
    check_pictures(found, list(range(8)))
    assert names == ("ant", "bee", "cat") and [one.label for one in found] == [names[i % 3] for i in range(8)]


@pytest.mark.parametrize("key", ["_indices_files", "_indices_data_files"])
def test_a_mapping_of_rows(key: str, tmp_path: Path) -> None:
    """Rows 9, 2, 2 and 0 of ten: each is known by its place in the mapping, and row 2 is there twice."""
    save_by_hand(tmp_path, 10, [9, 2, 2, 0], key)
    found, names = read_all("huggingface", tmp_path)
    assert [one.key for one in found] == ["0000003", "0000001", "0000002", "0000000"]
    check_pictures(found, [0, 2, 2, 9])
    assert names == ("u", "v", "w") and [one.label for one in found] == ["u", "w", "w", "u"]


def test_a_mapping_over_many_units(tmp_path: Path) -> None:
    count = 700
    mapping = np.random.default_rng(0).permutation(count)[:333].tolist()
    save_by_hand(tmp_path, count, mapping)
    found, _ = read_all("huggingface", tmp_path)
    by_key = {one.key: one for one in found}
    check_pictures([by_key[f"{place:07d}"] for place in range(333)], mapping)


def test_folders_that_are_no_saved_data_sets_are_told(tmp_path: Path) -> None:
    def told(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            read_all("huggingface", tmp_path)
        assert "\n" not in str(caught.value)

    def state(**fields: Any) -> None:
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "dataset.arrow"}], **fields}))

    (tmp_path / "x.parquet").write_bytes(b"x")
    told(r"has no dataset_dict.json and no state.json; give the folder that save_to_disk wrote .*--source parquet")
    save_by_hand(tmp_path, 3, [0, 1])
    state(_indices_files=[{"filename": "dataset.arrow"}])
    told("columns image, label, and not the one of a mapping, 'indices'")
    write_arrow(tmp_path / "indices.arrow", pa.table({"indices": pa.array([0, 3], pa.uint64())}), "stream", 9)
    state(_indices_files=[{"filename": "indices.arrow"}])
    told("it names rows that are not among the 3 that are stored")
    for files in ([], [{"filename": "../dataset.arrow"}], [{"filename": "/etc/passwd"}], [{"name": "x"}], ["x"], "x", [{"filename": 3}]):
        state(_data_files=files)
        told("its '_data_files' are no names of files")
    state(_data_files=[{"filename": "gone.arrow"}])
    told("'.*gone.arrow' is missing, which state.json names")
    for text in ("", "{", "[]", "[" * 100_000):
        (tmp_path / "state.json").write_text(text)
        told("state.json' is no whole data set saved with save_to_disk .it is no JSON")
    (tmp_path / "state.json").unlink()
    for splits in ("train", [], [3], ["../x"], ["train"]):
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        told("does not name the splits" if splits != ["train"] else "train/state.json' is missing; save the data set again")


def test_splits_of_other_names_are_told(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        save_by_hand(tmp_path / name, 3)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "extra"]}))
    with pytest.raises(UserError, match=r"splits of their own \(test, train\), but the name of 'extra.*' says none"):
        read_all("huggingface", tmp_path)
    found, _ = read_all("huggingface", tmp_path, splits="hash")
    assert len(found) == 9 and {one.split for one in found} == {None}
    shutil.rmtree(tmp_path / "extra")
    save_by_hand(tmp_path / "extra", 3, features={"label": {"_type": "ClassLabel", "names": ["other"] * 3}})
    with pytest.raises(UserError, match=r"or other names of classes\); .* or leave labels out"):
        read_all("huggingface", tmp_path, splits="hash")


def test_a_stream_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = save_by_hand(tmp_path, 9) / "dataset.arrow"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"dataset.arrow' is no whole data set saved with save_to_disk .it.*cut off"):
        read_all("huggingface", tmp_path)


def test_a_split_of_another_name_is_told(tmp_path: Path) -> None:
    save_by_hand(tmp_path / "train", 3)
    save_by_hand(tmp_path / "extra", 2)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "extra"]}')
    with pytest.raises(UserError, match=r"have splits of their own \(train\), but the name of 'extra/data' says none.* --splits hash"):
        read_all("huggingface", tmp_path)
    assert {one.split for one in read_all("huggingface", tmp_path, splits="hash")[0]} == {None}
