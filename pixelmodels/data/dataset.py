"""A prepared data set, known by its manifest; without a manifest there is no data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pixelmodels.data.config import SPLITS, DatasetConfig
from pixelmodels.data.rows import Rows
from pixelmodels.data.shards import columns_of, decode_labels, decode_shard, read_parquet
from pixelmodels.errors import UserError, first_line, listed, unknown
from pixelmodels.plain import from_plain
from pixelmodels.storage import Storage

if TYPE_CHECKING:
    import ray.data

    from pixelmodels.shapes import ImageSpec

DATASETS = "datasets"  # folder below the storage root
MANIFEST = "manifest.json"
REJECTED = "rejected.parquet"  # key, reason, stage and kind of every input that is no image; once a list in JSON, skipped.json
DUPLICATES = "duplicates.parquet"  # of a data set without copies: which train images were left out, and what they are copies of
MOST_NEAREST, LIKE = 5, 0.6  # data sets that are named where one is mistyped; how like it is what may be meant (1: the same)
VECTOR_BYTES = 4  # of one number of an image's vector
FORMAT_VERSION = 2  # part of every fingerprint: raised when the same options come to give other pixels, or another layout


@dataclass(frozen=True)
class Split:
    """One split, read whole."""

    images_NCHW: npt.NDArray[np.uint8]  # values in [0, levels); grey 0..255 where the data set says that train images are grey
    labels_N: npt.NDArray[np.int32] | None  # -1: this image has no label; None: the data set has no labels
    keys: list[str]  # where each image came from
    vectors_NV: npt.NDArray[np.float32] | None = None  # a row of NaN: this image has no vector; None: the data set has no vectors

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> Rows:
        """The images with what they are conditioned on."""
        return Rows(self.images_NCHW, self.labels_N, self.vectors_NV)

    def take(self, rows: npt.NDArray[np.int64]) -> Split:
        """These images only, in this order."""
        labels_N = None if self.labels_N is None else self.labels_N[rows]
        vectors_NV = None if self.vectors_NV is None else self.vectors_NV[rows]
        return Split(self.images_NCHW[rows], labels_N, [self.keys[row] for row in rows], vectors_NV)


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: its storage, its folder and its manifest; picklable."""

    storage: Storage  # where it is
    folder: str  # datasets/<name>-<fingerprint>, below the storage root
    manifest: dict[str, Any]  # what manifest.json says

    @staticmethod
    def load(storage: Storage, folder: str) -> Dataset:
        """The data set in a folder of a storage root; raises `UserError` when there is no whole one of this version."""
        try:
            manifest = json.loads(storage.read_bytes(f"{folder}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise UserError(f"no data set in '{storage.uri(folder)}'; prepare it with pipelines/prepare_data.py") from error
        except ValueError as error:
            raise UserError(f"'{storage.uri(folder)}/{MANIFEST}' cannot be read; delete the folder and prepare the data again") from error
        version = manifest.get("format_version") if isinstance(manifest, dict) else None
        if version != FORMAT_VERSION:
            raise UserError(f"data set '{storage.uri(folder)}' has format version {version}, not {FORMAT_VERSION}; prepare it again")
        return Dataset(storage, folder, manifest)

    @property
    def name(self) -> str:
        """The name that the user chose, or the source's."""
        return str(self.manifest["name"])

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of a hash of the source's content and of every option that shapes the images."""
        return str(self.manifest["fingerprint"])

    @property
    def spec(self) -> ImageSpec:
        """Shape and levels of the images that a model sees."""
        from pixelmodels.shapes import ImageSpec  # brings in torch, which tasks that only read and decode images do without

        return ImageSpec(**self.manifest["image"])

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        """Shape of an image, as in `spec`, for tasks that do without torch."""
        image = self.manifest["image"]
        return image["channels"], image["height"], image["width"]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of each class; empty when there are no labels."""
        return tuple(self.manifest["label_names"])

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0: no labels."""
        return len(self.manifest["label_names"])

    @property
    def vector_size(self) -> int:
        """Length of the vector that each image has; 0: no vectors."""
        return int(self.manifest.get("vector_size", 0))

    @property
    def train_images_are_grey(self) -> bool:
        """Whether train images are stored as grey 0..255, to be drawn anew each epoch with `binarize_dynamic`."""
        return bool(self.manifest["train_images_are_grey"])

    @property
    def num_skipped(self) -> int:
        """How many inputs were put aside; `rejected.parquet` beside the manifest names each and says why."""
        return int(self.manifest["skipped"]["count"])

    def num_images(self, split: str) -> int:
        """Images of a split."""
        return int(self._split(split)["num_images"])

    def num_unlabelled(self, split: str) -> int:
        """Images of a split that have no label: all of them in a data set without labels; 0 when an older manifest does not say."""
        return int(self._split(split).get("num_unlabelled", 0))

    def split_bytes(self, split: str) -> int:
        """Bytes of a split's images once decoded: one for each sub-pixel, and those of their vectors."""
        return self.num_images(split) * (self.spec.num_subpixels + VECTOR_BYTES * self.vector_size)

    def shards(self, split: str) -> list[dict[str, Any]]:
        """The manifest's entry of each shard in order: file, num_images, num_bytes, sha256."""
        return list(self._split(split)["shards"])

    def skipped(self) -> list[dict[str, str]]:
        """Of every input that was put aside key and reason, and, but of data sets of earlier versions, stage and kind."""
        file = self.manifest["skipped"]["file"]
        data = self.storage.read_bytes(f"{self.folder}/{file}")
        return read_parquet(data).to_pylist() if file == REJECTED else json.loads(data)

    def read(self, split: str) -> Split:
        """All of a split, in stored order (sorted by key); raises `UserError` when a shard is not the one that was written."""
        return self.at(split, np.arange(self.num_images(split)))

    def some(self, split: str, num_images: int) -> Split:
        """Images spread evenly over a split (all of them where there are no more), of which only the shards that hold them are read."""
        total = self.num_images(split)
        count = min(num_images, total)
        return self.at(split, np.arange(count) * total // max(1, count))

    def read_shard(self, split: str, number: int) -> Split:
        """All of one shard."""
        counts = [shard["num_images"] for shard in self.shards(split)]
        start = sum(counts[:number])
        return self.at(split, np.arange(start, start + counts[number]))

    def keys_at(self, split: str, places_M: npt.NDArray[np.int64]) -> list[str]:
        """The keys of the images at some places of a split, in any order; only the shards that hold them are read."""
        keys: dict[int, str] = {}
        stop = 0
        for shard in self.shards(split):
            start, stop = stop, stop + shard["num_images"]
            rows = np.unique(places_M[(places_M >= start) & (places_M < stop)]) - start
            if len(rows):
                with self._whole(shard) as path, self.storage.open_input(path) as stream:
                    column = read_parquet(stream, ["key"])["key"]
                keys |= zip((rows + start).tolist(), column.take(pa.array(rows)).to_pylist(), strict=True)
        return [keys[place] for place in places_M.tolist()]

    def at(self, split: str, places_M: npt.NDArray[np.int64]) -> Split:
        """The images at some places of a split, in increasing order; only the shards that hold them are read."""
        images_MCHW = np.empty((len(places_M), *self.spec.shape), np.uint8)
        labels_M = np.empty(len(places_M), np.int32)
        vectors_MV = np.empty((len(places_M), self.vector_size), np.float32)
        keys: list[str] = []
        stop = 0
        for shard in self.shards(split):
            start, stop = stop, stop + shard["num_images"]
            rows = places_M[(places_M >= start) & (places_M < stop)] - start
            if not len(rows):
                continue
            with self._whole(shard) as path:
                data = self.storage.read_bytes(path)
                if hashlib.sha256(data).hexdigest() != shard["sha256"]:
                    raise ValueError("its sha256 is not the manifest's")
                images_NCHW, labels_N, vectors_NV, shard_keys = decode_shard(data, self.spec.shape, self.vector_size)
                if len(shard_keys) != shard["num_images"]:
                    raise ValueError(f"{len(shard_keys)} images, and the manifest says {shard['num_images']}")
            into = slice(len(keys), len(keys) + len(rows))
            images_MCHW[into], labels_M[into] = images_NCHW[rows], labels_N[rows]
            if vectors_NV is not None:
                vectors_MV[into] = vectors_NV[rows]
            keys += [shard_keys[row] for row in rows]
        return Split(images_MCHW, labels_M if self.num_classes else None, keys, vectors_MV if self.vector_size else None)

    def read_labels(self, split: str) -> tuple[npt.NDArray[np.int32] | None, list[str]]:
        """Labels and keys of a split, as `read` gives them, without reading its images."""
        labels, keys = [np.empty(0, np.int32)], []
        for table in self._columns(split, "label", "key"):
            labels.append(decode_labels(table["label"]))
            keys += table["key"].to_pylist()
        return np.concatenate(labels) if self.num_classes else None, keys

    def labels(self, split: str) -> npt.NDArray[np.int32]:
        """Labels of a split, -1 where an image has none, without reading anything else."""
        return np.concatenate([np.empty(0, np.int32), *(decode_labels(table["label"]) for table in self._columns(split, "label"))])

    def _columns(self, split: str, *names: str) -> Iterator[pa.Table]:
        """Some columns of each shard of a split."""
        for shard in self.shards(split):
            with self._whole(shard) as path, self.storage.open_input(path) as stream:
                table = read_parquet(stream, names)
            yield table

    def stream(self, split: str) -> ray.data.Dataset:
        """A split as a Ray Data set with columns image (bytes), label, key and, where there are any, vector.

        `decode_rows` turns a batch into an array. Shards are in order, each read by one task; rows keep it when
        `DataContext.preserve_order` is set or the reader asks for it. Ray's own reader of Parquet would start 32 actors that read
        footers, whatever the machine has. Raises `UserError` when a shard is missing or has another size than the manifest says.
        """
        import ray.data

        if damaged := self.damaged_shards(split):
            raise self.damaged(f"{self.folder}/{damaged[0]}", ValueError("missing, or of another size than the manifest's"))
        shards = self.shards(split)
        items = ray.data.from_items([{"number": number} for number in range(len(shards))], override_num_blocks=max(1, len(shards)))
        return items.map_batches(self._row_groups, fn_args=(split,), batch_size=1, batch_format="pyarrow")

    def _row_groups(self, batch: pa.Table, split: str) -> Iterator[pa.Table]:
        """The rows of the shard whose number is in a batch, a row group at a time: no more is in memory at once."""
        shard = self.shards(split)[batch["number"][0].as_py()]
        with self._whole(shard) as path, self.storage.open_input(path) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns_of(self.vector_size, "key")).replace_schema_metadata(None)

    def damaged_shards(self, *splits: str) -> list[str]:
        """Files of these splits (all, unless given) that are missing or not as large as the manifest says; a cheap check."""
        sizes = {entry.path: entry.size for entry in self.storage.files(self.folder)}
        shards = [shard for split in splits or SPLITS for shard in self.shards(split)]
        return [str(shard["file"]) for shard in shards if sizes.get(shard["file"]) != shard["num_bytes"]]

    def summary(self) -> str:
        """One line: size of the splits, shape and levels, and what was put aside."""
        image = self.manifest["image"]  # not `spec`, which brings in torch: it would take longer than to prepare a small folder
        counts = ", ".join(f"{split} {self.num_images(split):,}" for split in SPLITS)
        shape = f"{image['height']}x{image['width']}, {'RGB' if image['channels'] == 3 else 'grey'}, {image['levels']} levels"
        parts = [f"{self.name}-{self.fingerprint}: {shape}; {counts}"]
        parts += [f"{self.num_classes} classes ({listed(self.label_names)})"] if self.num_classes else []
        without = [f"{count:,} of {split}" for split in SPLITS if (count := self.num_classes and self.num_unlabelled(split))]
        parts += [f"images without a label: {', '.join(without)}"] if without else []
        parts += [f"vectors of {self.vector_size}"] if self.vector_size else []
        if self.num_skipped:
            skipped = self.skipped()
            shown = ", ".join(f"{entry['key']} ({entry['reason']})" for entry in skipped[:3])
            more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.manifest["skipped"].get("kinds", {}).items())
            file = f"{self.storage.uri(self.folder)}/{self.manifest['skipped']['file']}"
            inputs = self.manifest["skipped"].get("inputs", "files")
            parts.append(f"{len(skipped)} {inputs} put aside{kinds and f' ({kinds})'}: {shown}{more}; all in {file}")
        parts += self._copies_told()
        if hidden := self.manifest["skipped"]["num_hidden"]:
            parts.append(f"{hidden} hidden files left out")
        return "; ".join(parts)

    def _copies_told(self) -> list[str]:
        """What is known of copies of other splits' images in train, for `summary`."""
        duplicates = self.manifest.get("duplicates", {"dropped": "none", "counts": {}})
        numbers = [f"{count:,} {kind}" for kind, count in duplicates.get("validation_in_test", {}).items() if count]
        held_out = [f"validation has copies of test images: {', '.join(numbers)}"] if numbers else []
        if duplicates["dropped"] != "none":
            kinds = "exact" if duplicates["dropped"] == "exact" else "exact or near"
            return [f"{duplicates['num_dropped']:,} {kinds} copies of test or validation images left out of train", *held_out]
        told = [f"{count['train_exact']:,} of {split} images" for split, count in duplicates["counts"].items() if count["train_exact"]]
        remedy = "pipelines/inspect_data.py shows them, --drop-duplicates leaves them out"
        return [*([f"train has exact copies: {', '.join(told)} ({remedy})"] if told else []), *held_out]

    def _split(self, split: str) -> dict[str, Any]:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self.manifest["splits"][split]

    @contextmanager
    def _whole(self, shard: dict[str, Any]) -> Iterator[str]:
        """The path of a shard of the manifest; raises `UserError` when what is done with it shows that it is damaged."""
        path = f"{self.folder}/{shard['file']}"
        try:
            yield path
        except (FileNotFoundError, ValueError, pa.ArrowException) as error:
            raise self.damaged(path, error) from error

    def damaged(self, path: str, error: BaseException) -> UserError:
        """The error for a shard that is gone or not what was written."""
        remedy = f"delete {self.storage.uri(self.folder)} and prepare the data again"
        return UserError(f"shard '{self.storage.uri(path)}' is damaged ({first_line(error)}); {remedy}")


def find_dataset(storage: Storage, ref: str) -> Dataset:
    """The prepared data set called `name` or `name-fingerprint`; raises `UserError` with the choices when not exactly one is."""
    folders = [name for name in storage.list(DATASETS) if storage.is_file(f"{DATASETS}/{name}/{MANIFEST}")]
    ref = ref.rstrip("/").removeprefix(f"{DATASETS}/")
    if ref in folders:
        return Dataset.load(storage, f"{DATASETS}/{ref}")
    matches = [name for name in folders if name.rpartition("-")[0] == ref]
    if len(matches) > 1:  # those of another format version cannot be meant
        matches = [name for name in matches if _format_version(storage, name) == FORMAT_VERSION] or matches
    if len(matches) > 1:
        raise UserError(f"data set '{ref}' is not unique; have {', '.join(matches)}; give one of these")
    if not matches:
        raise UserError(f"data set '{ref}' unknown; {_nearest(ref, folders)}; prepare one with pipelines/prepare_data.py")
    return Dataset.load(storage, f"{DATASETS}/{matches[0]}")


def _nearest(ref: str, folders: Sequence[str]) -> str:
    """Of the data sets that there are those whose names, or names with fingerprints, are nearest to a mistyped one, and how many more."""
    names = {folder: folder.rpartition("-")[0] for folder in folders}
    likeness = {folder: max(SequenceMatcher(None, ref, called).ratio() for called in (folder, names[folder])) for folder in folders}
    nearest = sorted(folders, key=lambda folder: (-likeness[folder], folder))
    more = f" and {len(nearest) - MOST_NEAREST} more" if len(nearest) > MOST_NEAREST else ""
    hint = f"; did you mean '{names[nearest[0]]}'?" if nearest and likeness[nearest[0]] >= LIKE else ""
    return f"have {', '.join(nearest[:MOST_NEAREST]) or 'none'}{more}{hint}"


def _format_version(storage: Storage, name: str) -> object:
    """What a manifest says it is; None for one that is damaged, which `Dataset.load` tells where it is meant."""
    try:
        manifest = json.loads(storage.read_bytes(f"{DATASETS}/{name}/{MANIFEST}"))
    except ValueError:  # no JSON, or no text
        return None
    return manifest.get("format_version") if isinstance(manifest, dict) else None


def check_labels(dataset: Dataset, splits: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the number of images and the remedy, when images of these splits have no label."""
    unlabelled = {split: dataset.num_unlabelled(split) for split in splits}
    if any(unlabelled.values()):
        counts = ", ".join(f"{count} of {split}" for split, count in unlabelled.items() if count)
        raise UserError(
            f"data set '{dataset.name}' has images without a label ({counts}), and a model conditioned on labels needs one of each; "
            f"put them into their classes' folders, or {remedy}"
        )


def config_of(dataset: Dataset) -> DatasetConfig:
    """The options that a prepared data set was made with, as its manifest keeps them."""
    config: DatasetConfig = from_plain(DatasetConfig, {**dataset.manifest["options"], "name": dataset.name}, "dataset")
    return config
