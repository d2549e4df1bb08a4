from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest
from botocore.exceptions import ClientError
from pyarrow import fs

from pixelmodels.data.writing import write as write_shard
from pixelmodels.errors import UserError
from pixelmodels.evaluation.evaluate import check_writable
from pixelmodels.storage import Storage, StorageFull, _telling_full, _telling_what, check_length, fitting
from tests.gs import google_bucket_server
from tests.s3 import bucket_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with bucket_server("storage-tests") as uri:
        yield uri


@pytest.fixture(scope="module")
def google_bucket() -> Iterator[str]:
    with google_bucket_server("storage-tests") as uri:
        yield uri


@pytest.fixture(params=["local", "bucket", "google_bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(tmp_path / "root")
    return Storage(f"{request.getfixturevalue(request.param)}/{tmp_path.name}/")


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


def test_names_that_mean_packed_files_change_nothing(root: Storage) -> None:
    """Arrow packs what it writes below a name that ends so, unless it is told."""
    root.write_bytes("a/b.tar.gz", b"as it is")
    assert root.size("a/b.tar.gz") == 8 and root.read_bytes("a/b.tar.gz") == b"as it is"


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


def test_a_file_is_created_once(root: Storage) -> None:
    assert root.create("a/once", b"first") and not root.create("a/once", b"second")
    assert root.read_bytes("a/once") == b"first" and root.list("a") == ["once"]
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: root.create("a/race", bytes([number])), range(8)))
    assert created.count(True) == 1 and root.read_bytes("a/race") == bytes([created.index(True)])


def test_missing_files_are_told(root: Storage) -> None:
    for read in (root.read_bytes, root.size):
        with pytest.raises(FileNotFoundError):
            read("missing")


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


@pytest.mark.parametrize("root", ["gcs://bucket/x", "http://host/x", "s3://", "gs://", ""])
def test_other_schemes_are_refused(root: str) -> None:
    with pytest.raises(UserError, match=r"give a local folder, s3://bucket/prefix or gs://bucket/prefix"):
        Storage(root)


def test_google_s_buckets_need_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where gcloud leaves them
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(UserError, match=r"credentials of Google Cloud, and there are none .*set GOOGLE_APPLICATION_CREDENTIALS"):
        Storage("gs://bucket/x").check_writable()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"none\.json"):
        Storage("gs://bucket/x").check_writable()


def test_check_writable_leaves_nothing(root: Storage) -> None:
    root.check_writable()
    assert root.list() == []


@pytest.mark.usefixtures("bucket", "google_bucket")
def test_roots_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (
        str(tmp_path / "file"),
        str(tmp_path / "file" / "below"),
        "/proc/nowhere",
        "/proc",
        "s3://no-such-bucket/x",
        "gs://no-such-bucket/x",
    ):
        with pytest.raises(UserError) as told:
            Storage(root).check_writable()
        assert root in str(told.value) and "--storage" in str(told.value) and "\n" not in str(told.value)


def test_files_in_the_making_are_not_listed_and_go_away_where_something_is_written(tmp_path: Path) -> None:
    left = [tmp_path / folder / f".tmp-{uuid.uuid4().hex}" for folder in ("", "deep")]
    fresh, other = tmp_path / f".tmp-{uuid.uuid4().hex}", tmp_path / ".tmp-of-somebody-else"
    long_ago = time.time() - 2 * 24 * 3600
    for file in (*left, fresh, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
        if file != fresh:
            os.utime(file, (long_ago, long_ago))
    storage = Storage(tmp_path)
    assert storage.list() == [other.name, "deep"]
    storage.check_writable()
    assert [file.exists() for file in (*left, fresh, other)] == [False, True, True, True]  # a folder that nobody writes in is left alone
    storage.write_bytes("deep/file", b"1")
    assert not left[1].exists() and storage.list("deep") == ["file"]


def test_what_cannot_be_removed_or_looked_at_is_no_obstacle(tmp_path: Path) -> None:
    locked = tmp_path / "locked" / f".tmp-{uuid.uuid4().hex}"
    locked.mkdir(parents=True)  # `unlink` fails
    os.utime(locked, (0, 0))
    storage = Storage(tmp_path)
    storage.write_bytes("locked/file", b"1")
    storage.check_writable()
    assert locked.is_dir() and storage.read_bytes("locked/file") == b"1"


def test_a_check_looks_at_no_folder_but_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    seen: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (seen.append(str(path)), scan(path))[1])
    Storage(tmp_path).check_writable()
    assert seen == [str(tmp_path)]


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


FULL = """
import resource, sys
from pathlib import Path
from pixelmodels.storage import Storage
storage = Storage(sys.argv[1])
storage.write_bytes("runs/earlier", b"whole")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for path in ("runs/earlier", "runs/later", "other/deep/file"):
    try:
        storage.write_bytes(path, b"x" * 100_000)
    except OSError as error:
        print(type(error).__name__, error)
storage.write_bytes("runs/small", b"1")
"""


def test_a_disk_that_is_full_is_told_with_what_was_written_and_the_remedy(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write in the same way."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    for line, path in zip(lines, ("runs/earlier", "runs/later", "other/deep/file"), strict=True):
        assert line.startswith(
            f"StorageFull '{tmp_path}/{path}' cannot be written: file too large; make room there, or give another --storage"
        )
    storage = Storage(tmp_path)
    assert storage.read_bytes("runs/earlier") == b"whole" and storage.read_bytes("runs/small") == b"1"
    assert not list(tmp_path.rglob(".tmp-*")) and not storage.exists("runs/later")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_a_mistake_that_whoever_waits_for_an_error_of_the_system_sees_too(code: int) -> None:
    remedy = "give another --storage" if code == errno.EROFS else "make room there, or give another --storage"
    with pytest.raises(UserError, match=rf"^'/a/b' cannot be written: [a-z -]+; {remedy}, and call again") as told, _telling_full("/a/b"):
        raise OSError(code, "Error writing bytes to file")
    assert isinstance(told.value, OSError) and str(pickle.loads(pickle.dumps(told.value))) == str(told.value)
    with pytest.raises(PermissionError), _telling_full("/a/b"):
        raise PermissionError(errno.EACCES, "no")


ARROW = "When uploading object with key 'x/step-00507/QuotaExceeded (StorageFull)' in bucket 'b': AWS Error "


@pytest.mark.parametrize(
    ("says", "is_full"),
    [
        (f"{ARROW}ACCESS_DENIED during PutObject operation: no (Request ID: AB507)", False),
        (f"{ARROW}UNKNOWN (HTTP status 400) during PutObject operation: Unable to parse ExceptionName: ExpiredToken Message: 507", False),
        (f"{ARROW}UNKNOWN (HTTP status 507) during PutObject operation: No response body.", True),
        (f"{ARROW}UNKNOWN (HTTP status 403) during PutObject operation: Unable to parse ExceptionName: QuotaExceeded Message: ", True),
        (f"{ARROW}UNKNOWN (HTTP status 500) during UploadPart operation: Unable to parse ExceptionName: XMinioStorageFull Message: ", True),
        ("An error occurred (AccessDenied) when calling the PutObject operation: step-00507", False),
        ("An error occurred (507) when calling the PutObject operation: Insufficient Storage", True),
        ("An error occurred (XMinioStorageFull) when calling the PutObject operation: full", True),
        ("403 POST https://host/upload/storage/v1/b/507/o: no", False),
        ("507 POST https://host/upload/storage/v1/b/b/o: full", True),
        (f"{ARROW}INTERNAL_FAILURE during PutObject operation: no space left on device", True),
    ],
)
def test_a_bucket_is_full_by_what_its_server_says_and_never_by_a_name(says: str, is_full: bool) -> None:
    uri = "s3://b/x/step-00507/QuotaExceeded (StorageFull)"
    with (
        pytest.raises(OSError, match=r"^'s3://b/x/step-00507/QuotaExceeded \(StorageFull\)' cannot be written \(") as told,
        _telling_what(uri),
    ):
        raise OSError(says)
    assert isinstance(told.value, StorageFull) == is_full and "When uploading" not in str(told.value)


class Refusing:
    """A file system, and the client of a bucket, that write nothing."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def refuse(self, *_: object, **__: object) -> NoReturn:
        raise self.error

    open_output_stream = create_dir = put_object = refuse


def refusing(root: str, error: Exception) -> Storage:
    storage = Storage(root)
    storage._filesystem = storage._made = Refusing(error)  # type: ignore[assignment]
    return storage


@pytest.mark.parametrize(
    ("code", "told"),
    [("NO_SUCH_BUCKET", "AWS Error NO_SUCH_BUCKET"), ("UNKNOWN (HTTP status 400) ExceptionName: ExpiredToken", "ExpiredToken")],
)
@pytest.mark.parametrize("prefix", ["x", "a/" * 100 + "x"])
def test_the_reason_is_told_once_however_long_the_name(code: str, told: str, prefix: str) -> None:
    storage = refusing(
        f"s3://b/{prefix}", OSError(f"When uploading object with key '{prefix}/runs/a' in bucket 'b': AWS Error {code} during PutObject")
    )
    for write in (
        storage.check_writable,
        lambda: write_shard(storage, "runs/a", b""),
        lambda: check_writable(storage, "evaluations/a", "summary.json"),
    ):
        with pytest.raises(UserError) as error:
            write()
        text = str(error.value)
        assert told in text and text.count("cannot be written") == 1 and "goes on from it" not in text


@pytest.mark.parametrize("folder", ["x", "a/" * 100 + "x"])
def test_a_shard_without_room_has_one_reason_and_one_remedy(folder: str) -> None:
    with pytest.raises(UserError, match=r" \(0 bytes\) cannot be written \(no space left on device\); make room for it") as told:
        write_shard(refusing(f"/{folder}", OSError(errno.ENOSPC, "Error")), "a", b"")
    assert "--storage" not in str(told.value)


def test_what_cannot_be_created_is_told_with_its_name() -> None:
    with pytest.raises(StorageFull, match=r"^'/x/a/once' cannot be written: no space left on device; make room there"):
        refusing("/x", OSError(errno.ENOSPC, "Cannot create directory")).create("a/once", b"")
    for code, kind in (("AccessDenied", OSError), ("XMinioStorageFull", StorageFull)):
        with pytest.raises(kind, match=rf"^'s3://b/x/a/once' cannot be written \(.*{code}.*\); what was written before is whole") as told:
            refusing("s3://b/x", ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")).create("a/once", b"")
        assert isinstance(told.value, StorageFull) == (kind is StorageFull)


@pytest.mark.parametrize("name", ["what?", "my%20data", "a#b", "a;b", 'it\'s "quoted"', "Bilder äöü 画像", "two\nlines", " spaces "])
def test_roots_with_odd_letters_keep_every_file_inside(name: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path / name)
    storage.check_writable()
    storage.write_bytes("a/file", b"1")
    assert storage.read_bytes("a/file") == b"1" and storage.list() == ["a"] and [entry.path for entry in storage.files()] == ["a/file"]
    assert os.listdir(tmp_path) == [name] and Path(storage.uri("a/file")).is_file()
    storage.delete("a")
    assert storage.list() == []


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", b"a\x80/b"])
def test_a_root_that_is_not_utf8_is_told_in_one_line(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not UTF-8; rename the folder, or give another with --storage$") as told:
        Storage(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    assert str(told.value).isascii()


def test_names_that_fit_stay_and_longer_ones_are_told_apart(tmp_path: Path) -> None:
    for name in ("short", "x" * 255, "ä" * 127):
        assert fitting(name) == name
    long = [fitting(text) for text in ("x" * 256, "x" * 300, "x" * 299 + "y", "ä" * 128, "画" * 100)]
    assert len(set(long)) == 5 and all(len(name.encode()) <= 255 for name in long)
    for name in long:
        Storage(tmp_path).write_bytes(f"{name}/file", b"")
    assert len(fitting("x" * 100, 50)) == 50
    check_length("--name", "x" * 242)
    for name in ("x" * 243, "ä" * 122):
        with pytest.raises(UserError, match=r"--name '.{40}\.\.\.' has \d+ letters, too many for a folder; give at most 242"):
            check_length("--name", name)
