"""One storage root, a local folder or an `s3://` bucket, always reached through `pyarrow.fs`.

Everything that a run leaves behind lies below the root: `datasets/`, `runs/`, artifacts. Paths are relative to it
and use `/`. On a cluster of several hosts the root must be one that every host sees: a bucket, or a shared folder.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from pixelmodels.errors import UserError

DEFAULT_STORAGE = "storage"  # a folder in the working directory
_S3 = "s3://"
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}")  # name of a local file that is being written, beside the one that it will be
_STALE_S = 24 * 3600  # age at which such a file is taken to be left behind by a killed process


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of a listing."""

    path: str  # relative to the folder that was listed
    size: int  # bytes
    modified_ns: int  # last change, nanoseconds since 1970 (whole seconds in a bucket)
    is_regular: bool = True  # False: nothing to read, such as a broken symbolic link or a socket


class Storage:
    """A storage root and what can be done below it; picklable, because it holds names only.

    Args: `root`, a local folder (made absolute) or `s3://bucket/prefix`; `AWS_ENDPOINT_URL` is honoured.
    Raises `UserError` for any other scheme.
    """

    def __init__(self, root: str | os.PathLike[str] = DEFAULT_STORAGE) -> None:
        text = os.fspath(root)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if not text:
            raise UserError(f"storage root '' is empty; give a local folder or s3://bucket/prefix, such as {DEFAULT_STORAGE}")
        self.is_local = "://" not in text
        if self.is_local:
            self.root = str(Path(text).expanduser().absolute())
        elif text.startswith(_S3) and text.removeprefix(_S3).strip("/"):
            self.root = _S3 + _normal(text.removeprefix(_S3))
        else:
            raise UserError(f"storage root '{text}' is not supported; give a local folder or s3://bucket/prefix")
        # Where the bucket is, as this process sees it, so that a worker with another environment finds the same one.
        self._endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._filesystem: fs.FileSystem | None = None

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystem": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def filesystem(self) -> fs.FileSystem:
        """The file system of the root, made when first asked for."""
        if self._filesystem is None:
            self._filesystem = fs.LocalFileSystem() if self.is_local else _s3_filesystem(self.root, self._endpoint, self._region)
        return self._filesystem

    def fs_and_path(self, path: str = "") -> tuple[fs.FileSystem, str]:
        """The file system, and the full path in it (without a scheme) of a path below the root."""
        base = self.root if self.is_local else self.root.removeprefix(_S3)
        relative = _normal(path)
        return self.filesystem, f"{base.rstrip('/')}/{relative}" if relative else base

    def uri(self, path: str = "") -> str:
        """The absolute local path or `s3://` URI of a path below the root."""
        relative = _normal(path)
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

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
            raise FileNotFoundError(self.uri(path))
        return int(info.size)

    def list(self, path: str = "") -> list[str]:
        """Sorted names of the direct children of a folder, without files that are being written; none when it does not exist."""
        filesystem, full = self.fs_and_path(path)
        infos = filesystem.get_file_info(fs.FileSelector(full, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.base_name and not _TEMPORARY.fullmatch(info.base_name))

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
        for info in filesystem.get_file_info(fs.FileSelector(full, allow_not_found=True, recursive=True)):
            if info.type == fs.FileType.File and not info.path.endswith("/"):
                yield FileEntry(info.path[len(full) :].lstrip("/"), int(info.size), int(info.mtime_ns or 0))

    def open_input(self, path: str) -> pa.NativeFile:
        """The file at `path`, open for random access."""
        filesystem, full = self.fs_and_path(path)
        return filesystem.open_input_file(full)

    def read_bytes(self, path: str) -> bytes:
        """All bytes of the file at `path`; raises `FileNotFoundError` when there is none."""
        with self.open_input(path) as stream:
            return bytes(stream.read())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a whole file so that a reader sees all of it or none: a rename (local), one upload (bucket)."""
        filesystem, full = self.fs_and_path(path)
        if not self.is_local:
            with filesystem.open_output_stream(full) as stream:
                stream.write(data)
            return
        folder = posixpath.dirname(full)
        filesystem.create_dir(folder, recursive=True)
        temporary = f"{folder}/.tmp-{uuid.uuid4().hex}"  # on the same disk, whatever is mounted or linked below the root
        try:
            with filesystem.open_output_stream(temporary) as stream:
                stream.write(data)
            filesystem.move(temporary, full)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def download(self, path: str, local_path: str | os.PathLike[str]) -> None:
        """Copy a file, or a folder with all that is below it, to `local_path`; raises `FileNotFoundError`."""
        target, info = Path(local_path), self._info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(self.uri(path))
        if info.type == fs.FileType.File:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read_bytes(path))
            return
        target.mkdir(parents=True, exist_ok=True)
        for name in self.list(path):
            self.download(posixpath.join(path, name), target / name)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is below it; a path that does not exist is fine."""
        if not _normal(path):
            raise ValueError("the storage root itself is never deleted; name a path below it")
        filesystem, full = self.fs_and_path(path)
        info = self._info(path)
        if info.type == fs.FileType.File:
            filesystem.delete_file(full)
        elif info.type == fs.FileType.Directory:
            filesystem.delete_dir(full)

    def check_writable(self) -> None:
        """Write and remove a small file; raises `UserError` naming the root and the remedy when that fails."""
        probe = f"write-check-{uuid.uuid4().hex[:8]}"
        try:
            self.write_bytes(probe, b"ok")
            self.delete(probe)
            self._delete_stale()
        except (OSError, pa.ArrowException) as error:
            remedy = "give a folder that you may write to" if self.is_local else "check the bucket's name, its region and your credentials"
            raise UserError(f"storage root '{self.root}' cannot be written ({_short(error)}); {remedy}, with --storage") from error

    def _delete_stale(self) -> None:
        """Remove what killed processes left half written; other processes may be doing the same."""
        if not self.is_local:
            return
        linked = [entry.path for entry in os.scandir(self.root) if entry.is_symlink()]
        for top in (self.root, *linked):
            for folder, _, names in os.walk(top):
                for name in names:
                    file = Path(folder, name)
                    with suppress(FileNotFoundError):
                        if _TEMPORARY.fullmatch(name) and file.stat().st_mtime < time.time() - _STALE_S:
                            file.unlink()

    def _info(self, path: str) -> fs.FileInfo:
        filesystem, full = self.fs_and_path(path)
        return filesystem.get_file_info(full)


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


def _s3_filesystem(uri: str, endpoint: str | None, region: str | None) -> fs.FileSystem:
    """The bucket's file system: credentials from the environment, and failures told within seconds."""
    if region is None:
        region = "us-east-1" if endpoint else _region_of(uri.removeprefix(_S3).split("/", 1)[0])
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint or None,
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=4),
        background_writes=False,  # an upload that fails is told by the call that made it
        allow_delayed_open=True,  # a small file is one PUT
    )


def _region_of(bucket: str) -> str:
    try:
        return str(fs.resolve_s3_region(bucket))
    except (OSError, pa.ArrowException) as error:
        reason = f"bucket '{bucket}' cannot be found ({_short(error)})"
        raise UserError(f"{reason}; check its name, or set AWS_REGION or AWS_ENDPOINT_URL") from error


def _short(error: BaseException) -> str:
    """The first line of an error, at most 160 characters."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 160 else line[:157] + "..."
