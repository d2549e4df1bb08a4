"""Large packed files, whose images are put aside unpacked while the files are looked at."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pixelmodels.data import SPLITS, DatasetConfig, prepare
from pixelmodels.data.packed import PackedSource
from pixelmodels.data.sources import open_source
from pixelmodels.data.unpacked import MOST_UNPACKED_AGAIN, Unpacked
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.data.test_packed_sources import write_cifar10, write_imagenet
from tests.data.writers import Bytes, idx, noise, write_emnist, write_svhn

PIECE_BYTES = 2000
PIECE_BYTES_OF_ALL = 16 << 20  # where no test makes it smaller


def write_mnist(folder: Path) -> None:
    for stem, seed in (("train", 1), ("t10k", 2)):
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(40, 12, 10, seed=seed))))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(40, dtype=np.uint8) % 10))


def write_arrays(folder: Path) -> None:
    np.savez_compressed(folder / "birds.npz", x_train=noise(40, 12, 10, 3), x_test=noise(20, 12, 10, 3, seed=2).astype(np.float32) / 255)


def write_plain_arrays(folder: Path) -> None:
    np.save(folder / "x_train.npy", noise(40, 12, 10, 3))


PACKED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "gzip": ("mnist", write_mnist),
    "gzip, transposed": ("emnist", lambda folder: write_emnist(folder, "digits", [0, 1, 2, 3])),
    "zip, floats too": ("arrays", write_arrays),
    "MATLAB": ("svhn", write_svhn),
    "zip of many": ("imagenet_downsampled", write_imagenet),
}
PLAIN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "records": ("cifar10", write_cifar10),
    "npy": ("arrays", write_plain_arrays),
    "MATLAB": ("svhn", lambda folder: write_svhn(folder, compress=False)),
}


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.packed.map_records", lambda function, records: [function(one) for one in records])
    monkeypatch.setattr("pixelmodels.data.block.PIECE_BYTES", PIECE_BYTES)


def opened(source: str, folder: Path, storage: Storage | None = None, most_again: int = 0) -> PackedSource:
    found = open_source(DatasetConfig(source=source, path=str(folder)))
    assert isinstance(found, PackedSource)
    if storage is not None:
        found.unpacked = replace(Unpacked.of(storage), most_again=most_again)
    return pickle.loads(pickle.dumps(found))  # type: ignore[no-any-return]


def all_images(source: PackedSource, keys: list[str]) -> list[Bytes]:
    return list(source.load(keys, 3, (1, 1)))


@pytest.mark.parametrize("kind", PACKED)
def test_images_put_aside_are_those_of_the_files(kind: str, tmp_path: Path, storage: Storage) -> None:
    name, writer = PACKED[kind]
    writer(tmp_path)
    plain, aside = opened(name, tmp_path), opened(name, tmp_path, storage)
    survey = plain.survey()
    assert aside.survey() == survey
    assert list(storage.files("preparing"))
    for keys in (survey.keys, survey.keys[1::3]):
        for one, other in zip(all_images(plain, keys), all_images(aside, keys), strict=True):
            np.testing.assert_array_equal(one, other)


def test_they_are_read_from_where_they_were_put(tmp_path: Path, storage: Storage) -> None:
    """And not out of the packed file again: a byte that is changed there is seen."""
    write_mnist(tmp_path)
    source = opened("mnist", tmp_path, storage)
    survey = source.survey()
    before = all_images(source, survey.keys)
    per_piece = PIECE_BYTES // 120
    pieces = {f"preparing/{file.path}": storage.read_bytes(f"preparing/{file.path}") for file in storage.files("preparing")}
    (path,) = [path for path, data in pieces.items() if data.startswith(before[40 + per_piece].tobytes())]
    storage.write_bytes(path, pieces[path][:-1] + bytes([pieces[path][-1] ^ 255]))
    after = all_images(source, survey.keys)
    assert [n for n in range(len(before)) if not np.array_equal(before[n], after[n])] == [40 + 2 * per_piece - 1]


@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_not_packed_is_not_put_aside(kind: str, tmp_path: Path, storage: Storage) -> None:
    name, writer = PLAIN[kind]
    writer(tmp_path)
    source = opened(name, tmp_path, storage)
    assert len(all_images(source, source.survey().keys)) and not list(storage.files("preparing"))


def test_little_is_rather_unpacked_again(tmp_path: Path, storage: Storage) -> None:
    write_mnist(tmp_path)
    exactly = opened("mnist", tmp_path, storage, most_again=40 * 120)
    exactly.survey()
    assert not list(storage.files("preparing"))
    opened("mnist", tmp_path, storage, most_again=40 * 120 - 1).survey()
    assert list(storage.files("preparing"))


def test_a_piece_that_is_gone_is_told(tmp_path: Path, storage: Storage) -> None:
    write_mnist(tmp_path)
    source = opened("mnist", tmp_path, storage)
    keys = source.survey().keys
    storage.delete("preparing")
    with pytest.raises(UserError, match="is gone, or this host does not see it; give a --storage that every host sees"):
        all_images(source, keys)


def test_a_preparation_leaves_none_behind(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, in processes, of a file that is large enough."""
    monkeypatch.undo()
    side = 256
    count = MOST_UNPACKED_AGAIN // side**2 + 40
    images_NHW = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, side, side)).copy()
    images_NHW[:, 0, 0], images_NHW[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    folder = tmp_path / "images"
    folder.mkdir()
    np.savez_compressed(folder / "x.npz", images_NHW)
    removed: list[tuple[str, int]] = []
    delete = Storage.delete

    def noting(self: Storage, path: str) -> None:
        removed.append((path.partition("/")[0], len(list(self.files(path)))))
        delete(self, path)

    monkeypatch.setattr(Storage, "delete", noting)
    dataset = prepare(DatasetConfig(source="arrays", path=str(folder), rows_per_shard=300, name="numbers"), storage)
    assert ("preparing", -(-count // (PIECE_BYTES_OF_ALL // side**2))) in removed and not list(storage.files("preparing"))
    seen = []
    for split in SPLITS:
        part = dataset.read(split)
        numbers = [int(key.rpartition("/")[2]) for key in part.keys]
        np.testing.assert_array_equal(part.images_NCHW[:, 0], images_NHW[numbers])
        seen += numbers
    assert sorted(seen) == list(range(count))


def test_a_preparation_that_fails_leaves_none_behind_and_none_of_another_is_touched(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That there are too few images is found after they were looked at; another preparation is under way."""
    folder = tmp_path / "images"
    folder.mkdir()
    np.savez_compressed(folder / "x.npz", noise(2, 12, 10))
    monkeypatch.setattr(Unpacked, "of", staticmethod(lambda storage: Unpacked(storage, "preparing/mine", 0)))
    storage.write_bytes("preparing/others/0.raw", b"of another preparation")
    with pytest.raises(UserError, match="2 images cannot be split into train, test, validation"):
        prepare(DatasetConfig(source="arrays", path=str(folder), name="few"), storage)
    assert [file.path for file in storage.files("preparing")] == ["others/0.raw"]


def test_each_preparation_has_a_place_of_its_own(storage: Storage) -> None:
    assert Unpacked.of(storage).folder != Unpacked.of(storage).folder
