"""WebDataset's tar shards: members whose names are the same up to the last part's first dot are a sample, and follow one another.

Format: Aizman, Maltby and Breuel, arXiv:2001.01858, section 3, and the library `webdataset`. Shards end in `.tar`, `.tar.gz` or `.tgz`.

- **Image**: the member that ends as image files do (`.jpg`, `.png`, ...), or as `--image-column` says (`left.png`). Of an ending with more
  dots (`image.png`) it is the only one. A sample with several is an error, one with none is put aside.
- **Label**: the text of `.cls`, a whole number or a name; else a field of the `.json` member, one of the usual names of labels. With
  `--label-column NAME` it is the member that ends so, or that field. Nothing else is read: no arrays and no pickles.
- A key is `<shard>/<sample>`. A sample that comes again later in its shard is put aside: its members do not follow one another. So is one
  whose image is a link or a device. Members whose name begins with a dot are left out.
- Nothing is unpacked to disk. A shard that is cut off, or goes on after its end mark, is an error: nobody knows what it lacks.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pixelmodels.data.columns import label_of
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.encoded import Encoded
from pixelmodels.data.parallel import Record
from pixelmodels.data.records import LABELS, Label, RecordSource, group_of
from pixelmodels.data.source import Listing
from pixelmodels.errors import UserError, first_line

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "tga", "jp2", "avif")
TARS = (".tar", ".tar.gz", ".tgz")
_OTHER_PACKING = (".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tbz2", ".txz")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)(?:\.([^/]*))?", re.DOTALL)  # sample, and the ending
_TEXT_BYTES, _JSON_BYTES, _HEADER_BYTES = 4096, 4 << 20, 1 << 20  # of a label, of what is told of a sample, of a long name
_MOST_IMAGES = 64  # of a sample
_BUFFER_BYTES = 4 << 20
_GZIP = b"\x1f\x8b"
_LOOKED_AT = 100  # samples, for what messages tell
_DAMAGES = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, IndexError, OverflowError)
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Damaged(Exception):
    """A tar file that is not whole, and why."""


class _Member(tarfile.TarInfo):
    """A member whose header is what it should be: `tarfile` takes a header that is damaged for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> _Member:
        try:
            member = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise _Damaged("it ends without its end mark: it is cut off" if not buf else first_line(error)) from error
        if member.size < 0 or (member.type in _EXTENDED and member.size > _HEADER_BYTES):
            raise _Damaged(f"a header of {member.size} bytes")
        return member


@dataclass
class _Sample:
    """What is found of a sample."""

    name: str
    endings: list[str] = field(default_factory=list)  # of its members
    images: dict[str, bytes | BadImage] = field(default_factory=dict)  # by ending
    texts: dict[str, bytes | BadImage] = field(default_factory=dict)  # members that may hold its label, by ending


class WebDataset(RecordSource):
    """Source `webdataset`."""

    name = "webdataset"
    kind = "tar shard"
    endings = TARS
    inputs = "samples"

    def units(self, listing: Listing) -> list[Record]:
        """The shards, each with its split."""
        for entry in listing.entries:
            if self.label_of(entry.path).lower().endswith(_OTHER_PACKING):
                raise UserError(f"'{self.storage.uri(entry.path)}' is packed in a way that is not read; give it as .tar or .tar.gz")
        paths = [entry.path for entry in self.files(listing)]
        splits = self.splits([self.label_of(path) for path in paths])
        return [{"file": path, "split": split} for path, split in zip(paths, splits, strict=True)]

    def read(self, unit: Record) -> Iterator[Encoded]:
        """The images of a shard, in its order."""
        shard, seen = self.label_of(unit["file"]), set[str]()
        for number, sample in enumerate(self._samples(unit["file"])):
            key = f"{shard}/{sample.name}".encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if sample.name in seen:
                yield Encoded(f"{key}#{number}", BadImage("its members do not follow one another, or two samples have its name"))
                continue
            seen.add(sample.name)
            data, label = self._image(sample, unit["file"]), self._label(sample)
            if isinstance(label, BadImage):
                data, label = (data if isinstance(data, BadImage) else label), None
            yield Encoded(key, data, group_of(unit["split"], label))

    def seen(self) -> tuple[str, Sequence[str]]:
        """The ending of the first sample's image, and its other endings and the fields of its JSON member.

        It is the first one that has an image, of some; where none of them has, the very first.
        """
        samples = (sample for entry in self.files(self.listing()) for sample in self._samples(entry.path))
        some = list(islice(samples, _LOOKED_AT)) or [_Sample("")]
        sample = next((sample for sample in some if sample.images), some[0])
        image, fields = next(iter(sample.images), None), self._fields(sample)
        fields = fields if isinstance(fields, dict) else {}
        others = [ending for ending in sample.endings if ending != image and not (ending == "json" and fields)]
        return f"members '.{image}'", [*others, *fields]

    # --- a sample ---

    def _image(self, sample: _Sample, file: str) -> bytes | BadImage:
        plain = [ending for ending in sample.images if ending == self.image_column or (self.image_column is None and ending in IMAGES)]
        endings = plain or ([] if self.image_column else list(sample.images))
        if len(endings) > 1:
            raise self._several(sample, endings, file)
        if endings:
            return sample.images[endings[0]]
        members = ", ".join(filter(None, sample.endings[:8])) or "none with an ending"
        return BadImage(f"no image among its members ({members})", "no image")

    def _several(self, sample: _Sample, endings: list[str], file: str) -> UserError:
        several = f"sample '{sample.name}' of '{self.storage.uri(file)}' has several images ({', '.join(endings)})"
        return UserError(f"{several}; say which with --image-column, such as --image-column {endings[0]}")

    def _label(self, sample: _Sample) -> Label | BadImage:
        """The label of a sample, or why it has none that can be understood."""
        if self.with_labels is False:
            return None
        ending = self.label_column or "cls"
        if (text := sample.texts.get(ending)) is not None and ending != "json":
            return text if isinstance(text, BadImage) else _label_in(text)
        fields = self._fields(sample)
        if not isinstance(fields, dict):
            return fields
        if self.label_column is not None:
            return label_of(fields.get(self.label_column))
        return label_of(next((fields[name] for name in LABELS if not isinstance(fields.get(name, []), list | dict)), None))

    def _fields(self, sample: _Sample) -> dict[str, Any] | BadImage | None:
        """What the JSON member of a sample holds by name, or why there is nothing."""
        told = sample.texts.get("json")
        if told is None or isinstance(told, BadImage):
            return told
        try:
            fields = json.loads(told)
        except (ValueError, RecursionError):
            return BadImage("its .json is no JSON")
        return fields if isinstance(fields, dict) else None

    def _is_image(self, ending: str) -> bool:
        return ending == self.image_column if self.image_column else ending.rpartition(".")[2] in IMAGES

    def _most_text(self, ending: str) -> int:
        """Bytes that are read at most of a member for its label; 0: it holds none."""
        if self.with_labels is False:
            return 0
        return _JSON_BYTES if ending == "json" else _TEXT_BYTES if ending == (self.label_column or "cls") else 0

    # --- a shard ---

    def _samples(self, file: str) -> Iterator[_Sample]:
        sample: _Sample | None = None
        for name, ending, data in self._members(file):
            if sample is None or sample.name != name:
                if sample is not None:
                    yield sample
                sample = _Sample(name)
            if ending in sample.endings:
                data = BadImage(f"two of its members are called '.{ending}'")
            else:
                sample.endings.append(ending)
            if data is not None and self._is_image(ending):
                sample.images[ending] = data
                if len(sample.images) > _MOST_IMAGES:  # they are held until the sample's last member
                    raise self._several(sample, list(sample.images)[:8], file)
            elif data is not None:
                sample.texts[ending] = data
        if sample is not None:
            yield sample

    def _members(self, file: str) -> Iterator[tuple[str, str, bytes | BadImage | None]]:
        """Sample, ending and content of each member, in the order of the shard; None: a member that is not needed."""
        with self._open(file) as (stream, tar):
            offset = -1
            while (member := tar.next()) is not None:
                if member.offset <= offset:
                    raise _Damaged("a member that lies before another one")
                offset = member.offset
                tar.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                found = _NAME.fullmatch(member.name)
                if found and not member.isdir():
                    ending = (found[2] or "").lower()
                    limit = self.most_bytes if self._is_image(ending) else self._most_text(ending)
                    yield found[1], ending, _content(tar, member, limit) if limit else None
            while piece := stream.read(_BUFFER_BYTES):
                if piece.strip(b"\0"):
                    raise _Damaged("it goes on after its end mark")

    @contextmanager
    def _open(self, file: str) -> Iterator[tuple[Any, tarfile.TarFile]]:
        """A shard as a stream of its unpacked bytes, and as a tar file; tells in one line what is wrong with it."""
        with self.reading(file), self.storage.open_input(file) as raw:
            stream: Any = io.BufferedReader(raw, _BUFFER_BYTES)
            try:
                if stream.peek(2)[:2] == _GZIP:
                    stream = io.BufferedReader(gzip.GzipFile(fileobj=stream), _BUFFER_BYTES)
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as tar:
                    yield stream, tar
            except (_Damaged, *_DAMAGES) as error:
                raise self.bad(file, first_line(error)) from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, most_bytes: int) -> bytes | BadImage:
    if not member.isreg():
        return BadImage("a link, a device or the like, and no file", "unreadable")
    if member.size > most_bytes:
        return BadImage(f"{member.size} bytes are too many", "too large")
    stream = tar.extractfile(member)
    data = stream.read() if stream is not None else b""
    if len(data) < member.size:
        raise _Damaged("it is cut off")
    return data


def _label_in(text: bytes) -> Label | BadImage:
    """The label that a text is: a whole number as numbers are written, or a name, such as 007."""
    try:
        label = text.decode().strip()
    except UnicodeError:
        return BadImage("its label is no text")
    return label_of(int(label) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", label) else label)
