"""Streamed splits: the same images in every epoch, for any number of workers, from any step on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

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
