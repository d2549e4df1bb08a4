"""Arrow's IPC streams and files: where their record batches are, found without reading them, and some of the batches read.

Format: "Arrow Columnar Format", section "Serialization and Interprocess Communication" (arrow.apache.org/docs/format). A stream is
messages: a marker of four bytes 0xFF (older writers: none), the length of the metadata, the metadata (a FlatBuffers table `Message`), and a
body of as many bytes as the metadata say. The schema comes first, and metadata of length 0 end it. A file is a stream between a magic and a
footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

MAGIC = b"ARROW1\0\0"
FEATHER_1 = b"FEA1"
_MARKER = 0xFFFFFFFF
_MOST_METADATA = 1 << 28  # bytes; a schema with more is none
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of `Message`
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # what a message may be
_ROWS = 0  # field of `RecordBatch`

Span = tuple[int, int]  # of bytes of a file: the first, and the one after the last


@dataclass(frozen=True)
class Outline:
    """Where the messages of a stream are."""

    schema: Span
    dictionaries: list[Span]
    batches: list[Span]
    rows: list[int]  # of each batch


def outline(stream: pa.NativeFile, size: int) -> Outline:
    """Find the messages of an Arrow stream or file of `size` bytes; raises `ValueError` that says what is wrong with it."""
    start = 8 if _at(stream, 0, min(8, size)) == MAGIC else 0
    schema, dictionaries, batches, rows = None, list[Span](), list[Span](), list[int]()
    while (message := _message(stream, start, size)) is not None:
        kind, num_rows, stop = message
        if schema is None:
            if kind != _SCHEMA:
                raise ValueError("it does not begin with a schema")
            schema = (start, stop)
        elif kind == _DICTIONARY:
            dictionaries.append((start, stop))
        elif kind == _BATCH:
            batches.append((start, stop))
            rows.append(num_rows)
        else:
            raise ValueError(f"a message of type {kind} among its record batches")
        start = stop
    if schema is None:
        raise ValueError("no schema")
    return Outline(schema, dictionaries, batches, rows)


def spans_of(found: Outline, first: int, stop: int) -> list[Span]:
    """What has to be read for the record batches from `first` to before `stop`, one or more: the schema, dictionaries, the batches."""
    span = (found.batches[first][0], found.batches[stop - 1][1])
    return [found.schema, *(dictionary for dictionary in found.dictionaries if dictionary[0] < span[0]), span]


def read_batches(stream: pa.NativeFile, spans: Sequence[Span], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of record batches, one at a time; raises `pa.ArrowException`, `ValueError`. Args: `spans`, see `spans_of`."""
    wanted = [read_schema(stream, spans[0]).get_field_index(name) for name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=wanted)
    with pa.ipc.open_stream(pa.PythonFile(_Spans(stream, list(spans)), "r"), options=options) as reader:
        for batch in reader:
            batch.validate(full=True)  # it may be anybody's: nothing in it points outside of it
            yield batch


def read_schema(stream: pa.NativeFile, span: Span) -> pa.Schema:
    """The schema that lies there."""
    return pa.ipc.read_schema(pa.BufferReader(_at(stream, span[0], span[1] - span[0])))


class _Spans:
    """Some spans of a file as one file to read, as `pa.PythonFile` takes it; nothing is copied of a file in memory."""

    def __init__(self, stream: pa.NativeFile, spans: list[Span]) -> None:
        self._stream = stream
        self._spans = spans[::-1]
        self.closed = False

    def read_buffer(self, count: int) -> pa.Buffer:
        """The next bytes, as many as there are of those asked for."""
        parts = []
        while count and self._spans:
            start, stop = self._spans.pop()
            length = min(count, stop - start)
            self._stream.seek(start)
            parts.append(self._stream.read_buffer(length))
            count -= length
            if start + length < stop:
                self._spans.append((start + length, stop))
        return parts[0] if len(parts) == 1 else pa.py_buffer(b"".join(bytes(part) for part in parts))

    def read(self, count: int) -> bytes:
        """The same, copied."""
        return bytes(self.read_buffer(count))

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def close(self) -> None:
        """The file itself stays open."""
        self.closed = True


def _at(stream: pa.NativeFile, start: int, length: int) -> bytes:
    stream.seek(start)
    data = bytes(stream.read(length))
    if len(data) < length:
        raise ValueError("it is cut off")
    return data


def _message(stream: pa.NativeFile, start: int, size: int) -> tuple[int, int, int] | None:
    """What the message at `start` is, the rows of a record batch, and where the message ends; None at the end of the stream."""
    if start + 8 > size:
        if size - start == 4 and _at(stream, start, 4) == bytes(4):  # the end as older writers mark it
            return None
        raise ValueError("it ends without an end mark: it is cut off" if start else "it is too short")
    first, second = struct.unpack("<Ii", _at(stream, start, 8))
    length, head = (second, 8) if first == _MARKER else (first, 4)
    if length == 0:
        return None
    if not 0 < length <= _MOST_METADATA:
        raise ValueError("it is no Arrow stream or file")
    if start + head + length > size:
        raise ValueError("it is cut off" if start or first == _MARKER else "it is no Arrow stream or file")
    metadata = _at(stream, start + head, length)
    try:
        table = _table(metadata, 0)
        kind = _field(metadata, table, _HEADER_TYPE, "B")
        body_length = _field(metadata, table, _BODY_LENGTH, "q")
        rows = 0
        if kind == _BATCH:
            rows = _field(metadata, _table(metadata, _place(metadata, table, _HEADER)), _ROWS, "q")
    except (struct.error, IndexError) as error:
        raise ValueError("a message that is damaged") from error
    stop = start + head + length + body_length
    if body_length < 0 or rows < 0 or stop > size:
        raise ValueError("it is cut off")
    return kind, rows, stop


# FlatBuffers: a table begins with how far before it its list of fields is; that is two bytes for its own length, two for the table's, and
# two for each field: where in the table it is, 0 where it has its default, which is 0 for all that are asked for here.


def _table(data: bytes, place: int) -> int:
    """Where the table is that the number at `place` points to."""
    return place + _number(data, place, "I")


def _place(data: bytes, table: int, field: int) -> int:
    """Where a field of a table is; 0 where it has its default."""
    fields = table - _number(data, table, "i")
    entry = 4 + 2 * field
    offset = _number(data, fields + entry, "H") if entry < _number(data, fields, "H") else 0
    return table + offset if offset else 0


def _field(data: bytes, table: int, field: int, form: str) -> int:
    place = _place(data, table, field)
    return _number(data, place, form) if place else 0


def _number(data: bytes, place: int, form: str) -> Any:
    if place < 0:
        raise IndexError(place)
    return struct.unpack_from(f"<{form}", data, place)[0]
