from __future__ import annotations

import os
import pickle
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from tests.s3 import bucket_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with bucket_server("storage-tests") as uri:
        yield uri


@pytest.fixture(params=["local", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(tmp_path / "root")
    return Storage(f"{request.getfixturevalue('bucket')}/{tmp_path.name}/")


def test_files_come_back_as_they_were_written(root: Storage) -> None:
    data = bytes(range(256)) * 1000
    root.write_bytes("a/b/file.bin", data)
    root.write_bytes("a/empty", b"")
    assert root.read_bytes("a/b/file.bin") == data
    assert root.read_bytes("a/empty") == b""
    assert root.size("a/b/file.bin") == len(data)
    with root.open_input("a/b/file.bin") as stream:
        stream.seek(255)
        assert stream.read(2) == b"\xff\x00"


def test_writing_again_replaces(root: Storage) -> None:
    root.write_bytes("file", b"a longer text")
    root.write_bytes("file", b"short")
    assert root.read_bytes("file") == b"short"


def test_list_exists_and_delete(root: Storage) -> None:
    assert root.list() == [] and root.list("nowhere") == []
    for path in ("a/2", "a/1", "a/deep/er/3", "b"):
        root.write_bytes(path, b"x")
    assert root.list() == ["a", "b"]
    assert root.list("a") == ["1", "2", "deep"]
    assert sorted((entry.path, entry.size) for entry in root.files("a")) == [("1", 1), ("2", 1), ("deep/er/3", 1)]
    assert root.exists("a/deep") and root.exists("a/1") and not root.exists("a/4")
    assert root.is_file("a/1") and not root.is_file("a/deep")
    root.delete("a")
    root.delete("a")
    assert not root.exists("a/1") and root.list() == ["b"]


def test_download_files_and_folders(root: Storage, tmp_path: Path) -> None:
    root.write_bytes("there/sub/one", b"1")
    root.write_bytes("there/two", b"22")
    root.write_bytes("single", b"22")
    root.download("there", tmp_path / "back")
    root.download("single", tmp_path / "elsewhere" / "single")
    assert (tmp_path / "back" / "sub" / "one").read_bytes() == b"1"
    assert (tmp_path / "back" / "two").read_bytes() == b"22"
    assert (tmp_path / "elsewhere" / "single").read_bytes() == b"22"


def test_missing_files_are_told(root: Storage, tmp_path: Path) -> None:
    for read in (root.read_bytes, root.size):
        with pytest.raises(FileNotFoundError):
            read("missing")
    with pytest.raises(FileNotFoundError):
        root.download("missing", tmp_path / "x")


def test_pickled_storage_is_the_same_place(root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    root.write_bytes("file", b"here")
    data = pickle.dumps(root)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)  # a worker's environment need not be the driver's
    other = pickle.loads(data)
    assert other == root and other.root == root.root
    assert other.read_bytes("file") == b"here"


def test_uris_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("some/place").root == str(tmp_path / "some" / "place")
    assert Storage(f"file://{tmp_path}").root == str(tmp_path)
    assert Storage("s3://bucket//deep/").uri("/a//b") == "s3://bucket/deep/a/b"
    assert Storage("s3://bucket").uri() == "s3://bucket"
    with pytest.raises(ValueError, match="leaves the storage root"):
        Storage(tmp_path).write_bytes("../outside", b"")
    with pytest.raises(ValueError, match="root itself"):
        Storage(tmp_path).delete("/")


@pytest.mark.parametrize("root", ["gs://bucket/x", "http://host/x", "s3://", ""])
def test_other_schemes_are_refused(root: str) -> None:
    with pytest.raises(UserError, match=r"give a local folder or s3://bucket/prefix"):
        Storage(root)


def test_check_writable_leaves_nothing(root: Storage) -> None:
    root.check_writable()
    assert root.list() == []


def test_roots_that_cannot_be_written_are_refused(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (str(tmp_path / "file"), str(tmp_path / "file" / "below"), "/proc/nowhere", "/proc", "s3://no-such-bucket/x"):
        with pytest.raises(UserError) as told:
            Storage(root).check_writable()
        assert root in str(told.value) and "--storage" in str(told.value) and "\n" not in str(told.value)


def test_files_in_the_making_are_not_listed_and_go_away(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write_bytes("a", b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    left = [tmp_path / folder / f".tmp-{uuid.uuid4().hex}" for folder in ("", "deep/er", "linked")]
    fresh, other = tmp_path / f".tmp-{uuid.uuid4().hex}", tmp_path / ".tmp-of-somebody-else"
    long_ago = time.time() - 2 * 24 * 3600
    for file in (*left, fresh, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
        if file != fresh:
            os.utime(file, (long_ago, long_ago))
    assert storage.list() == [other.name, "a", "deep", "elsewhere", "linked"]
    storage.check_writable()
    assert not any(file.exists() for file in left) and fresh.exists() and other.exists()


def test_files_are_written_beside_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder below the root may be on another disk, to which nothing can be renamed from outside."""
    storage, moves = Storage(tmp_path), []

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(fs.LocalFileSystem(), name)

        def move(self, old: str, new: str) -> None:
            moves.append((Path(old).parent, Path(new).parent))
            fs.LocalFileSystem().move(old, new)

    monkeypatch.setattr(storage, "_filesystem", Spy())
    storage.write_bytes("datasets/deep/file", b"1")
    assert moves == [(tmp_path / "datasets" / "deep",) * 2] and storage.read_bytes("datasets/deep/file") == b"1"


def test_what_is_no_file_is_in_the_listing_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"12")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)  # a ring
    (tmp_path / "link").symlink_to("sub")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {entry.path: (entry.size if entry.is_regular else None) for entry in Storage(tmp_path).files()}
    assert found == {"sub/file": 2, "link/file": 2, "sub/up": None, "link/up": None, "broken": None, "pipe": None}
