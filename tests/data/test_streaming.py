"""Streamed splits: the same images in every epoch, for any number of workers, from any step on."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.data.feeds import SizedFeed, first_rows
from pixelmodels.data.rows import Rows, Share
from pixelmodels.data.streaming import WINDOW_SHARDS, StreamedFeed, Tasks, Windows, WindowTasks, _Cutter, _read_shard
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.promotion.case import write_dataset

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


@pytest.fixture(scope="module")
def drawn_anew(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Digits whose train images are stored as grey, and drawn for each epoch."""
    config = DatasetConfig(source="digits", rows_per_shard=150, binarize="dynamic")
    return prepare(config, Storage(str(tmp_path_factory.mktemp("dynamic"))))


class CountingStorage(Storage):
    """A local root that writes down, in a folder that all processes see, each file that is read whole."""

    def __init__(self, root: str, notes: str) -> None:
        super().__init__(root)
        self.notes = Path(notes)

    def read_bytes(self, path: str) -> bytes:
        with open(self.notes, "a") as file:
            file.write(f"{path}\n")
        return super().read_bytes(path)

    def times_read(self) -> Counter[str]:
        """How often each file was read since this was asked before."""
        found = Counter(self.notes.read_text().split()) if self.notes.exists() else Counter[str]()
        self.notes.unlink(missing_ok=True)
        return found


def counted(dataset: Dataset, notes: Path) -> tuple[Dataset, CountingStorage]:
    storage = CountingStorage(dataset.storage.root, str(notes))
    return Dataset(storage, dataset.folder, dataset.manifest), storage


def feed(
    dataset: Dataset, rank: int = 0, count: int = 1, resident_bytes: int = 0, batch_size: int = BATCH, tasks: Tasks | None = None
) -> SizedFeed:
    shared = None if tasks is None else lambda _: tasks
    return SizedFeed(dataset, Share(rank, count), seed=1, batch_size=batch_size, resident_bytes=resident_bytes, shared=shared)


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


@pytest.mark.parametrize(
    ("batch_size", "count", "first_step"),
    [
        (2, 3, 710),  # the first worker never has an image
        (64, 20, 22),  # a run that goes on before the last step of an epoch, of 18 images
        (25, 3, 57),  # the last step, of one image, is the last worker's
        (1425, 2, 1),  # and so is the only step that is left
        (1, 4, 1424),
    ],
)
def test_a_worker_without_an_image_of_a_step_is_given_none(
    digits: Dataset, with_vectors: Dataset, drawn_anew: Dataset, batch_size: int, count: int, first_step: int
) -> None:
    for dataset in (digits, with_vectors, drawn_anew):
        alone = list(feed(dataset, batch_size=batch_size).training_rows(0, first_step))
        tasks = WindowTasks(Windows(dataset, 1, batch_size, count))
        shares = [list(feed(dataset, rank, count, 0, batch_size, tasks).training_rows(0, first_step)) for rank in range(count)]
        assert 0 in {len(rows) for one in shares for rows, _ in one}
        assert alone and {len(one) for one in shares} == {len(alone)}
        for step, (rows, size) in enumerate(alone):
            parts = [one[step][0] for one in shares]
            np.testing.assert_array_equal(np.concatenate([part.images_NCHW for part in parts]), rows.images_NCHW)
            for name in ("labels_N", "vectors_NV"):
                columns = [getattr(part, name) for part in parts]
                assert all((column is None) == (getattr(rows, name) is None) for column in columns)
                if getattr(rows, name) is not None:
                    np.testing.assert_array_equal(np.concatenate(columns), getattr(rows, name))
            assert {one[step][1] for one in shares} == {size} == {len(rows)}


def test_a_split_of_fewer_images_than_workers_is_read_once(digits: Dataset) -> None:
    count = digits.num_images("test") + 5
    some = [list(feed(digits, rank, count).rows_in_order("test", 100)) for rank in (0, count // 2, count - 1)]
    assert [[len(rows) for rows in parts] for parts in some] == [[], [1], [1]]
    np.testing.assert_array_equal(some[-1][0].images_NCHW, digits.read("test").images_NCHW[-1:])


@pytest.mark.parametrize("resident_bytes", [0, 1 << 30])
def test_the_images_of_a_step_are_known_by_their_places_in_the_split(digits: Dataset, resident_bytes: int) -> None:
    source, train = feed(digits, resident_bytes=resident_bytes), digits.read("train")
    for step, (rows, _) in enumerate(source.training_rows(2, 0)):
        np.testing.assert_array_equal(train.images_NCHW[source.indices(2, step)], rows.images_NCHW)
    assert step == 22 and len(source.indices(2, 22)) == 18


def spoiled(shard: str, path: str, storage: Storage) -> None:
    data = storage.read_bytes(path)
    if shard == "gone":
        storage.delete(path)
        return
    middle = len(data) // 2
    changed = {"cut short": data[:-9], "another": b"no shard", "one bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]}
    storage.write_bytes(path, changed[shard])


@pytest.mark.parametrize("damage", ["gone", "cut short", "another", "one bit"])
def test_a_damaged_shard_is_told_with_its_name_and_the_remedy(damage: str, storage: Storage) -> None:
    dataset = write_dataset(storage, "0123456789ab")
    path = f"{dataset.folder}/train-00000.parquet"
    assert len(_read_shard(dataset, "train", 0)) == dataset.num_images("train")
    spoiled(damage, path, storage)
    with pytest.raises(UserError, match=rf"shard '{storage.uri(path)}' is damaged \(.*delete .* and prepare the data again"):
        _read_shard(dataset, "train", 0)


@pytest.mark.parametrize("damage", ["gone", "one bit"])
def test_a_damaged_shard_is_told_by_the_task_that_reads_it(damage: str, ray_cluster: None, storage: Storage) -> None:
    dataset = write_dataset(storage, "0123456789ab")
    spoiled(damage, f"{dataset.folder}/train-00000.parquet", storage)
    for read in (lambda: feed(dataset).training_rows(0, 0), lambda: feed(dataset).rows_in_order("train", 9)):
        with pytest.raises(UserError, match=r"^shard '.*train-00000.parquet' is damaged") as told:
            list(read())
        assert "\n" not in str(told.value)


def test_pieces_are_cut_out_of_rows_of_any_length() -> None:
    def rows(start: int, stop: int) -> Rows:
        images_NCHW = np.arange(start, stop, dtype=np.uint8)[:, None, None, None]
        images_NCHW.flags.writeable = False  # as those of the object store are
        return Rows(images_NCHW, np.arange(start, stop, dtype=np.int32))

    empty = rows(0, 0)
    cutter = _Cutter(iter([rows(start, stop) for start, stop in ((0, 0), (0, 3), (3, 3), (3, 4), (4, 9), (9, 9))]), empty)
    pieces = [cutter.take(count) for count in (0, 2, 0, 3, 0, 4, 0)]
    assert [piece.images_NCHW.ravel().tolist() for piece in pieces] == [[], [0, 1], [], [2, 3, 4], [], [5, 6, 7, 8], []]
    assert [piece.labels_N.tolist() for piece in pieces if piece.labels_N is not None][3] == [2, 3, 4]
    assert all(piece.images_NCHW.flags.writeable and piece.vectors_NV is None for piece in pieces if len(piece))
    with pytest.raises(RuntimeError, match="ended 1 images early"):
        cutter.take(1)
    assert _Cutter(iter(()), empty).take(0) is empty


class Shards:
    """What the order of an epoch goes by."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def shards(self, split: str) -> list[dict[str, int]]:
        return [{"num_images": size} for size in self.sizes]

    def num_images(self, split: str) -> int:
        return sum(self.sizes)

    def split_bytes(self, split: str) -> int:
        return 3072 * sum(self.sizes)


@pytest.mark.parametrize(
    ("sizes", "seed", "sha256"),
    [
        ((150,) * 9 + (76,), 1, "c035a765105fbbf35acc3f2491c5635d29cf51e2f138334bee7d94fee7300859"),
        ((7, 1, 300, 2, 2, 64), 2**64 - 1, "2ac2e4581080e107827ad6efeb8c8003aed92d32d483c985d9199f6e9aff2c21"),
        ((5,), 0, "c1260ea431d0c73b0f6ebd0d501a888d8738a94d2744d39e4c41aca9afddd859"),
    ],
)
def test_the_order_of_an_epoch_is_what_it_was(sizes: tuple[int, ...], seed: int, sha256: str) -> None:
    """Runs that an earlier version (aae2f54) began go on in the middle of an epoch."""
    source: Any = StreamedFeed(Shards(*sizes), Share(), seed=seed, batch_size=64)  # type: ignore[arg-type]
    digest = hashlib.sha256()
    for epoch in range(3):
        for step in range(-(-sum(sizes) // 64)):
            digest.update(source.indices(epoch, step).astype("<i8").tobytes())
    assert digest.hexdigest() == sha256


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_together_read_each_shard_of_an_epoch_once(digits: Dataset, count: int, tmp_path: Path) -> None:
    dataset, storage = counted(digits, tmp_path / "read")
    tasks = WindowTasks(Windows(dataset, 1, BATCH, count))
    expected = Counter(f"{dataset.folder}/{shard['file']}" for shard in dataset.shards("train"))
    feeds = [feed(dataset, rank, count, tasks=tasks) for rank in range(count)]
    for epoch in (0, 1):
        for alone in zip(*[one.training_rows(epoch, 0) for one in feeds], strict=True):  # all of them step by step
            assert {size for _, size in alone} == {sum(len(rows) for rows, _ in alone)}
        assert storage.times_read() == expected
        for one in feeds[: count * (1 - epoch)]:  # of the next epoch
            one.begin(1)
    parts = [rows for one in feeds for rows in one.rows_in_order("train", 100)]  # in the split's own order
    np.testing.assert_array_equal(joined(parts)[0], digits.read("train").images_NCHW)
    assert storage.times_read() == expected
    order = Windows(dataset, 1, BATCH, count)._order(2)[0]
    for one in feeds:  # or one after the other, and from the third window on, as after a restart
        list(one.training_rows(2, -(-1200 // BATCH)))
    assert storage.times_read() == Counter(f"{dataset.folder}/{dataset.shards('train')[shard]['file']}" for shard in order[8:])


def test_a_worker_that_begins_an_epoch_again_has_the_same_rows(digits: Dataset) -> None:
    """Whatever was left of it, and whichever other epoch was looked at meanwhile."""
    tasks = WindowTasks(Windows(digits, 1, BATCH, 2))
    source = feed(digits, 1, 2, tasks=tasks)
    expected, _ = joined([rows for rows, _ in source.training_rows(0, 0)])
    begun = source.training_rows(0, 0)
    first = [next(begun)[0], next(begun)[0]]
    next(source.training_rows(1, 3))
    rest, _ = joined([*first, *(rows for rows, _ in begun)])
    np.testing.assert_array_equal(rest, expected)


def test_no_more_is_read_ahead_than_the_object_store_is_to_hold() -> None:
    def ahead(num_images: int, count: int) -> int:
        return Windows(Shards(*[num_images] * 100), 0, 1, count).ahead()  # type: ignore[arg-type]

    assert [ahead(2048, count) for count in (1, 23, 24, 64, 1000)] == [2, 2, 3, 8, 10]  # windows of 25 MB
    assert [ahead(10_000, count) for count in (1, 1000)] == [2, 2] and ahead(30_000, 1) == 1  # of 123 and 369 MB


def test_what_begins_a_run_is_read_and_no_more(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.feeds.RESIDENT_BYTES", 0)
    dataset, storage = counted(digits, tmp_path / "read")
    rows = first_rows(dataset, seed=1, batch_size=BATCH)
    assert storage.times_read().total() == WINDOW_SHARDS
    np.testing.assert_array_equal(rows.images_NCHW, digits.read("train").images_NCHW[feed(digits).indices(0, 0)])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_a_split_in_order_is_cut_into_the_shares_of_its_workers(count: int) -> None:
    """Whoever has rows of a shard is told of it, and nobody else; also where there are more workers than rows."""
    windows = Windows(Shards(3, 1, 5, 2), 0, 1, count)  # type: ignore[arg-type]
    of_shards = windows.ranks("test")
    starts = np.cumsum([0, 3, 1, 5, 2])
    for rank in range(count):
        first, last = Share(rank, count).share(0, 11)
        held = {int(np.searchsorted(starts, place, "right")) - 1 for place in range(first, last)}
        assert {shard for shard, ranks in enumerate(of_shards) if rank in ranks} == held
