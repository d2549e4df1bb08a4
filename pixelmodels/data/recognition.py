"""What a path holds, by a first look: names of files, and the first bytes of a few. Nothing is decoded, and large folders are sampled.

Sets with names of their own (MNIST's files, CIFAR's) are known by these, also in a folder below the path; other kinds (images, arrays,
Parquet files, tar shards) by the endings of their files, images also by their first bytes.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pixelmodels.data.config import AUTO, DatasetConfig
from pixelmodels.errors import UserError, shown
from pixelmodels.storage import SCHEMES, Storage, why

EMNIST_FILE = r"emnist-(?P<set>byclass|bymerge|balanced|letters|digits|mnist)-(train|test)-(images-idx3|labels-idx1)-ubyte(\.gz)?"
_IMAGE = r".*\.(png|jpe?g|jfif|webp|gif|bmp|dib|tiff?|ppm|pgm|pbm|pnm|jp2|avif|ico|tga)"
_PACKED = r".*(\.zip|\.tgz|\.tbz2?|\.txz|\.tar\.(gz|bz2|xz|zst)|\.7z|\.rar)"
_KNOWN_PACKED = r"(cifar|mnist|emnist|svhn|imagenet|train_32x32|kmnist|fashion)[^/]*\.tar"
# First bytes of files of images.
_IMAGE_MAGIC = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
_PACKED_TARS = (".tar.gz", ".tgz")
_DEPTH = 4  # folders below the path that are looked into
_MOST_FOLDERS = 20  # that are looked into at one depth
_MOST_SNIFFED = 3  # files whose first bytes are read
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Kind:
    """A kind of files that some source reads."""

    source: str
    about: str  # what it is called
    names: tuple[str, ...]  # patterns: each is the name of some file of one folder
    takes_file: bool = False  # whether the source also reads one file by its path
    goes_deep: bool = False  # whether the source looks into folders itself
    has_parts: bool = False  # whether folders of the kind below one of it are its parts


# Sets with names of their own, then kinds by their endings.
SETS = (
    Kind("emnist", "EMNIST's files", (EMNIST_FILE,), takes_file=True),
    Kind("mnist", "IDX files of MNIST, Fashion-MNIST or KMNIST", (r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?",)),
    Kind("binarized_mnist", "files of binarized MNIST", (r"binarized_mnist_(train|valid|test)\.amat",)),
    Kind("cifar10", "CIFAR-10's files", (r"(data_batch_[1-5]|test_batch)(\.bin)?",)),
    Kind("cifar100", "CIFAR-100's files", (r"train\.bin", r"test\.bin")),
    Kind("cifar100", "CIFAR-100's files", ("train", "test", "meta")),
    Kind("imagenet_downsampled", "files of down-sampled ImageNet", (r"(train_data_batch_\d+|val_data)(\.npz)?",)),
    Kind("svhn", "SVHN's cropped digits", (r"(train|test|extra)_32x32\.mat",)),
)
GENERAL = (
    Kind("huggingface", "a Hugging Face data set", (r"dataset_dict\.json|state\.json",), has_parts=True),
    Kind("parquet", "Parquet or Arrow files", (r".*\.(parquet|pq|parq|arrow|feather|ipc)",), takes_file=True, goes_deep=True),
    Kind("webdataset", "tar shards", (rf"(?!{_KNOWN_PACKED}).*(\.tar|-\d+\.(tar\.gz|tgz))",), takes_file=True, goes_deep=True),
    Kind("arrays", "NumPy arrays", (r".*\.(npz|npy)",), takes_file=True),
    Kind("folder", "image files", (_IMAGE,), goes_deep=True),
)


_TARS = next(kind for kind in GENERAL if kind.source == "webdataset")


@dataclass(frozen=True)
class Found:
    """What a path was taken for."""

    source: str
    path: str  # where its files are: the path, or a folder below it
    about: str


@dataclass(frozen=True)
class _Folder:
    path: str  # below the root
    files: tuple[str, ...]
    folders: tuple[str, ...]

    def has(self, kind: Kind) -> bool:
        return all(any(re.fullmatch(pattern, name, re.IGNORECASE) for name in self.files) for pattern in kind.names)


def recognized(config: DatasetConfig, say: Callable[[str], None] = lambda _: None) -> DatasetConfig:
    """A config whose source is told: `auto` becomes what its path holds, and `say` is given one line about that.

    Raises `UserError` for addresses that nothing can be read from, and where nothing is recognized, or several things are.
    """
    for option, path in (("path", config.path), ("vectors", config.vectors)):
        try:
            str(Path(path).absolute() if path else "").encode()  # also where the working directory is not
        except UnicodeEncodeError as error:
            raise UserError(
                f"--{option} {os.fsencode(str(error.object))!r} is not UTF-8, so no file below it can be opened; rename it"
            ) from error
        if path is not None and not path.partition("://")[2 if "://" in path else 0].strip("/ ") and not path.startswith("/"):
            raise UserError(f"--{option} '{path}' names nothing; give a local path, s3://bucket/prefix or gs://bucket/prefix")
        if "://" in (path or "") and not str(path).startswith(SCHEMES):
            raise UserError(f"--{option} '{shown(str(path))}' is not supported; give a local path, s3://... or gs://...")
    if config.source != AUTO or config.path is None:
        return config
    found = recognize(config.path)
    say(f"'{found.path}' is taken for {found.about} (source {found.source}); prepare_data.py --source NAME takes it for something else")
    return replace(config, source=found.source, path=found.path)


def instead(storage: Storage, source: str) -> str:
    """The end of a message that a source's files are not there: what is there, where that is another source's."""
    try:
        found = recognize(storage.root)
    except (UserError, OSError):
        return ""
    where = "it" if found.path == storage.root else f"'{found.path}'"
    if found.source == source:
        return f" ({found.about} are in {where})" if found.path != storage.root else ""
    remedy = f"--source {found.source}" + ("" if found.path == storage.root else f" --path {shlex.quote(found.path)}")
    return f"; {where} seems to hold {found.about}: give {remedy}"


def recognize(path: str) -> Found:
    """What a path holds; raises `UserError` where that is nothing known, or several things."""
    storage = Storage(path)
    try:
        if storage.is_file(""):
            return _one_file(storage, path)
        top = _look(storage, "")
        if not top.files and not top.folders:
            exists = storage.is_local and storage.exists()
            nothing = "has nothing in it" if exists or not storage.is_local else "does not exist"
            raise UserError(f"'{path}' {nothing}; give --path FOLDER with images, or with files of a known set")
        return _in_folder(storage, path, top)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"'{path}' cannot be looked into ({why(error)}); check its name and your rights to read it") from error


def _one_file(storage: Storage, path: str) -> Found:
    folder, _, name = path.rstrip("/").rpartition("/")
    for kind in (*SETS, *GENERAL):
        if any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in kind.names):
            if kind.takes_file:
                return Found(kind.source, path, kind.about)
            raise UserError(f"'{path}' is one file of {kind.about}; give the folder that holds it: --path {shlex.quote(folder or '.')}")
    if _is_packed(name):
        raise _unpack(storage, path, name)
    if _IMAGE_MAGIC.match(_first_bytes(storage, "")):
        raise UserError(f"'{path}' is one image; give the folder that holds it: --path {shlex.quote(folder or '.')}")
    raise UserError(f"'{path}' is a file of no known kind; {_choices()}")


def _in_folder(storage: Storage, path: str, top: _Folder) -> Found:
    """What is in a folder: sets first, then other kinds, from the top down; a level below the first finding still counts."""
    found: dict[str, tuple[Kind, list[str]]] = {}
    level, packed, last = [top], "", _DEPTH
    for depth in range(_DEPTH + 1):
        for folder in level:
            kinds = [kind for kind in SETS if folder.has(kind)] or [kind for kind in GENERAL if folder.has(kind)]
            if not kinds and _has_images(storage, folder):
                kinds = [GENERAL[-1]]
            if GENERAL[0] in kinds:  # its arrow files are its own
                kinds = [GENERAL[0]]
            if _TARS in kinds and all(f"{stem}.tar" in folder.files for stem in _stems(folder, ".parquet")):
                kinds = [_TARS]  # img2dataset writes what it knows of each shard beside it
            for kind in kinds:
                found.setdefault(kind.source, (kind, []))[1].append(folder.path)
            packed = packed or next((posixpath.join(folder.path, name) for name in folder.files if _is_packed(name)), "")
        if found and (depth == last or any(kind in SETS for kind, _ in found.values())):
            break
        if found:
            last = depth + 1
        below = [posixpath.join(folder.path, name) for folder in level for name in folder.folders]
        level = [_look(storage, name) for name in below[:_MOST_FOLDERS]]
    if len(found) == 1:
        kind, places = next(iter(found.values()))
        if kind.goes_deep:
            return Found(kind.source, path, kind.about)
        if kind.has_parts:
            places = [place for place in places if not any(_lies_in(place, other) for other in places)]
        if len(places) == 1:
            return Found(kind.source, f"{path.rstrip('/')}/{places[0]}" if places[0] else path, kind.about)
        raise UserError(f"'{path}' holds {kind.about} in several folders ({_few(places)}); give one of them with --path")
    if found:
        seen = ", ".join(f"{kind.about} in '{places[0] or '.'}' (source {source})" for source, (kind, places) in sorted(found.items()))
        raise UserError(f"'{path}' holds several things: {seen}; say which with --source, or give the folder of one with --path")
    if packed:
        raise _unpack(storage, f"{path.rstrip('/')}/{packed}", posixpath.basename(packed))
    names = [*top.files, *(f"{name}/" for name in top.folders)]
    raise UserError(f"'{path}' holds nothing that is recognized (it has {_few(names)}); {_choices()}")


def _stems(folder: _Folder, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in folder.files if name.endswith(ending)]


def _lies_in(inner: str, outer: str) -> bool:
    return inner != outer and (not outer or inner.startswith(f"{outer}/"))


def _look(storage: Storage, path: str) -> _Folder:
    """The names in a folder, but hidden ones."""
    names = [name for name in storage.glance(path) if not name.startswith((".", "__MACOSX"))]
    files = tuple(name for name in names if not name.endswith("/"))
    return _Folder(path, files, tuple(name.rstrip("/") for name in names if name.endswith("/")))


def _has_images(storage: Storage, folder: _Folder) -> bool:
    """Whether files of whatever name begin as images do."""
    unknown = [name for name in folder.files if not _is_packed(name)][:_MOST_SNIFFED]
    return any(_IMAGE_MAGIC.match(_first_bytes(storage, posixpath.join(folder.path, name))) for name in unknown)


def _first_bytes(storage: Storage, path: str) -> bytes:
    try:
        with storage.open_input(path) as stream:
            return bytes(stream.read(16))
    except (OSError, pa.ArrowException, UnicodeError):  # what cannot be read is told by the source, if it is an image at all
        return b""


def _is_packed(name: str) -> bool:
    return re.fullmatch(rf"{_PACKED}|{_KNOWN_PACKED}", name, re.IGNORECASE) is not None


def _unpack(storage: Storage, path: str, name: str) -> UserError:
    """The error for a packed archive, with the command that unpacks it."""
    folder = re.sub(r"(\.tar)?\.\w+$", "", name)
    archive = shlex.quote(path if storage.is_local else name)
    tar = f"mkdir -p {shlex.quote(folder)} && tar -xf {archive} -C {shlex.quote(folder)}"
    others = {".zip": f"unzip -q {archive} -d {shlex.quote(folder)}", ".7z": f"7z x -o{shlex.quote(folder)} {archive}"}
    command = others.get(posixpath.splitext(name)[1].lower(), tar)
    fetch = "" if storage.is_local else "download it, "
    shards = ", or --source webdataset where it holds WebDataset's shards" if name.lower().endswith(_PACKED_TARS) else ""
    return UserError(f"'{path}' is a packed archive; {fetch}unpack it ({command}) and give --path {shlex.quote(folder)}{shards}")


def _choices() -> str:
    sources = ", ".join(dict.fromkeys(kind.source for kind in (*SETS, *GENERAL)))
    return f"give a folder with images, or files of a known set, or say what it is with --source ({sources})"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
