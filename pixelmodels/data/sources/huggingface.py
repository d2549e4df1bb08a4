"""A data set that Hugging Face's `datasets` saved with `save_to_disk`: one data set, or the several splits of a `DatasetDict`.

Format: `dataset_dict.json` names the splits, each of which is a folder; in a data set's folder `state.json` names its Arrow streams (and
those of older versions' mapping of rows, where it has one), and `dataset_info.json` says what its columns are. Only these are read: no
code, and no pickles. A key is `<split>/<row>`, or `<row>` of a single data set: the row in the data set, wherever it is stored. Images come
in the order in which they are stored, so that each record batch is read once, also where a mapping has another order.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelmodels.data.arrow_files import FILES_AT_A_TIME, ArrowSource
from pixelmodels.data.arrow_messages import Outline, read_batches, read_schema, spans_of
from pixelmodels.data.columns import Columns, Features, choose, features_of
from pixelmodels.data.encoded import Encoded
from pixelmodels.data.parallel import Record
from pixelmodels.data.records import group_of, pieces
from pixelmodels.data.source import Listing
from pixelmodels.errors import UserError

SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_MAPPINGS = ("_indices_files", "_indices_data_files")  # what older versions call it
_JSON_BYTES = 64 << 20


class HuggingFace(ArrowSource):
    """Source `huggingface`."""

    name = "huggingface"
    kind = "data set saved with save_to_disk"
    endings = (".arrow",)

    def units(self, listing: Listing) -> list[Record]:
        """Record batches: split, the folder and file, where they are, rows to leave out and to take, the first row's place; and, of
        a mapping, pairs of a row of the unit and its place in the data set."""
        folders = self._folders()
        splits = dict(zip(folders, self.splits([f"{name}/data" if name else "data" for name in folders]), strict=True))
        units, seen = list[Record](), list[tuple[str, str | None, Columns]]()
        for name in folders:
            files = self._files_of(name, "_data_files")
            with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
                looks = list(pool.map(lambda file, name=name: self._look(file, name), files))
            seen += [(file, name, columns) for file, (columns, _) in zip(files, looks, strict=True)]
            mapping = self._mapping(name, sum(sum(found.rows) for _, found in looks))
            units += self._units_of(name, splits[name], files, [found for _, found in looks], mapping)
        self.check_same(seen)
        if not units:
            raise UserError(f"data set '{self.storage.root}' has no rows; give one with images")
        return units

    def read(self, unit: Record) -> Iterator[Encoded]:
        """The images of some rows of a file, in the order in which they are stored."""
        file, name = unit["file"], unit["folder"]
        prefix = f"{name}/" if name else ""
        with self.opened(file) as stream:
            schema = read_schema(stream, unit["spans"][0])
            columns = choose(schema, self._features(name) or features_of(schema), self, file)
            rows = self.rows_of(read_batches(stream, unit["spans"], columns.names), columns, unit["skip"], unit["rows"], file)
            places: dict[int, list[int]] = defaultdict(list)  # in the data set, of each row here
            for row, place in unit["taken"] or ((row, unit["row"] + row) for row in range(unit["rows"])):
                places[row].append(place)
            for row, (data, label) in enumerate(rows):
                for place in places[row]:
                    yield Encoded(f"{prefix}{place:07d}", data, group_of(unit["split"], label))

    def first_columns(self) -> Columns:
        name = self._folders()[0]
        return self._look(self._files_of(name, "_data_files")[0], name)[0]

    def _units_of(
        self, name: str, split: str | None, files: list[str], outlines: list[Outline], mapping: npt.NDArray[np.int64] | None
    ) -> Iterator[Record]:
        order = None if mapping is None else np.argsort(mapping, kind="stable")
        row = 0
        for file, found in zip(files, outlines, strict=True):
            for first, stop, skip, count in pieces(found.rows):
                spans = spans_of(found, first, stop)
                unit = {"folder": name, "split": split, "file": file, "spans": spans, "skip": skip, "rows": count, "row": row}
                if mapping is None or order is None:
                    yield unit | {"taken": None}
                else:
                    begin, end = np.searchsorted(mapping, (row, row + count), sorter=order)
                    if begin < end:
                        places = order[begin:end]
                        yield unit | {"taken": np.stack([mapping[places] - row, places], axis=1).tolist()}
                row += count

    def _look(self, file: str, name: str) -> tuple[Columns, Outline]:
        """Columns of a file, and where its record batches are."""
        if not self.storage.is_file(file):
            raise UserError(f"'{self.storage.uri(file)}' is missing, which {STATE} names; get it again, or save the data set again")
        with self.outlined(file) as (stream, found):
            schema = read_schema(stream, found.schema)
            return choose(schema, self._features(name) or features_of(schema), self, file), found

    def _mapping(self, name: str, num_rows: int) -> npt.NDArray[np.int64] | None:
        """The stored row of each row of a data set that was shuffled or filtered by a version that left the rows where they were."""
        files = [file for key in _MAPPINGS for file in self._files_of(name, key)]
        if not files:
            return None
        parts = [np.empty(0, np.int64)]
        for file in files:
            with self.outlined(file) as (stream, found):
                schema = read_schema(stream, found.schema)
                if schema.names != ["indices"]:
                    raise self.bad(file, f"columns {', '.join(schema.names)}, and not the one of a mapping, 'indices'")
                spans = spans_of(found, 0, len(found.rows)) if found.rows else []
                batches = read_batches(stream, spans, ["indices"]) if spans else iter(())
                parts += [batch.column("indices").to_numpy(zero_copy_only=False).astype(np.int64) for batch in batches]
        mapping = np.concatenate(parts)
        if len(mapping) and not 0 <= mapping.min() <= mapping.max() < num_rows:
            raise self.bad(files[0], f"it names rows that are not among the {num_rows} that are stored")
        return mapping

    # --- the JSON files ---

    def _folders(self) -> list[str]:
        """The folders of the splits, sorted; one empty name for a single data set."""
        if self.storage.is_file(SPLITS):
            names = self._json(SPLITS).get("splits")
            if not isinstance(names, list) or not names or not all(isinstance(name, str) and _is_name(name) for name in names):
                raise self.bad(SPLITS, "it does not name the splits")
            return sorted(names)
        if self.storage.is_file(STATE):
            return [""]
        missing = f"'{self.storage.root}' has no {SPLITS} and no {STATE}"
        raise UserError(f"{missing}; give the folder that save_to_disk wrote (files of the hub go through --source parquet)")

    def _files_of(self, name: str, key: str) -> list[str]:
        """The files that `state.json` of a folder names under a key."""
        path = posixpath.join(name, STATE)
        told = self._json(path).get(key) or []
        try:
            files = [entry["filename"] for entry in told]
        except (TypeError, KeyError) as error:
            raise self.bad(path, f"its '{key}' are no names of files") from error
        if not all(isinstance(file, str) and _is_name(file) for file in files) or (key == "_data_files" and not files):
            raise self.bad(path, f"its '{key}' are no names of files")
        return [posixpath.join(name, file) for file in files]

    def _features(self, name: str) -> Features:
        path = posixpath.join(name, INFO)
        features = self._json(path).get("features") if self.storage.is_file(path) else None
        return features if isinstance(features, dict) else {}

    def _json(self, path: str) -> dict[str, Any]:
        with self.reading(path):
            if not self.storage.is_file(path):
                raise UserError(f"'{self.storage.uri(path)}' is missing; save the data set again, with save_to_disk")
            if self.storage.size(path) > _JSON_BYTES:
                raise self.bad(path, f"more than {_JSON_BYTES} bytes")
            try:
                value = json.loads(self.storage.read_bytes(path))
            except (ValueError, RecursionError) as error:
                raise self.bad(path, "it is no JSON") from error
        if not isinstance(value, dict):
            raise self.bad(path, "it is no JSON object")
        return value


def _is_name(name: str) -> bool:
    """Whether a name is that of a file or folder here, and leads nowhere else."""
    return bool(name) and "/" not in name and "\\" not in name and name not in (".", "..")
