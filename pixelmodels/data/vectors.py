"""A Parquet file with a vector for each image, such as an embedding: columns `key` (string) and `vector` (list of floats)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pixelmodels.data.shards import decode_vectors
from pixelmodels.data.source import sha256_of
from pixelmodels.errors import UserError, first_line
from pixelmodels.storage import Storage, why

_ROWS_AT_A_TIME = 4096
_EVERY_HOST = ", where every host sees it"


class VectorFile:
    """Such a file, at a local path or s3://bucket/key; picklable, and read on the workers row group by row group."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder, _, self.name = path.rpartition("/")
        if self.name in ("", ".", "..") or folder.endswith(":/"):
            raise self._wrong("name no file")
        self.storage = Storage(folder or ("/" if path.startswith("/") else "."))

    def digest(self) -> str:
        """SHA-256 of the file; raises `UserError` when it cannot be read."""
        with self._open() as stream:
            return sha256_of(stream)

    def survey(self, keys: Sequence[str]) -> tuple[int, list[int]]:
        """Length of the vectors, and the row of each key.

        Raises `UserError`, with all counts, when a key has none or several, or vectors have several lengths or values that are not finite.
        """
        wanted, rows = set(keys), dict[str, int]()
        size, start, num_twice, num_lengths, num_infinite = 0, 0, 0, 0, 0
        for batch in self._batches():
            lengths_N = pc.fill_null(pc.list_value_length(batch["vector"]), 0).to_numpy(zero_copy_only=False)
            size = size or int(lengths_N[0])
            fit_N = lengths_N == size
            num_lengths += int((~fit_N).sum())
            if size:
                vectors_NV = decode_vectors(batch["vector"].filter(pa.array(fit_N)), size)
                num_infinite += int((~np.isfinite(vectors_NV)).any(1).sum())
            for row, key in enumerate(batch["key"].to_pylist(), start):
                num_twice += key in rows
                if key in wanted:
                    rows[key] = row
            start += batch.num_rows
        missing = [key for key in keys if key not in rows]
        wrong = [
            f"{len(missing)} of {len(keys)} images have no vector (the first is '{missing[0]}')" if missing else "",
            f"{num_twice} images have more than one vector" if num_twice else "",
            f"{num_lengths} vectors are not of length {size}, as the first one is" if num_lengths else "",
            f"{num_infinite} vectors have values that are not finite float32 numbers" if num_infinite else "",
            "its vectors are empty" if start and not size else "",
        ]
        if told := "; ".join(filter(None, wrong)):
            raise UserError(f"vectors '{self.path}' do not fit the images: {told}; give one vector for each image's key, all of one length")
        return size, [rows[key] for key in keys]

    def read(self, rows: Sequence[int], size: int) -> npt.NDArray[np.float32]:
        """The vectors of some rows, in their order: N, V. Only the row groups that hold them are read, one at a time."""
        file, rows_N = self._file(), np.asarray(rows, np.int64)
        vectors_NV = np.empty((len(rows_N), size), np.float32)
        stop = 0
        for group in range(file.num_row_groups):
            start, stop = stop, stop + file.metadata.row_group(group).num_rows
            (places,) = np.nonzero((rows_N >= start) & (rows_N < stop))
            if len(places):
                column = file.read_row_group(group, columns=["vector"])["vector"]
                vectors_NV[places] = decode_vectors(column.take(pa.array(rows_N[places] - start)), size)
        return vectors_NV

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file().iter_batches(batch_size=_ROWS_AT_A_TIME, columns=["key", "vector"])
        except (OSError, pa.ArrowException) as error:
            raise self._wrong(f"cannot be read ({why(error)})", _EVERY_HOST) from error

    def _file(self) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self._open())
        except pa.ArrowException as error:
            raise self._wrong(f"are no Parquet file ({first_line(error)})") from error
        types = {field.name: field.type for field in file.schema_arrow}
        key, vector = types.get("key", pa.null()), types.get("vector", pa.null())
        if not (pa.types.is_string(key) or pa.types.is_large_string(key)):
            raise self._wrong("have no column 'key' of strings")
        is_list = isinstance(vector, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
        if not is_list or not pa.types.is_floating(vector.value_type):
            raise self._wrong("have no column 'vector' of lists of floats")
        return file

    def _open(self) -> pa.NativeFile:
        try:
            return self.storage.open_input(self.name)
        except (OSError, pa.ArrowException) as error:
            raise self._wrong(f"cannot be read ({why(error)})", _EVERY_HOST) from error

    def _wrong(self, what: str, more: str = "") -> UserError:
        return UserError(f"vectors '{self.path}' {what}; give a Parquet file with columns key (string) and vector (list of floats){more}")
