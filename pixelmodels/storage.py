"""One storage root, a local folder or a bucket (`s3://`, `gs://`), always reached through `pyarrow.fs`.

Everything that a run leaves behind lies below the root: `datasets/`, `runs/`, artifacts. Paths are relative to it
and use `/`. On a cluster of several hosts the root must be one that every host sees: a bucket, or a shared folder.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import posixpath
import re
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pyarrow import fs

from pixelmodels import buckets
from pixelmodels.errors import UserError, first_line, shown

DEFAULT_STORAGE = "storage"  # a folder in the working directory
_S3, _GS, _FILE = "s3://", "gs://", "file://"
SCHEMES = (_S3, _GS, _FILE)
_EMULATOR = "STORAGE_EMULATOR_HOST"  # where Google's own clients look for a stand-in of Google Cloud Storage: http://host:port
Kind = Literal["local", "s3", "gs"]
_KINDS = "a local folder, s3://bucket/prefix or gs://bucket/prefix"
_MAKING = threading.Lock()
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}")  # name of a local file that is being written, beside the one that it will be
_STALE_S = 24 * 3600  # age at which such a file is taken to be left behind by a killed process


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what an operating system says where no more can be written
_BUCKET_FULL = re.compile(  # what servers of buckets say: a status, a code, and never a part of a key or of a request's name
    r"HTTP status 507\b|^507 |\(507\)|(ExceptionName: |\()\w*(QuotaExceeded|StorageFull|InsufficientStorage)|no space left", re.MULTILINE
)
LONGEST_NAME = 242  # bytes of a name that a user gives and that becomes part of a folder's, of which systems take 255


class StorageFull(UserError, OSError):
    """No more can be written: the disk or a quota is full, or the file system is read-only."""


@contextmanager
def _telling_full(path: str) -> Iterator[None]:
    """Tell in one line what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        remedy = "" if error.errno == errno.EROFS else "make room there, or "
        remedy += "give another --storage, and call again: what was written before is whole"
        raise StorageFull(f"'{path}' cannot be written: {why(error)}; {remedy}") from error


@contextmanager
def _telling_what(uri: str) -> Iterator[None]:
    """Tell in one line which object of a bucket could not be written."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = f"'{uri}' cannot be written ({why(error)}); what was written before is whole, and the same command goes on from it"
        raise (StorageFull if _BUCKET_FULL.search(_without_name(error)) else OSError)(reason) from error


def why(error: BaseException) -> str:
    """Why a file cannot be read or written, without its name, which whoever tells it has told, and which may be long."""
    while error.__cause__ is not None:  # what was told in other words already
        error = error.__cause__
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return first_line(OSError(_without_name(error)))


def _without_name(error: BaseException) -> str:
    """What an error of a bucket says, without the object's name, with which Arrow begins."""
    text = str(error)
    return text[max(0, text.rfind("AWS Error ")) :]


def fitting(name: str, most_bytes: int = 255) -> str:
    """A name that a folder can have: one that is too long is cut, and tells itself from others by a hash."""
    if len(name.encode()) <= most_bytes:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: most_bytes - 13].decode(errors='ignore')}-{digest}"


def check_length(what: str, name: str) -> None:
    """Raise `UserError` for a name of the user's that is too long for a folder; `what` it is of."""
    if len(name.encode(errors="surrogateescape")) > LONGEST_NAME:
        raise UserError(f"{what} '{name[:40]}...' has {len(name)} letters, too many for a folder; give at most {LONGEST_NAME} (bytes)")


class FileEntry(NamedTuple):
    """One file of a listing."""

    path: str  # relative to the folder that was listed
    size: int  # bytes
    modified_ns: int  # last change, nanoseconds since 1970 (whole seconds in a bucket)
    is_regular: bool = True  # False: nothing to read, such as a broken symbolic link or a socket


class Storage:
    """A storage root and what can be done below it; picklable, because it holds names only.

    Args: `root`, a local folder (made absolute), `s3://bucket/prefix` (`AWS_ENDPOINT_URL` is honoured) or `gs://bucket/prefix`
    (`STORAGE_EMULATOR_HOST` is). Raises `UserError` for any other scheme.
    """

    def __init__(self, root: str | os.PathLike[str] = DEFAULT_STORAGE) -> None:
        text = os.fspath(root)
        text = text.removeprefix(_FILE)
        if not text:
            raise UserError(f"storage root '' is empty; give {_KINDS}, such as {DEFAULT_STORAGE}")
        self.is_local = "://" not in text
        self.kind: Kind = "local" if self.is_local else "gs" if text.startswith(_GS) else "s3"
        self._scheme = next((scheme for scheme in (_S3, _GS) if text.startswith(scheme)), "")
        if self.is_local:
            try:
                self.root = str(Path(text).expanduser().absolute())
            except RuntimeError as error:
                raise UserError(f"storage root '{text}' cannot be found ({error}); give the folder without ~") from error
        elif self._scheme and text.removeprefix(self._scheme).strip("/"):
            if re.search(r"^[^/]*[@:?]|[?&](access|secret)_key=", text.removeprefix(self._scheme)):
                by = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if self._scheme == _S3 else "GOOGLE_APPLICATION_CREDENTIALS"
                remedy = f"give {self._scheme}bucket/prefix alone, and credentials as {by}"
                raise UserError(f"storage root '{shown(text)}' has more in it than a bucket and a prefix; {remedy}")
            if ".." in text.split("/"):
                raise UserError(f"storage root '{text}' goes up with '..'; give {self._scheme}bucket/prefix without it")
            self.root = self._scheme + _normal(text.removeprefix(self._scheme))
        else:
            raise UserError(f"storage root '{shown(text)}' is not supported; give {_KINDS}")
        try:
            self.root.encode()
        except UnicodeEncodeError:  # Arrow opens nothing whose name is not UTF-8
            raise UserError(f"storage root {self.root!a} is not UTF-8; rename the folder, or give another with --storage") from None
        # Where the bucket is, as this process sees it, so that a worker with another environment finds the same one.
        s3_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._endpoint = os.environ.get(_EMULATOR) if self._scheme == _GS else s3_endpoint
        self._region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._filesystem: fs.FileSystem | None = None
        self._made: Any = None  # the bucket's own client, where it was needed
        self._tidied: set[str] = set()  # local folders in which this process has looked for what killed ones left

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystem": None, "_made": None, "_tidied": set()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system of the root, made when first asked for."""
        if self._filesystem is None:
            if self.is_local:
                self._filesystem = fs.LocalFileSystem()
            elif self._scheme == _GS:
                self._filesystem = buckets.gcs_filesystem(self._endpoint)
            else:
                self._filesystem = buckets.s3_filesystem(self.root, self._endpoint, self._region)
        return self._filesystem

    def fs_and_path(self, path: str = "") -> tuple[fs.FileSystem, str]:
        """The file system, and the full path in it (without a scheme) of a path below the root."""
        base = self.root.removeprefix(self._scheme)
        relative = _normal(path)
        return self.filesystem, f"{base.rstrip('/')}/{relative}" if relative else base

    def uri(self, path: str = "") -> str:
        """The absolute local path, or the URI with its scheme, of a path below the root."""
        relative = _normal(path)
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def for_ray(self, path: str) -> dict[str, Any]:
        """A folder below the root as the options by which Ray Train and Ray Tune are told where to write."""
        if self.is_local:
            return {"storage_path": self.uri(path)}
        filesystem, full = self.fs_and_path(path)
        return {"storage_path": full, "storage_filesystem": filesystem}

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or folder at `path`."""
        return bool(self._info(path).type != fs.FileType.NotFound)

    def is_file(self, path: str) -> bool:
        """Whether there is a file at `path`."""
        return bool(self._info(path).type == fs.FileType.File)

    def size(self, path: str) -> int:
        """Bytes of the file at `path`; raises `FileNotFoundError` when there is none."""
        info = self._info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.uri(path))
        return int(info.size)

    def list(self, path: str = "") -> list[str]:
        """Sorted names of the direct children of a folder, without files that are being written; none when it does not exist."""
        filesystem, full = self.fs_and_path(path)
        if self.kind == "gs":
            names = self._list_gs(full)
        else:
            names = {info.base_name for info in filesystem.get_file_info(fs.FileSelector(full, allow_not_found=True))}
        return sorted(name for name in names if name and not _TEMPORARY.fullmatch(name))

    def glance(self, path: str = "", most: int = 1000) -> tuple[str, ...]:
        """Names of some direct children of a folder, at most `most` of them; those of folders end in `/`. In a bucket it is one request.

        None where the folder does not exist, or is a file. On disk only files and folders are named: no sockets, no broken links.
        """
        _, full = self.fs_and_path(path)
        if self.is_local:
            if not os.path.isdir(full):
                return ()
            with os.scandir(full) as entries:
                marks = [(entry, _mark(entry)) for entry in itertools.islice(entries, most)]
            return tuple(sorted(entry.name + mark for entry, mark in marks if mark is not None))
        bucket, _, key = full.partition("/")
        prefix = f"{key}/" if key else ""
        if self.kind == "gs":
            with buckets.gs_errors():
                found = self._client().list_blobs(bucket, prefix=prefix, delimiter="/", max_results=most)
                names = [blob.name for blob in found] + list(found.prefixes)
        else:
            with buckets.s3_errors():
                answer = self._client().list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=most)
            names = [entry["Key"] for entry in answer.get("Contents", ())] + [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
        return tuple(sorted(name.removeprefix(prefix) for name in names if name != prefix))

    def files(self, path: str = "") -> Iterator[FileEntry]:
        """Every file below a folder, at any depth, in no particular order; none when the folder does not exist.

        Symbolic links are followed; one that leads back to a folder that it lies in is an entry that is not regular.
        Raises `UnicodeError` for a name that is not UTF-8.
        """
        filesystem, full = self.fs_and_path(path)
        if self.is_local:
            if os.path.isdir(full):
                yield from _local_files(full, "", ())
            return
        if self.kind == "s3":
            yield from self._files_s3(full)
            return
        for info in filesystem.get_file_info(fs.FileSelector(full, allow_not_found=True, recursive=True)):
            if info.type == fs.FileType.File and not info.path.endswith("/"):
                yield FileEntry(info.path[len(full) :].lstrip("/"), int(info.size), int(info.mtime_ns or 0))

    def open_input(self, path: str) -> pa.NativeFile:
        """The file at `path`, open for random access."""
        filesystem, full = self.fs_and_path(path)
        return filesystem.open_input_file(full)

    def read_bytes(self, path: str) -> bytes:
        """All bytes of the file at `path`, of one writing of it; raises `FileNotFoundError` when there is none."""
        filesystem, full = self.fs_and_path(path)
        if self.kind == "s3":
            return self._get_s3(full)
        with filesystem.open_input_file(full) as stream:
            return bytes(stream.read())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file so that a reader sees all of it or none: a rename (local), one upload (bucket)."""
        filesystem, full = self.fs_and_path(path)
        if not self.is_local:
            with _telling_what(self.uri(path)), filesystem.open_output_stream(full, compression=None) as stream:
                stream.write(data)
            return
        with _telling_full(full):
            self._write_local(full, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write a whole file unless there is one already; returns whether it was written. Of several that try at once one does."""
        filesystem, full = self.fs_and_path(path)
        if not self.is_local:
            with _telling_what(self.uri(path)):
                return self._put_new_s3(full, data) if self.kind == "s3" else self._put_new_gs(full, data)
        temporary = Path(f"{posixpath.dirname(full)}/{_temporary()}")
        with _telling_full(full):
            filesystem.create_dir(posixpath.dirname(full), recursive=True)
            try:
                temporary.write_bytes(data)
                os.link(temporary, full)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def _get_s3(self, full: str) -> bytes:
        """An object in one request: Arrow asks for the size first, and is lost where the object is replaced before it asks for the rest."""
        bucket, _, key = full.partition("/")
        with buckets.s3_errors():
            return bytes(self._client().get_object(Bucket=bucket, Key=key)["Body"].read())

    def _files_s3(self, full: str) -> Iterator[FileEntry]:
        """Every object below a folder, a page at a time: Arrow has all of them in memory before it gives one."""
        bucket, _, key = full.partition("/")
        prefix = f"{key}/" if key else ""
        with buckets.s3_errors():
            for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    path = found["Key"].removeprefix(prefix)
                    if path and not path.endswith("/"):
                        yield FileEntry(path, int(found["Size"]), int(found["LastModified"].timestamp()) * 1_000_000_000)

    def _put_new_s3(self, full: str, data: bytes) -> bool:
        """Put an object where there is none yet; Arrow has no way to ask for that. Returns whether it was put."""
        bucket, _, key = full.partition("/")
        try:
            with buckets.s3_errors():
                self._client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except FileExistsError:
            return False
        return True

    def _put_new_gs(self, full: str, data: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        bucket, _, key = full.partition("/")
        try:
            with buckets.gs_errors():
                self._client().bucket(bucket).blob(key).upload_from_string(data, if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    def _list_gs(self, full: str) -> set[str]:
        """Names in a folder; Arrow lists no folder that is there by what lies in it only."""
        bucket, _, key = full.partition("/")
        prefix = f"{key}/" if key else ""
        with buckets.gs_errors():
            found = self._client().list_blobs(bucket, prefix=prefix, delimiter="/")
            names = {blob.name for blob in found} | set(found.prefixes)
        return {name.removeprefix(prefix).rstrip("/") for name in names}

    def _client(self) -> Any:
        """The bucket's own client, for what Arrow has no call for."""
        with _MAKING:  # boto3 makes clients in one thread at a time; what is made can be used in all
            if self._made is None:
                self._made = (
                    buckets.gs_client(self._endpoint)
                    if self.kind == "gs"
                    else buckets.s3_client(self._endpoint, str(self.filesystem.region))
                )
        return self._made

    def _write_local(self, full: str, data: bytes) -> None:
        filesystem, folder = self.filesystem, posixpath.dirname(full)
        filesystem.create_dir(folder, recursive=True)
        if folder not in self._tidied:  # once in a process
            self._tidied.add(folder)
            _delete_stale(folder)
        temporary = f"{folder}/{_temporary()}"  # on the same disk, whatever is mounted or linked below the root
        try:
            with filesystem.open_output_stream(temporary) as stream:
                stream.write(data)
            filesystem.move(temporary, full)
        except BaseException:
            with suppress(OSError):  # it is told what went wrong first
                Path(temporary).unlink(missing_ok=True)
            raise

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is below it; a path that does not exist is fine."""
        if not _normal(path):
            raise ValueError("the storage root itself is never deleted; name a path below it")
        filesystem, full = self.fs_and_path(path)
        info = self._info(path)
        if info.type == fs.FileType.File:
            filesystem.delete_file(full)
        elif info.type == fs.FileType.Directory:
            with suppress(FileNotFoundError):  # of a gs:// bucket: most folders are there by what lies in them only
                filesystem.delete_dir(full)

    def check_writable(self) -> None:
        """Write and remove a small file; raises `UserError` naming the root and the remedy when that fails."""
        probe = _temporary()
        try:
            self.write_bytes(probe, b"ok")
            self.delete(probe)
        except StorageFull:
            raise
        except (OSError, pa.ArrowException) as error:
            remedy = "give a folder that you may write to" if self.is_local else "check the bucket's name, its region and your credentials"
            raise UserError(f"storage root '{self.root}' cannot be written ({why(error)}); {remedy}, with --storage") from error

    def _info(self, path: str) -> fs.FileInfo:
        filesystem, full = self.fs_and_path(path)
        return filesystem.get_file_info(full)


def _temporary() -> str:
    """A name of its own for a file that is being written."""
    return f".tmp-{uuid.uuid4().hex}"


def _mark(entry: os.DirEntry[str]) -> str | None:
    """What follows the name of a folder (`/`) and that of a file (nothing); None of what is neither."""
    with suppress(OSError):  # a ring of links
        return "/" if entry.is_dir() else "" if entry.is_file() else None
    return None


def _delete_stale(folder: str) -> None:
    """Remove what killed processes left half written in one folder; what cannot be removed stays."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):  # another process may be doing the same, or the file may be another user's
                if _TEMPORARY.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < time.time() - _STALE_S:
                    os.unlink(entry.path)


def _normal(path: str) -> str:
    """A relative path without empty parts; raises `ValueError` when it would leave the root."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"path '{path}' leaves the storage root")
    return "/".join(parts)


def _local_files(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[FileEntry]:
    """Every file below a local folder. Arrow's own listing drops broken links, and never ends where links form a ring."""
    info = os.stat(folder)
    above = (*above, (info.st_dev, info.st_ino))
    for entry in os.scandir(folder):
        path = prefix + entry.name
        path.encode()  # Arrow opens no file whose name is not UTF-8
        try:
            info = entry.stat()
        except OSError:  # a link that leads nowhere, or round in a circle
            info = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            yield FileEntry(path, info.st_size, info.st_mtime_ns, stat.S_ISREG(info.st_mode))
        elif (info.st_dev, info.st_ino) in above:
            yield FileEntry(path, 0, 0, False)
        else:
            yield from _local_files(entry.path, f"{path}/", above)
