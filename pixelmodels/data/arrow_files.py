"""Sources whose images are columns of Arrow's tables: Arrow files opened, and rows of them as images and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from pixelmodels.data.arrow_messages import FEATHER_1, Outline, outline
from pixelmodels.data.columns import ROWS_AT_A_TIME, Columns, contents
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.records import Label, RecordSource
from pixelmodels.errors import UserError, first_line

FILES_AT_A_TIME = 16  # that the driver looks at


class ArrowSource(RecordSource):
    """A source of tables with a column of images; see `RecordSource`."""

    newer_labels = ("y",)

    def first_columns(self) -> Columns:
        """The columns of the first file."""
        raise NotImplementedError

    def class_names(self) -> tuple[str, ...]:
        """As the first file's schema, or its features, tell them, or a file beside."""
        return self.first_columns().class_names or super().class_names()

    def seen(self) -> tuple[str, Sequence[str]]:
        """The column of images, and the others."""
        columns = self.first_columns()
        return f"column '{columns.image}'", columns.others

    @contextmanager
    def opened(self, file: str) -> Iterator[pa.NativeFile]:
        """A file of which it is known already what lies where; local ones as memory."""
        with self.whole(file), pa.memory_map(self.storage.uri(file)) if self.storage.is_local else self.storage.open_input(file) as stream:
            yield stream

    @contextmanager
    def outlined(self, file: str) -> Iterator[tuple[pa.NativeFile, Outline]]:
        """An Arrow stream or file, and where its schema and batches are: all its messages are looked at."""
        with self.whole(file):
            size = self.storage.size(file)
            if size < len(FEATHER_1):
                raise ValueError(f"{size} bytes")
            stream = pa.memory_map(self.storage.uri(file)) if self.storage.is_local else self.storage.open_input(file)
            with stream:
                if bytes(stream.read(len(FEATHER_1))) == FEATHER_1:
                    raise ValueError("Feather of version 1, which pyarrow.feather.write_feather(..., version=2) writes anew")
                yield stream, outline(stream, size)

    def check_same(self, files: Sequence[tuple[str, str | None, Columns]]) -> None:
        """Raise `UserError` where files have images or labels in different columns; of a whole split there may be no labels.

        Args: `files`, each with its split and its columns.
        """
        labelled = [(file, columns) for file, _, columns in files if columns.label is not None]
        of_split: dict[str | None, tuple[str, Columns]] = {}
        for file, split, columns in files:
            first = files[0][2]
            if (columns.image, columns.shape) != (first.image, first.shape):
                raise self._differ(files[0][0], file, f"images in columns '{first.image}' and '{columns.image}', or of other shapes")
            other, beside = of_split.setdefault(split, (file, columns))
            if (beside.label is None) != (columns.label is None):
                raise self._differ(other, file, "labels in one of them only")
        for file, columns in labelled:
            other, first = labelled[0]
            if (columns.label, columns.class_names) != (first.label, first.class_names):
                raise self._differ(other, file, f"labels in columns '{first.label}' and '{columns.label}', or other names of classes")

    def _differ(self, file: str, other: str, how: str) -> UserError:
        files = f"'{self.label_of(file)}' and '{self.label_of(other)}' of '{self.storage.root}'"
        remedy = "give files of one schema, name the columns with --image-column and --label-column, or leave labels out (--labels False)"
        return UserError(f"{files} have different columns ({how}); {remedy}")

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
