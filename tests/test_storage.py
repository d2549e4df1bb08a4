from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    assert root.sha256("a/b/file.bin") == hashlib.sha256(data).hexdigest()
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


def test_upload_and_download_folders(root: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "one").write_bytes(b"1")
    (source / "two").write_bytes(b"22")
    root.upload(source, "there")
    root.upload(source / "two", "single")
    root.download("there", tmp_path / "back")
    root.download("single", tmp_path / "elsewhere" / "single")
    assert (tmp_path / "back" / "sub" / "one").read_bytes() == b"1"
    assert (tmp_path / "back" / "two").read_bytes() == b"22"
    assert (tmp_path / "elsewhere" / "single").read_bytes() == b"22"


def test_missing_files_are_told(root: Storage, tmp_path: Path) -> None:
    for read in (root.read_bytes, root.size, root.sha256):
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
    left, fresh = tmp_path / ".tmp" / "left-behind", tmp_path / ".tmp" / "being-written"
    left.write_bytes(b"half")
    fresh.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (long_ago, long_ago))
    assert storage.list() == ["a"]
    storage.check_writable()
    assert not left.exists() and fresh.exists()
