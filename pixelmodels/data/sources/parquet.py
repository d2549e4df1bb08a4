"""Parquet and Arrow files with a column of images, as Hugging Face's hub, Spark and pandas have them; one file or many, at any depth.

- Files end in `.parquet` (`.pq`), or in `.arrow`, `.feather`, `.ipc` (Arrow's streams and files, Feather 2); others are left alone, and
  what begins with a dot or an underscore is left out: Spark keeps there what is not finished.
- A key is `<file>/<row>`: unique and always the same, which the paths that some writers put beside images are not.
- Which columns hold images and labels is in `columns.py`. A label that lies in the name of a folder (`label=cat/`, Hive's way) counts where
  the files have no such column. Files of a whole split may have no labels, as the test images of competitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pixelmodels.data.arrow_files import FILES_AT_A_TIME, ArrowSource
from pixelmodels.data.arrow_messages import Outline, read_batches, read_schema, spans_of
from pixelmodels.data.columns import BYTES_AT_A_TIME, ROWS_AT_A_TIME, Columns, choose, features_of
from pixelmodels.data.decoding import BadImage
from pixelmodels.data.encoded import Encoded
from pixelmodels.data.parallel import Record
from pixelmodels.data.records import LABELS, Label, group_of, pieces
from pixelmodels.data.source import Listing
from pixelmodels.errors import UserError

PARQUET = (".parquet", ".pq", ".parq")
ARROW = (".arrow", ".feather", ".ipc")
_SAVED = ("state.json", "dataset_dict.json")  # files of a data set of Hugging Face's that was saved to disk
_NULL = "__HIVE_DEFAULT_PARTITION__"  # how the folder is called of rows without a label
_BUFFER_BYTES = 8 << 20  # that are read at a time of a column, however large a row group is


class Parquet(ArrowSource):
    """Source `parquet`."""

    name = "parquet"
    kind = "Parquet or Arrow file"
    endings = (*PARQUET, *ARROW)
    hidden = (".", "_")

    def units(self, listing: Listing) -> list[Record]:
        """Row groups or record batches: file, split, the label in its path, which ones, rows to leave out and to take, the first row."""
        self._refuse_mixtures(listing)
        paths = [entry.path for entry in self.files(listing)]
        with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
            looks = list(pool.map(self._look, paths))
        splits = self.splits([self.label_of(path) for path in paths])
        self.check_same([(path, split, columns) for path, split, (columns, _, _) in zip(paths, splits, looks, strict=True)])
        units = []
        for path, split, (_, rows_of_blocks, found) in zip(paths, splits, looks, strict=True):
            row, of_file = 0, {"file": path, "split": split, "given": self._label_in_path(path)}
            for first, stop, skip, rows in pieces(rows_of_blocks):
                where = {"groups": [first, stop]} if found is None else {"spans": spans_of(found, first, stop)}
                units.append(of_file | where | {"skip": skip, "rows": rows, "row": row})
                row += rows
        if not units:
            raise UserError(f"the {len(paths)} files of '{self.storage.root}' hold no rows; give files with images")
        return units

    def read(self, unit: Record) -> Iterator[Encoded]:
        """The images of some rows of a file, a few rows at a time."""
        row = unit["row"]
        for data, label in self._rows(unit):
            label = unit["given"] if unit["given"] is not None else label
            yield Encoded(f"{self.label_of(unit['file'])}/{row:07d}", data, group_of(unit["split"], label))
            row += 1

    def first_columns(self) -> Columns:
        return self._look(self.files(self.listing())[0].path)[0]

    # --- one file ---

    def _look(self, file: str) -> tuple[Columns, list[int], Outline | None]:
        """Its columns, the rows of each row group or record batch, and where the batches of an Arrow file are."""
        if self._is_arrow(file):
            with self.outlined(file) as (stream, found):
                return self._columns(read_schema(stream, found.schema), file), found.rows, found
        with self._open_parquet(file) as parquet:
            groups = range(parquet.num_row_groups)
            return self._columns(parquet.schema_arrow, file), [parquet.metadata.row_group(group).num_rows for group in groups], None

    def _rows(self, unit: Record) -> Iterator[tuple[bytes | BadImage, Label]]:
        file = unit["file"]
        if self._is_arrow(file):
            with self.opened(file) as stream:
                columns = self._columns(read_schema(stream, unit["spans"][0]), file)
                batches = read_batches(stream, unit["spans"], columns.names)
                yield from self.rows_of(batches, columns, unit["skip"], unit["rows"], file)
            return
        first, stop = unit["groups"]
        with self._open_parquet(file) as parquet:
            columns = self._columns(parquet.schema_arrow, file)
            groups = [parquet.metadata.row_group(group) for group in range(first, stop)]
            largest = max(group.total_byte_size // max(1, group.num_rows) for group in groups)  # bytes of a row
            rows = max(1, min(ROWS_AT_A_TIME, BYTES_AT_A_TIME // max(1, largest)))
            batches = parquet.iter_batches(batch_size=rows, row_groups=range(first, stop), columns=columns.names, use_threads=False)
            yield from self.rows_of(batches, columns, unit["skip"], unit["rows"], file)

    @contextmanager
    def _open_parquet(self, file: str) -> Iterator[pq.ParquetFile]:
        with self.whole(file), self.storage.open_input(file) as stream, pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES) as parquet:
            yield parquet

    def _is_arrow(self, file: str) -> bool:
        return self.label_of(file).lower().endswith(ARROW)

    def _columns(self, schema: pa.Schema, file: str) -> Columns:
        return choose(schema, features_of(schema), self, file, wants_label=self._label_in_path(file) is None)

    # --- all files ---

    def _refuse_mixtures(self, listing: Listing) -> None:
        """Raise `UserError` for files whose images another source, or nobody, can tell to be there once."""
        names = [entry.path.rpartition("/")[2] for entry in listing.entries]
        if any(name in _SAVED for name in names):
            raise UserError(f"'{self.storage.root}' is a data set that Hugging Face's save_to_disk wrote; give --source huggingface")
        if len({self._is_arrow(entry.path) for entry in self.files(listing)}) > 1:
            both = f"'{self.storage.root}' holds Parquet and Arrow files, which may be the same images twice"
            raise UserError(f"{both}; give a folder of one kind")

    def _label_in_path(self, path: str) -> Label:
        """The label that a folder's name gives, as `label=cat`; None where none does, or it is not asked for."""
        told = dict(part.split("=", 1) for part in path.split("/")[:-1] if "=" in part)
        wanted = [self.label_column] if self.label_column else LABELS
        label = None if self.with_labels is False else next((told[name] for name in wanted if name in told), _NULL)
        return None if label in (None, _NULL) else unquote(label)  # Hive packs what a folder's name cannot hold
