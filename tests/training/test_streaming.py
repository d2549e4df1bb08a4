"""Streamed splits: the same images in every epoch, for any number of workers, from any step on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.storage import Storage
from pixelmodels.training.feeds import Rows, SizedFeed
from pixelmodels.training.streaming import WINDOW_SHARDS
from pixelmodels.training.workers import Workers

BATCH = 64


@pytest.fixture(scope="module")
def digits(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    storage = Storage(str(tmp_path_factory.mktemp("streaming")))
    return prepare(DatasetConfig(source="digits", rows_per_shard=150), storage)


@pytest.fixture(scope="module")
def with_vectors(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Digits without labels; the vector of each image is its first two rows."""
    keys = [f"digit-{i:04d}" for i in range(1797)]
    folder = tmp_path_factory.mktemp("vectors")
    pq.write_table(pa.table({"key": keys, "vector": list(load_digits().data[:, :16])}), folder / "v.parquet")
    config = DatasetConfig(source="digits", rows_per_shard=150, labels=False, vectors=str(folder / "v.parquet"))
    return prepare(config, Storage(str(folder)))


def feed(dataset: Dataset, rank: int = 0, count: int = 1, resident_bytes: int = 0) -> SizedFeed:
    workers: Any = SimpleNamespace(rank=rank, count=count, share=lambda start, stop: Workers.share(workers, start, stop))
    return SizedFeed(dataset, workers, seed=1, batch_size=BATCH, resident_bytes=resident_bytes)


def joined(parts: list[Rows]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([rows.images_NCHW for rows in parts]), np.concatenate(
        [rows.labels_N for rows in parts if rows.labels_N is not None]
    )


def sorted_rows(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1)
    return flat[np.lexsort(flat.T)]


def test_an_epoch_has_every_image_once_and_goes_on_from_any_step(digits: Dataset) -> None:
    assert len(digits.shards("train")) > 2 * WINDOW_SHARDS
    whole = list(feed(digits).training_rows(3, 0))
    images, _ = joined([rows for rows, _ in whole])
    np.testing.assert_array_equal(sorted_rows(images), sorted_rows(digits.read("train").images_NCHW))
    assert [count for _, count in whole] == [BATCH] * 22 + [1426 - 22 * BATCH]
    later, _ = joined([rows for rows, _ in feed(digits).training_rows(3, 13)])
    np.testing.assert_array_equal(later, images[13 * BATCH :])
    other, _ = joined([rows for rows, _ in feed(digits).training_rows(4, 0)])
    assert not np.array_equal(other, images)


def test_workers_share_each_step_of_the_same_order(digits: Dataset) -> None:
    alone = list(feed(digits).training_rows(0, 18))
    three = [list(feed(digits, rank, 3).training_rows(0, 18)) for rank in range(3)]
    for step, (rows, count) in enumerate(alone):
        images, labels = joined([one[step][0] for one in three])
        np.testing.assert_array_equal(images, rows.images_NCHW)
        np.testing.assert_array_equal(labels, rows.labels_N)
        assert {one[step][1] for one in three} == {count}


def test_a_split_is_read_in_its_own_order_whether_streamed_or_not(digits: Dataset) -> None:
    for split in ("train", "test"):
        expected = digits.read(split)
        for size in (0, 1 << 30):
            parts = [joined(list(feed(digits, rank, 2, size).rows_in_order(split, 100))) for rank in range(2)]
            np.testing.assert_array_equal(np.concatenate([images for images, _ in parts]), expected.images_NCHW)
            np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), expected.labels_N)


def test_vectors_stay_with_their_images_whether_streamed_or_not(with_vectors: Dataset) -> None:
    assert with_vectors.vector_size == 16 and with_vectors.num_classes == 0
    for size in (0, 1 << 30):
        source = feed(with_vectors, 1, 2, size)
        parts = [rows for rows, _ in source.training_rows(2, 20)] + list(source.rows_in_order("test", 50))
        for rows in parts:
            assert rows.labels_N is None and rows.vectors_NV is not None and rows.vectors_NV.dtype == np.float32
            np.testing.assert_array_equal(rows.vectors_NV, rows.images_NCHW[:, 0, :2].reshape(-1, 16))
        assert len(parts) > 3 and sum(len(rows) for rows in parts) > 150
