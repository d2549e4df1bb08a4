"""A vector for each image: joined by key, checked, part of the fingerprint."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixelmodels.data import SPLITS, Dataset, DatasetConfig, decode_vectors, find_prepared, prepare
from pixelmodels.data.vectors import VectorFile
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

pytestmark = pytest.mark.usefixtures("ray_cluster")
SIZE = 3


def vector_of(key: str) -> list[float]:
    """The vector of `digit-0012` or `ants/12.png`."""
    number = int("".join(filter(str.isdigit, key)))
    return [number + 0.5, -number, number / 7]


def write(path: Path, keys: list[str], vectors: list[Any] | None = None, **options: Any) -> str:
    vectors = [vector_of(key) for key in keys] if vectors is None else vectors
    table = pa.table({"other": list(range(len(keys))), "key": keys, "vector": pa.array(vectors, pa.list_(pa.float64()))})
    pq.write_table(table, path, **options)
    return str(path)


@pytest.fixture
def keys(pictures: Path) -> list[str]:
    return sorted(str(file.relative_to(pictures)) for file in pictures.rglob("*.png"))


def check(dataset: Dataset) -> None:
    assert dataset.vector_size == SIZE
    for split in SPLITS:
        part = dataset.read(split)
        expected = np.array([vector_of(key) for key in part.keys], np.float32)
        assert part.vectors_NV is not None and part.vectors_NV.dtype == np.float32
        np.testing.assert_array_equal(part.vectors_NV, expected)
        for batch in dataset.stream(split).iter_batches(batch_size=7, batch_format="pyarrow"):
            found = decode_vectors(batch["vector"], SIZE)
            np.testing.assert_array_equal(found, np.array([vector_of(key) for key in batch["key"].to_pylist()], np.float32))


def test_every_image_has_its_own_vector(pictures: Path, keys: list[str], storage: Storage, tmp_path: Path) -> None:
    mixed = ["more/99.png", *reversed(keys[10:]), *keys[:10]]
    path = write(tmp_path / "v.parquet", mixed, row_group_size=4)
    config = DatasetConfig(source="folder", path=str(pictures), rows_per_shard=4, vectors=path)
    said: list[str] = []
    dataset = prepare(config, storage, said.append)
    check(dataset)
    assert dataset.manifest["vector_size"] == SIZE and "vectors of 3" in said[0]
    schema = pq.read_schema(storage.uri(f"{dataset.folder}/{dataset.shards('train')[0]['file']}"))
    assert schema.field("vector").type == pa.list_(pa.float32(), SIZE) and schema.metadata[b"vector_size"] == b"3"
    some = dataset.some("train", 5)
    assert len(some) == 5 and some.vectors_NV is not None and len(set(some.keys)) == 5
    np.testing.assert_array_equal(some.vectors_NV, np.array([vector_of(key) for key in some.keys], np.float32))
    plain = prepare(dataclasses.replace(config, vectors=None), storage)
    assert plain.vector_size == 0 and plain.read("test").vectors_NV is None
    assert dataset.split_bytes("test") == plain.split_bytes("test") + 4 * SIZE * plain.num_images("test")
    np.testing.assert_array_equal(plain.read("test").images_NCHW, dataset.read("test").images_NCHW)


def test_images_that_are_put_aside_take_no_others_vector(pictures: Path, keys: list[str], storage: Storage, tmp_path: Path) -> None:
    broken = pictures / keys[3]
    broken.write_bytes(broken.read_bytes()[:-30])
    config = DatasetConfig(source="folder", path=str(pictures), vectors=write(tmp_path / "v.parquet", keys))
    dataset = prepare(config, storage)
    assert dataset.num_skipped == 1
    check(dataset)


def test_the_fingerprint_covers_the_files_content(pictures: Path, keys: list[str], storage: Storage, tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", keys)
    config = DatasetConfig(source="folder", path=str(pictures), vectors=path)
    long_ago = time.time() - 60
    for file in pictures.rglob("*.png"):
        os.utime(file, (long_ago, long_ago))
    first = prepare(config, storage)
    assert find_prepared(config, storage) == first
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(Path(path).read_bytes())
    assert prepare(dataclasses.replace(config, vectors=str(copy)), storage).fingerprint == first.fingerprint
    write(tmp_path / "v.parquet", keys, [[1.0, 2.0, float(i)] for i in range(len(keys))])
    assert find_prepared(config, storage) is None
    changed = prepare(config, storage)
    without = prepare(dataclasses.replace(config, vectors=None), storage)
    assert len({first.fingerprint, changed.fingerprint, without.fingerprint}) == 3


def test_digits_without_vectors_are_known_as_before(digits: Dataset) -> None:
    assert digits.fingerprint == "d9e7b3d82631"
    assert "vector_size" not in digits.manifest and "vectors" not in digits.manifest["options"]


def test_vectors_in_a_bucket(bucket: str, storage: Storage, tmp_path: Path) -> None:
    keys = [f"digit-{i:04d}" for i in range(1797)]
    name = bucket.removeprefix("s3://").split("/")[0]
    boto3.client("s3").upload_file(write(tmp_path / "v.parquet", keys), name, "some/v.parquet")
    check(prepare(DatasetConfig(vectors=f"s3://{name}/some/v.parquet"), storage))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop": 2}, ["2 of 30 images have no vector (the first is 'ants/00.png')"]),
        ({"twice": 1}, ["1 images have more than one vector"]),
        ({5: [1.0, 2.0], 6: None, 7: []}, ["3 vectors are not of length 3"]),
        ({8: [1.0, float("nan"), 2.0], 9: [float("inf")] * 3, 10: [1e300, 0, 0]}, ["3 vectors have values that are not finite"]),
        ({"drop": 1, "twice": 2, 9: [1.0]}, ["1 of 30 images", "2 images have more", "1 vectors are not of length"]),
    ],
)
def test_all_that_is_wrong_is_told_in_one_line_with_counts(
    changes: dict[Any, Any], words: list[str], pictures: Path, keys: list[str], storage: Storage, tmp_path: Path
) -> None:
    keys = [*keys[changes.get("drop", 0) :], *keys[-changes["twice"] :]] if "twice" in changes else keys[changes.get("drop", 0) :]
    vectors = [changes.get(i, vector_of(key)) for i, key in enumerate(keys)]
    config = DatasetConfig(source="folder", path=str(pictures), vectors=write(tmp_path / "v.parquet", keys, vectors))
    with pytest.raises(UserError) as error:
        prepare(config, storage)
    told = str(error.value)
    assert "\n" not in told and all(word in told for word in [*words, "v.parquet", "give one vector for each image's key"])
    assert storage.list("datasets") == []


def test_files_that_hold_no_vectors_are_told(tmp_path: Path, storage: Storage) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no")
    pq.write_table(pa.table({"key": ["a"], "vector": [1.0]}), tmp_path / "flat.parquet")
    pq.write_table(pa.table({"name": ["a"], "vector": [[1.0]]}), tmp_path / "named.parquet")
    damaged = bytearray(Path(write(tmp_path / "damaged.parquet", [f"digit-{i:04d}" for i in range(500)])).read_bytes())
    damaged[4 : len(damaged) // 2] = bytes([7]) * (len(damaged) // 2 - 4)  # its footer is whole
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    for path, word in (
        (tmp_path / "none.parquet", "cannot be read"),
        (tmp_path / "damaged.parquet", "cannot be read"),
        (text, "are no Parquet file"),
        (tmp_path / "flat.parquet", "no column 'vector' of lists of floats"),
        (tmp_path / "named.parquet", "no column 'key' of strings"),
    ):
        with pytest.raises(UserError, match=word) as error:
            prepare(DatasetConfig(vectors=str(path)), storage)
        assert str(path) in str(error.value) and "give a Parquet file with columns key" in str(error.value)


def test_a_file_that_changes_while_it_is_read_is_told(
    pictures: Path, keys: list[str], storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "v.parquet", keys)
    digests = iter("aab")
    monkeypatch.setattr(VectorFile, "digest", lambda self: next(digests))
    with pytest.raises(UserError, match="changed while they were read"):
        prepare(DatasetConfig(source="folder", path=str(pictures), vectors=path), storage)
