"""Sources whose images are columns of Arrow's tables: Arrow files opened, and rows of them as images and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from pixelmodels.data.arrow_messages import FEATHER_1, Outline, outline, read_schema
from pixelmodels.data.columns import ROWS_AT_A_TIME, Columns, contents
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.records import Label, RecordSource
from pixelmodels.errors import first_line

FILES_AT_A_TIME = 16  # that the driver looks at


class ArrowSource(RecordSource):
    """A source of tables with a column of images; see `RecordSource`."""

    @contextmanager
    def open_arrow(self, file: str) -> Iterator[tuple[pa.NativeFile, pa.Schema, Outline]]:
        """An Arrow stream or file (local ones as memory), its schema and where its batches are; `UserError` where it is none."""
        with self.whole(file):
            size = self.storage.size(file)
            if size < len(FEATHER_1):
                raise ValueError(f"{size} bytes")
            stream = pa.memory_map(self.storage.uri(file)) if self.storage.is_local else self.storage.open_input(file)
            with stream:
                if bytes(stream.read(len(FEATHER_1))) == FEATHER_1:
                    raise ValueError("Feather of version 1, which pyarrow.feather.write_feather(..., version=2) writes anew")
                found = outline(stream, size)
                yield stream, read_schema(stream, found), found

    @contextmanager
    def whole(self, file: str) -> Iterator[None]:
        """Tell in one line of a file that is damaged, or cannot be read."""
        with self.reading(file):
            try:
                yield
            except (pa.ArrowException, ValueError) as error:
                raise self.bad(file, first_line(error)) from error

    def rows_of(
        self, batches: Iterable[pa.RecordBatch], columns: Columns, skip: int, count: int, file: str
    ) -> Iterator[tuple[bytes | BadImage, Label]]:
        """Image and label of `count` rows after the first `skip`; raises `UserError` where there are fewer."""
        for batch in batches:
            part = batch.slice(min(skip, batch.num_rows), count)
            skip = max(0, skip - batch.num_rows)
            for start in range(0, part.num_rows, ROWS_AT_A_TIME):
                yield from contents(part.slice(start, ROWS_AT_A_TIME), columns, self.most_bytes)
            count -= part.num_rows
            if not count:
                return
        raise self.bad(file, f"{count} rows fewer than it says")
