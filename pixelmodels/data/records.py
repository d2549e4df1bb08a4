"""What sources of records share: files with many images each, and with each image its label.

- **Groups.** An image's group is the JSON text of its split and its label: a whole number, a text, or null.
- **Splits** are what the names of the files and of their folders say (`folder_names.splits_of_files`).
- **Classes.** Where the files name them (a schema, or `classes.txt` beside them, a name a line), a label that is a number is the class at
  that place, from 0. Where nobody names them, numbers are the classes 0 to the highest one, and texts are in the order of folders' names.
  -1 and null mean that an image has no label.
- **Units** are what can be read by itself (row groups, record batches), small ones together and very large ones in some pieces.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa

from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.encoded import Arrangement, EncodedSource
from pixelmodels.data.folder_names import in_order, splits_of_files
from pixelmodels.data.source import Listing, files_below, unreadable
from pixelmodels.errors import UserError, listed, unknown
from pixelmodels.storage import FileEntry, Storage

ROWS_PER_UNIT = 256  # blocks with fewer rows are read together
MOST_ROWS = 2048  # a block with more rows is read in pieces, at most MOST_PIECES: each reads it from its start
MOST_PIECES = 8
LARGEST_CLASS = 99_999  # a label that is a higher number is taken for something else
NAMES_FILES = ("classes.txt", "classnames.txt", "class_names.txt")
LABELS = ("label", "labels", "fine_label", "class", "cls", "target", "category", "class_name", "coarse_label", "class_id", "label_id")
_NAMES_BYTES = 1 << 22
_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})(?=[.-])")
_MOST_NUMBERED = 100_000

Label = int | str | None


class RecordSource(EncodedSource):
    """A source of records; raises `UserError` when there is no path, or no file of its kind."""

    name: str  # of the source
    kind: str  # what one of its files is, in words
    endings: tuple[str, ...]  # of its files' names, lower-case
    inputs = "rows"
    hidden: tuple[str, ...] = (".",)  # how the names of files and folders begin that are left out, and counted
    newer_labels: tuple[str, ...] = ()  # names of labels that earlier versions did not take: what they noted of a listing says nothing then

    def __init__(self, config: DatasetConfig) -> None:
        if not config.path:
            raise UserError(
                f"source '{self.name}' needs the folder with its files; give --path FOLDER, s3://bucket/prefix or gs://bucket/prefix"
            )
        if config.label_column is not None and config.labels is False:
            raise UserError(f"label column '{config.label_column}' has no meaning without labels; leave it out, or --labels False")
        super().__init__(config)
        self.storage = Storage(config.path)
        self.with_labels = config.labels
        self.own_splits = config.splits == "auto"
        self.image_column = config.image_column
        self.label_column = config.label_column

    def listing(self) -> Listing:
        """Paths, sizes and times of all files, of any kind, and how they are to be read; see `Source`."""
        entries, num_hidden = self._entries()
        listing = Listing.of(self.storage.root, entries, ("path", "size", "modified_ns", "is_regular"), num_hidden)
        newer = self.newer_labels if self.with_labels is not False and self.label_column is None else ()
        reading = json.dumps([self.with_labels, self.own_splits, self.image_column, self.label_column, *newer])
        return replace(listing, digest=hashlib.sha256(f"{listing.digest}\0{reading}".encode()).hexdigest())

    def files(self, listing: Listing) -> list[FileEntry]:
        """The files that hold images, in the order of their images' keys; raises `UserError` where there are none."""
        found = [entry for entry in listing.entries if self.label_of(entry.path).lower().endswith(self.endings)]
        for entry in found:
            if not entry.is_regular:
                raise UserError(f"'{self.storage.uri(entry.path)}' is no regular file (a broken link?); mend it, or take it out")
        if not found:
            others = f"{len(listing.entries)} other files, such as '{self.label_of(listing.entries[0].path)}'"
            raise UserError(f"'{self.storage.root}' has no {self.kind} ({others}); give a folder with files {', '.join(self.endings)}")
        self._check_all_there([entry.path for entry in found])
        return sorted(found, key=lambda entry: f"{entry.path}/")

    def _check_all_there(self, paths: Sequence[str]) -> None:
        """Raise `UserError` where files are numbered (`train-00000-of-00005.parquet`), and some of the numbers are missing."""
        there: dict[tuple[str, str], set[int]] = {}
        for path in paths:
            if found := _NUMBERED.search(path):
                there.setdefault((path[: found.start()], found[2]), set()).add(int(found[1]))
        for (stem, count), numbers in there.items():
            if missing := sorted(set(range(min(int(count), _MOST_NUMBERED))) - numbers):
                files = f"{len(missing)} of the {int(count)} files '{self.storage.uri(stem)}-*-of-{count}'"
                raise UserError(f"{files} are missing (number {missing[0]}, say); get them too, or give a folder without the others")

    def label_of(self, path: str) -> str:
        """How a file is called in keys: its path, or its name where `--path` is the file itself."""
        return path or posixpath.basename(self.storage.root)

    def splits(self, paths: Sequence[str]) -> list[str | None]:
        """The split of each file."""
        return splits_of_files(paths, self.storage.root) if self.own_splits else [None] * len(paths)

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes as something beside the labels tells them; none where nothing does."""
        name = next((name for name in NAMES_FILES if self.storage.is_file(name)), None)
        if name is None:
            return ()
        with self.reading(name):
            if self.storage.size(name) > _NAMES_BYTES:
                raise UserError(f"'{self.storage.uri(name)}' is too large for names of classes; give a line for each, or take it out")
            lines = self.storage.read_bytes(name).decode("utf-8", "replace").splitlines()
        return tuple(line.strip() for line in lines if line.strip())

    def remedy(self) -> str:
        return f"name the images with --image-column ({self._seen_beside()}), or give other files"

    def seen(self) -> tuple[str, Sequence[str]]:
        """Where the first image is taken from, and what is there beside it."""
        raise NotImplementedError

    def arrange(self, examples: dict[str, str]) -> Arrangement:
        """Splits and labels by group; raises `UserError` where the labels are no classes."""
        told: dict[str, tuple[str | None, Label]] = {group: tuple(json.loads(group)) for group in examples}
        used = {label for _, label in told.values() if label is not None}
        named = self.class_names() if used else ()
        names, index = self._classes(used, named)
        if not used and (self.with_labels or self.label_column is not None):
            where = "" if self.label_column is None else f" in '{self.label_column}'"
            remedy = "name where they are with --label-column, or leave labels out"
            raise UserError(f"no image of '{self.storage.root}' has a label{where} ({self._seen_beside()}); {remedy}")
        remarks: list[str] = []
        if self.with_labels is None and len(names) < 2:
            if used:
                remarks.append(f"no labels are taken: all are {listed(names)}; --labels True takes them")
            elif told:
                without = f"images are taken from {self.seen()[0]}, without labels ({self._seen_beside()})"
                remarks.append(f"{without}; --image-column and --label-column name others")
            names, index = (), {}
        return Arrangement(
            splits={group: split for group, (split, _) in told.items()},
            labels={group: None if label is None else index.get(label) for group, (_, label) in told.items()},
            label_names=names,
            news={"label_names": list(names)} if named and names else {},
            remarks=tuple(remarks),
        )

    def _seen_beside(self) -> str:
        return f"also there: {listed(others)}" if (others := self.seen()[1]) else "nothing else is there"

    def _classes(self, used: set[int | str], named: tuple[str, ...]) -> tuple[tuple[str, ...], dict[int | str, int]]:
        """The names of the classes in order, and the place of each label among them."""
        numbers = sorted(label for label in used if isinstance(label, int))
        texts = {label for label in used if isinstance(label, str)}
        if len(texts) > LARGEST_CLASS + 1:
            many = f"labels of '{self.storage.root}' are {len(texts):,} different texts ({min(texts)[:40]!r}, say), too many for classes"
            raise UserError(f"{many}; name another column with --label-column, or leave labels out (--labels False)")
        if numbers and texts:
            both = f"labels of '{self.storage.root}' are numbers ({numbers[0]}, say) and texts ({min(texts)!r}, say)"
            raise UserError(f"{both}; give them one kind, name another with --label-column, or leave them out (--labels False)")
        names = named or (in_order(texts) if texts else tuple(map(str, range(min(numbers[-1], LARGEST_CLASS) + 1)))) if used else ()
        if numbers and (numbers[0] < 0 or numbers[-1] >= len(names)):
            wrong = numbers[0] if numbers[0] < 0 else numbers[-1]
            have = f"the {len(names)} classes that are named" if named else f"a class (0..{LARGEST_CLASS})"
            remedy = "name the labels' column with --label-column, or leave labels out (--labels False)"
            raise UserError(f"label {wrong} of '{self.storage.root}' is not one of {have}; {remedy}")
        if texts and not texts <= set(names):
            raise unknown(f"class of '{self.storage.root}'", min(texts - set(names)), names)
        places = {name: place for place, name in reversed(list(enumerate(names)))}
        return names, {label: label if isinstance(label, int) else places[label] for label in used}

    def _entries(self) -> tuple[Sequence[FileEntry], int]:
        """All files sorted by path, and how many more are hidden; a path that is a file is one with an empty path."""
        if self.storage.is_file(""):
            filesystem, full = self.storage.fs_and_path()
            info = filesystem.get_file_info(full)
            return [FileEntry("", int(info.size), int(info.mtime_ns or 0))], 0
        return files_below(self.storage, self.kind, f"files {', '.join(self.endings)}", self.hidden)

    @contextmanager
    def reading(self, file: str) -> Iterator[None]:
        """Tell in one line which file cannot be read."""
        try:
            yield
        except FileNotFoundError as error:
            reason = f"'{self.storage.uri(file)}' was listed, but a worker cannot see it"
            raise UserError(f"{reason}; every host must see --path, or the folder changed: run the same command again") from error
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.storage, file, error) from error

    def bad(self, file: str, reason: str) -> UserError:
        """The error for a file that is not what its name says."""
        return UserError(f"'{self.storage.uri(file)}' is no whole {self.kind} ({reason}); get it again, or take it out of the folder")


def group_of(split: str | None, label: Label) -> str:
    """The group of images of a split with a label."""
    return json.dumps([split, label])


def pieces(rows_of_blocks: Iterable[int]) -> Iterator[tuple[int, int, int, int]]:
    """Units of blocks that have so many rows, in their order: the first block, the one after the last, rows to leave out, rows to take."""
    first, rows = 0, 0
    block = -1
    for block, count in enumerate(rows_of_blocks):
        if count > MOST_ROWS:
            if rows:
                yield first, block, 0, rows
            step = max(MOST_ROWS, -(-count // MOST_PIECES))
            for skip in range(0, count, step):
                yield block, block + 1, skip, min(step, count - skip)
            first, rows = block + 1, 0
            continue
        rows += count
        if rows >= ROWS_PER_UNIT:
            yield first, block + 1, 0, rows
            first, rows = block + 1, 0
    if rows:
        yield first, block + 1, 0, rows
