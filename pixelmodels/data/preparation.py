"""From a source to Parquet shards and a manifest, in parallel through Ray Data.

Keys are sorted and cut into shards before anything is decoded, and each shard is one task: it reads, decodes, quantizes and
writes its images. So the content and order of every shard is known beforehand, whatever the number of workers, and memory
is bounded by one shard for each CPU. Shards replace what a killed run may have left, and the manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pixelmodels.data.config import SPLITS, DatasetConfig
from pixelmodels.data.dataset import DATASETS, FORMAT_VERSION, MANIFEST, SKIPPED, VECTOR_BYTES, Dataset
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.recognition import recognized
from pixelmodels.data.source import Listing, Source, Survey
from pixelmodels.data.sources import open_source
from pixelmodels.data.splits import complete_splits
from pixelmodels.data.vectors import VectorFile
from pixelmodels.data.writing import ShardWriter, write
from pixelmodels.errors import UserError
from pixelmodels.hashed_fields import hashed
from pixelmodels.storage import Storage

LARGEST_SIDE = 256  # rows or columns that are taken over from a source without being asked for
SHARD_BYTES = 64 << 20  # decoded bytes of the images of one shard, at most: what one task holds in memory, several times over
LISTING = "listing.json"  # what the source looked like from outside, so that the next run need not read it
# Fields of a config that do not shape the images; the others are part of the fingerprint.
_NOT_CONTENT = ("name", "path", "variant", "vectors", "max_bad_share")


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before images are decoded."""

    fingerprint: str
    options: dict[str, Any]
    writer: ShardWriter
    tasks: list[Record]
    vectors_digest: str | None  # of the file of vectors, where there is one


def find_prepared(config: DatasetConfig, storage: Storage) -> Dataset | None:
    """The data set that `prepare` would make, if it is there and that can be told without Ray."""
    config = recognized(config)
    source = open_source(config)
    return _find(config, storage, source, source.listing())


def prepare(
    config: DatasetConfig, storage: Storage, say: Callable[[str], None] = print, connect: Callable[[], None] = lambda: None
) -> Dataset:
    """Make the data set of a config, or find it: the same input and options give the same fingerprint, and nothing is done twice.

    Args: `say` is given one line that tells what was done; `connect` is called when there is something to do, after which Ray
    must be running (such as `ray_cluster.connect`). Raises `UserError` when the source is missing, has no images, has too many bad
    files or changes while it is read.
    """
    started = time.monotonic()
    config = recognized(config, say)
    source = open_source(config)
    listing = source.listing()
    dataset, is_new = _find(config, storage, source, listing), False
    if dataset is None:
        connect()
        dataset, is_new = _prepare(config, storage, source, listing)
    told = f"prepared in {time.monotonic() - started:.1f} s" if is_new else "already prepared"
    say(f"data set {dataset.summary()} ({told})")
    return dataset


def _prepare(config: DatasetConfig, storage: Storage, source: Source, listing: Listing | None) -> tuple[Dataset, bool]:
    """Survey, then write what is not there yet; also tells whether anything was written."""
    if config.path is not None and _lies_in(storage, Storage(config.path)):
        raise UserError(f"storage root '{storage.root}' lies in the folder of images '{config.path}'; give another --storage")
    storage.check_writable()
    survey = source.survey(listing)
    _check_bad_share(config, survey, survey.skipped)
    plan = _plan(config, storage, source, survey)
    folder = plan.writer.folder
    dataset = _find_whole(storage, folder)
    is_new = dataset is None
    if dataset is None:
        results = map_records(plan.writer, plan.tasks)
        skipped = survey.skipped | {key: reason for result in results for key, reason in result["bad"]}
        _check_bad_share(config, survey, skipped)
        if listing is not None and (now := source.listing()) is not None and now.digest != listing.digest:
            raise UserError(f"folder '{config.path}' changed while it was read; run the same command again")
        if _vectors_digest(config) != plan.vectors_digest:
            raise UserError(f"vectors '{config.vectors}' changed while they were read; run the same command again")
        dataset = Dataset(storage, folder, _manifest(config, survey, plan, results, skipped))
        if missing := dataset.damaged_shards():
            not_there = f"shard '{missing[0]}' written by a worker is not at '{storage.uri(folder)}'"
            raise UserError(f"{not_there}; give a --storage that every host sees: a bucket or a shared folder")
        _commit(storage, folder, dataset.manifest, skipped)
    if listing is not None and listing.is_settled:
        write(storage, f"{folder}/{LISTING}", _listing_record(config, listing, plan.vectors_digest))
    return dataset, is_new


def _lies_in(inner: Storage, outer: Storage) -> bool:
    """Whether one root is the other or below it, symbolic links followed."""
    roots = [os.path.realpath(storage.root) if storage.is_local else storage.root for storage in (inner, outer)]
    return f"{roots[0]}/".startswith(f"{roots[1].rstrip('/')}/")


def _plan(config: DatasetConfig, storage: Storage, source: Source, survey: Survey) -> _Plan:
    height, width, channels = survey.shape_HWC
    height, width = config.size or (height, width)
    channels = config.channels or channels
    if config.size is None and max(height, width) > LARGEST_SIDE:
        too_large = f"the first image has {height} rows and {width} columns, far too many for a pixel model"
        raise UserError(f"{too_large}; give --size HEIGHT WIDTH, such as --size 32 32")
    binarize = "threshold" if config.binarize == "none" and config.levels == 2 else config.binarize
    levels = 2 if binarize != "none" else config.levels or survey.levels
    options = {key: value for key, value in hashed(config, asdict(config)).items() if key not in _NOT_CONTENT}
    options |= {"size": [height, width], "channels": channels, "levels": levels, "binarize": binarize, "labels": bool(survey.label_names)}
    if config.source != "photos":
        del options["patch_size"]
    vectors, vectors_digest = VectorFile(config.vectors) if config.vectors is not None else None, _vectors_digest(config)
    vector_size, rows = vectors.survey(survey.keys) if vectors else (0, None)
    known_by = {"format_version": FORMAT_VERSION, "digest": survey.digest, "options": options}
    text = json.dumps(known_by | ({"vectors": vectors_digest} if vectors else {}), sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = f"{DATASETS}/{config.dataset_name()}-{fingerprint}"
    writer = ShardWriter(
        source, storage, folder, survey.levels, channels, (height, width), levels, binarize, config.seed, vectors, vector_size
    )
    tasks = _tasks(config, survey, height * width * channels + vector_size * VECTOR_BYTES, rows)
    return _Plan(fingerprint, options, writer, tasks, vectors_digest)


def _vectors_digest(config: DatasetConfig) -> str | None:
    return None if config.vectors is None else VectorFile(config.vectors).digest()


def _tasks(config: DatasetConfig, survey: Survey, image_bytes: int, vector_rows: list[int] | None = None) -> list[Record]:
    """One record for each shard: its split, its place in it, and the keys, labels and rows of vectors of its images."""
    own = survey.splits if config.splits == "auto" else [None] * len(survey.keys)
    splits = complete_splits(survey.keys, own, {"test": config.test_share, "validation": config.validation_share}, config.seed)
    num_rows = max(1, min(config.rows_per_shard, SHARD_BYTES // image_bytes))
    columns: dict[str, Sequence[Any]] = {"keys": survey.keys, "labels": survey.labels}
    columns |= {} if vector_rows is None else {"vector_rows": vector_rows}
    tasks: list[Record] = []
    for split in SPLITS:
        chosen = [i for i, name in enumerate(splits) if name == split]
        for place, start in enumerate(range(0, len(chosen), num_rows)):
            rows = {name: [column[i] for i in chosen[start : start + num_rows]] for name, column in columns.items()}
            tasks.append({"split": split, "file": f"{split}-{place:05d}.parquet", **rows})
    return tasks


def _check_bad_share(config: DatasetConfig, survey: Survey, skipped: dict[str, str]) -> None:
    total = len(survey.keys) + len(survey.skipped)
    if len(skipped) > max(1, config.max_bad_share * total):
        first = f"the first is '{min(skipped)}': {skipped[min(skipped)]}"
        allowed = f"at most a share of {config.max_bad_share:g} may be"
        raise UserError(f"{len(skipped)} of {total} files are no images ({first}); {allowed}: remove them, or raise --max-bad-share")


def _manifest(config: DatasetConfig, survey: Survey, plan: _Plan, results: list[Record], skipped: dict[str, str]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split in SPLITS:
        parts = [result for result in results if result["split"] == split and result["num_images"]]
        num_images = sum(part["num_images"] for part in parts)
        if not num_images:
            raise UserError(f"split '{split}' has no readable image ({len(survey.keys)} images in all); give more images, or another share")
        shards = [{key: part[key] for key in ("file", "num_images", "num_bytes", "sha256")} for part in parts]
        stored_levels = 256 if plan.writer.binarize == "dynamic" and split == "train" else plan.writer.levels
        num_unlabelled = sum(part["num_unlabelled"] for part in parts)
        splits[split] = {"num_images": num_images, "num_unlabelled": num_unlabelled, "stored_levels": stored_levels, "shards": shards}
    height, width = plan.writer.size
    vectors = {"vector_size": plan.writer.vector_size, "vectors_digest": {"sha256": plan.vectors_digest}} if config.vectors else {}
    return {
        "format": "pixelmodels data set",
        "format_version": FORMAT_VERSION,
        "name": config.dataset_name(),
        "fingerprint": plan.fingerprint,
        "image": {"channels": plan.writer.channels, "height": height, "width": width, "levels": plan.writer.levels},
        "layout": "column image: uint8, row-major (height, width, channels)",
        "train_images_are_grey": plan.writer.binarize == "dynamic",
        "label_names": list(survey.label_names),
        **vectors,
        "splits": splits,
        "skipped": {"count": len(skipped), "file": SKIPPED, "num_hidden": survey.num_hidden},
        "options": plan.options,
        "source_digest": {"sha256": survey.digest, "of": survey.digest_of},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit(storage: Storage, folder: str, manifest: dict[str, Any], skipped: dict[str, str]) -> None:
    """Write the manifest last, and remove what it does not name."""
    entries = [{"key": key, "reason": reason} for key, reason in sorted(skipped.items())]
    write(storage, f"{folder}/{SKIPPED}", json.dumps(entries, indent=1).encode())
    write(storage, f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
    named = {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]} | {MANIFEST, SKIPPED, LISTING}
    for name in storage.list(folder):
        if name not in named:
            storage.delete(f"{folder}/{name}")


def _find_whole(storage: Storage, folder: str) -> Dataset | None:
    """The data set in a folder if it is all there; a damaged one loses its manifest, and so is made again."""
    if not storage.is_file(f"{folder}/{MANIFEST}"):
        return None
    with suppress(UserError):
        dataset = Dataset.load(storage, folder)
        if not dataset.damaged_shards():
            return dataset
    storage.delete(f"{folder}/{MANIFEST}")
    return None


def _find(config: DatasetConfig, storage: Storage, source: Source, listing: Listing | None) -> Dataset | None:
    """The data set that an earlier run made of a source that still looks the same from outside, or that is surveyed without Ray."""
    if listing is None:
        return _find_whole(storage, _plan(config, storage, source, source.survey()).writer.folder)
    wanted = _listing_record(config, listing, _vectors_digest(config))
    for name in storage.list(DATASETS):
        record = f"{DATASETS}/{name}/{LISTING}"
        is_it = name.rpartition("-")[0] == config.dataset_name() and storage.is_file(record) and storage.read_bytes(record) == wanted
        if is_it and (found := _find_whole(storage, f"{DATASETS}/{name}")):
            return found
    return None


def _listing_record(config: DatasetConfig, listing: Listing, vectors_digest: str | None) -> bytes:
    """JSON that tells that a data set was made with this config, of a source that looks like this from outside."""
    options = {name: value for name, value in hashed(config, asdict(config)).items() if name != "vectors"}
    vectors = {} if vectors_digest is None else {"vectors": vectors_digest}
    return json.dumps({"listing": listing.digest, "config": options, **vectors}).encode()
