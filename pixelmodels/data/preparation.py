"""From a source to Parquet shards and a manifest, in parallel (`parallel.py`).

A source of encoded images is read once, into pieces of decoded images (`pieces.py`); one of packed files is looked at first. What then is
known of every image, in arrays, decides splits and labels, and cuts shards of each split's images, in their order: one task each. So the
content and order of every shard is a function of the source and the options, whatever the number of workers, and memory is bounded by one
shard for each CPU. Beside each shard a record is written when the shard is whole: a run that was killed, given again, goes on from these.
The manifest is written last; records and pieces are removed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pixelmodels.data.config import SPLITS, DatasetConfig
from pixelmodels.data.copies import NEAR, OTHERS, Sketcher, copies_among, sketches_of, table_file, table_of, with_copies
from pixelmodels.data.dataset import DATASETS, DUPLICATES, FORMAT_VERSION, MANIFEST, REJECTED, VECTOR_BYTES, Dataset
from pixelmodels.data.encoded import EncodedSource
from pixelmodels.data.packed import PackedSource
from pixelmodels.data.parallel import Record, map_records
from pixelmodels.data.pieces import (
    Decoded,
    PieceLoader,
    PieceWriter,
    Rejected,
    decode_units,
    first_shape,
    folder_of,
    remove_old_pieces,
    whole_units,
)
from pixelmodels.data.processes import end_processes
from pixelmodels.data.recognition import recognized
from pixelmodels.data.source import Listing, Source, Survey
from pixelmodels.data.sources import AnySource, open_source
from pixelmodels.data.splits import NO_SPLIT, Int8, Int64, complete_splits, split_hashes
from pixelmodels.data.unpacked import Unpacked
from pixelmodels.data.vectors import VectorFile
from pixelmodels.data.writing import ImageForm, Loader, ShardWriter, SourceLoader, record_of, write
from pixelmodels.errors import UserError
from pixelmodels.hashed_fields import hashed
from pixelmodels.progress import counted, counting
from pixelmodels.storage import Storage

LARGEST_SIDE = 256  # rows or columns that are taken over from a source without being asked for
SHARD_BYTES = 64 << 20  # decoded bytes of the images of one shard, at most: what one task holds in memory, several times over
LISTING = "listing.json"  # what the source looked like from outside, so that the next run need not read it
# Fields of a config that do not shape the images; the others are part of the fingerprint.
_NOT_CONTENT = ("name", "path", "variant", "vectors", "max_bad_share")
_FIRST_MAX_BAD_SHARE = 0.1  # once the default: what a listing was noted with, whatever the share is now, is found again
_SHOWN = 3  # inputs that are named where some are no images
_LITTER = re.compile(r"(.*/)?(eh)?thumbs\.db|(.*/)?desktop\.ini", re.IGNORECASE | re.DOTALL)  # what Windows leaves in folders of images
NO_LABEL = -1


@dataclass(frozen=True)
class _Images:
    """All that is known of a source's images before shards are cut; arrays run in parallel, in the order of the data set."""

    form: ImageForm
    digest: str  # SHA-256 of the content; the fingerprint's share of the source
    digest_of: str  # what it was taken of, in words
    num_read: int  # all inputs
    inputs: str  # what messages call these
    num_hidden: int  # files left out because their name starts with a dot
    rejected: list[Rejected]
    label_names: tuple[str, ...]
    own_N: Int8  # the source's own split of each image that can be opened, as its place in `SPLITS`; or NO_SPLIT
    labels_N: npt.NDArray[np.int32]  # index into `label_names`; or NO_LABEL
    split_hashes_N: Int64
    is_image_N: npt.NDArray[np.bool_]  # whether it can be decoded, too: the others are rejected
    image_hashes_N: npt.NDArray[np.uint64] | None  # the same for images that are the same; None where they are not decoded yet
    keys: Callable[[], list[str]]  # of those that can be decoded; called only where they are needed
    rows: Callable[[Int64], Record]  # what `load` has to be told of images at some places
    load: Loader


@dataclass(frozen=True)
class _Plan:
    """What is decided before shards are written."""

    fingerprint: str
    options: dict[str, Any]
    writer: ShardWriter
    vector_rows_N: Int64 | None  # of each image in the file of vectors
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

    Args: `say` is given one line that tells what was done, and others before it: on what is odd about a source, and where the work of a
    killed run is gone on from; `connect` is called when there is something to do (such as `ray_cluster.join`): where Ray is running then,
    its workers do it, else processes of this machine. Raises `UserError` when the source is missing, has no images, has too many bad files
    or changes while it is read.
    """
    started = time.monotonic()
    config = recognized(config, say)
    source = open_source(config)
    listing = source.listing()
    dataset, is_new = _find(config, storage, source, listing), False
    if dataset is None:
        connect()
        try:
            dataset, is_new = _prepare(config, storage, source, listing, say)
        finally:
            end_processes()
            if isinstance(source, PackedSource) and source.unpacked is not None:
                storage.delete(source.unpacked.folder)
    _remove_records(dataset)
    told = f"prepared in {time.monotonic() - started:.1f} s" if is_new else "already prepared"
    say(f"data set {dataset.summary()} ({told})")
    return dataset


def _prepare(
    config: DatasetConfig, storage: Storage, source: AnySource, listing: Listing | None, say: Callable[[str], None]
) -> tuple[Dataset, bool]:
    """Look at all images, then write what is not there yet; also tells whether anything was written."""
    if config.path is not None and _lies_in(storage, Storage(config.path)):
        raise UserError(f"storage root '{storage.root}' lies in the folder of images '{config.path}'; give another --storage")
    storage.check_writable()
    pieces = None
    if isinstance(source, EncodedSource):
        assert listing is not None
        units = source.units(listing)
        form = _form_of_files(config, source, units)
        pieces = folder_of(source, listing, form, config.seed)
        images = _decode(config, storage, source, listing, units, form, pieces, say)
        del units
        listing.forget_entries()
        try:
            _check_unchanged(config, source, listing)
        except UserError:
            storage.delete(pieces)  # of which nobody knows which state of the folder they are of
            raise
    else:
        if isinstance(source, PackedSource) and listing is not None:
            source.unpacked = Unpacked.of(storage)
        survey = source.survey(listing)
        for remark in survey.remarks:
            say(remark)
        images = _look(config, source, survey)
    plan = _plan(config, storage, images)
    folder = plan.writer.folder
    dataset = _find_whole(storage, folder)
    is_new = dataset is None
    if dataset is None:
        _check_bad_share(config, storage, images, pieces or folder)
        dataset = _write(config, storage, images, plan, say)
        if not isinstance(source, EncodedSource):
            _check_unchanged(config, source, listing)
        if _vectors_digest(config) != plan.vectors_digest:
            raise UserError(f"vectors '{config.vectors}' changed while they were read; run the same command again")
        if missing := dataset.damaged_shards():
            not_there = f"shard '{missing[0]}' written by a worker is not at '{storage.uri(folder)}'"
            raise UserError(f"{not_there}; give a --storage that every host sees: a bucket or a shared folder")
        _commit(storage, folder, dataset.manifest, images.rejected)
    remove_old_pieces(storage)
    if pieces is not None:  # before the note by which the data set is found without looking for pieces
        storage.delete(pieces)
    if listing is not None and listing.is_settled:
        write(storage, f"{folder}/{LISTING}", _listing_record(config, listing, plan.vectors_digest))
    return dataset, is_new


def _lies_in(inner: Storage, outer: Storage) -> bool:
    """Whether one root is the other or below it, symbolic links followed."""
    roots = [os.path.realpath(storage.root) if storage.is_local else storage.root for storage in (inner, outer)]
    return f"{roots[0]}/".startswith(f"{roots[1].rstrip('/')}/")


def _check_unchanged(config: DatasetConfig, source: AnySource, listing: Listing | None) -> None:
    if listing is not None and (now := source.listing()) is not None and now.digest != listing.digest:
        raise UserError(f"folder '{config.path}' changed while it was read; run the same command again")


def _form_of_files(config: DatasetConfig, source: EncodedSource, units: Sequence[Record]) -> ImageForm:
    """What the images become: where size or channels are not given, as the first image."""
    is_given = config.size is not None and config.channels is not None
    return _form(config, (not is_given and first_shape(source, units)) or (1, 1, 1), source.levels)


def _form(config: DatasetConfig, shape_HWC: tuple[int, int, int], source_levels: int) -> ImageForm:
    height, width, _ = shape_HWC
    if config.size is None and max(height, width) > LARGEST_SIDE:
        too_large = f"the first image has {height} rows and {width} columns, far too many for a pixel model"
        raise UserError(f"{too_large}; give --size HEIGHT WIDTH, such as --size 32 32")
    return ImageForm.of(config, shape_HWC, source_levels)


def _decode(
    config: DatasetConfig,
    storage: Storage,
    source: EncodedSource,
    listing: Listing,
    units: Sequence[Record],
    form: ImageForm,
    folder: str,
    say: Callable[[str], None],
) -> _Images:
    """Read, decode and write as pieces all images of a source of encoded ones."""
    before = whole_units(storage, folder)
    if before:
        say(f"goes on from {len(before)} of {len(units)} parts of '{config.path}' that are decoded")
    with counting("decoding", len(units), "parts") as advance:
        decoded = Decoded.of(counted(decode_units(PieceWriter(source, storage, folder, form, config.seed), units, before), advance))
    rejected = [Rejected.of(key, error, "listing") for key, error in source.rejected(listing).items()] + decoded.rejected
    rejected.sort()
    if not decoded.examples:
        first = f", the first is '{rejected[0].key}': {rejected[0].reason}; all in {_report(storage, folder, rejected)}" if rejected else ""
        raise UserError(f"'{config.path}' has no images ({len(rejected)} other {source.inputs}{first}); {source.remedy()}")
    arrangement = source.arrange(dict(sorted(decoded.examples.items(), key=lambda example: example[1])))
    for remark in arrangement.remarks:
        say(remark)
    news = arrangement.news | source.news(decoded.noted, form.channels)
    text = "".join(decoded.digests) + (json.dumps(news, sort_keys=True) if news else "")
    groups_N, groups = decoded.columns["group"], list(decoded.examples)
    splits = [arrangement.splits[group] if config.splits == "auto" else None for group in groups]
    load = PieceLoader(storage, folder, form)
    return _Images(
        form,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        digest_of=f"{source.digest_of}{', and what earlier versions read otherwise' if news else ''}",
        num_read=decoded.num_read + len(rejected) - len(decoded.rejected),
        inputs=source.inputs,
        num_hidden=listing.num_hidden,
        rejected=rejected,
        label_names=arrangement.label_names,
        own_N=_split_codes(splits)[groups_N],
        labels_N=_label_codes([arrangement.labels[group] for group in groups])[groups_N],
        split_hashes_N=decoded.columns["split_hash"],
        is_image_N=decoded.columns["is_image"],
        image_hashes_N=decoded.columns["image_hash"],
        keys=lambda: list(load.keys(decoded.pieces)),
        rows=decoded.rows,
        load=load,
    )


def _look(config: DatasetConfig, source: Source, survey: Survey) -> _Images:
    """What a survey has found, whose images are decoded when shards are written."""
    form = _form(config, survey.shape_HWC, survey.levels)
    keys = np.array(survey.keys, object)
    return _Images(
        form,
        digest=survey.digest,
        digest_of=survey.digest_of,
        num_read=len(survey.keys),
        inputs="images",
        num_hidden=0,
        rejected=[],
        label_names=survey.label_names,
        own_N=_split_codes(survey.splits if config.splits == "auto" else [None] * len(keys)),
        labels_N=_label_codes(survey.labels),
        split_hashes_N=split_hashes(survey.keys, config.seed),
        is_image_N=np.ones(len(keys), np.bool_),
        image_hashes_N=None,
        keys=lambda: survey.keys,
        rows=lambda places_M: {"keys": keys[places_M].tolist()},
        load=SourceLoader(source, survey.levels, form),
    )


def _split_codes(splits: Sequence[str | None]) -> Int8:
    return np.array([NO_SPLIT if split is None else SPLITS.index(split) for split in splits], np.int8)


def _label_codes(labels: Sequence[int | None]) -> npt.NDArray[np.int32]:
    return np.array([NO_LABEL if label is None else label for label in labels], np.int32)


def _identify(config: DatasetConfig, images: _Images, vectors_digest: str | None) -> tuple[str, dict[str, Any]]:
    """Fingerprint and options of a data set."""
    form = images.form
    options = {key: value for key, value in hashed(config, asdict(config)).items() if key not in _NOT_CONTENT}
    options |= {"size": list(form.size), "channels": form.channels, "levels": form.levels, "binarize": form.binarize}
    options["labels"] = bool(images.label_names)
    if config.source != "photos":
        del options["patch_size"]
    known_by = {"format_version": FORMAT_VERSION, "digest": images.digest, "options": options}
    text = json.dumps(known_by | ({"vectors": vectors_digest} if vectors_digest else {}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12], options


def _plan(config: DatasetConfig, storage: Storage, images: _Images) -> _Plan:
    vectors, vectors_digest = VectorFile(config.vectors) if config.vectors is not None else None, _vectors_digest(config)
    vector_size, vector_rows_N = 0, None
    if vectors:
        vector_size, rows = vectors.survey(images.keys())
        vector_rows_N = np.full(len(images.is_image_N), -1, np.int64)
        vector_rows_N[images.is_image_N] = rows
    fingerprint, options = _identify(config, images, vectors_digest)
    folder = f"{DATASETS}/{config.dataset_name()}-{fingerprint}"
    writer = ShardWriter(images.load, storage, folder, images.form, config.seed, vectors, vector_size)
    return _Plan(fingerprint, options, writer, vector_rows_N, vectors_digest)


def _vectors_digest(config: DatasetConfig) -> str | None:
    return None if config.vectors is None else VectorFile(config.vectors).digest()


def _write(config: DatasetConfig, storage: Storage, images: _Images, plan: _Plan, say: Callable[[str], None]) -> Dataset:
    """Write the shards that are not there yet; the data set, without its manifest's file."""
    shares = {"test": config.test_share, "validation": config.validation_share}
    splits_N = complete_splits(images.split_hashes_N, images.own_N, shares)
    image_bytes = math.prod(images.form.shape_HWC) + plan.writer.vector_size * VECTOR_BYTES
    num_rows = _rows_per_shard(config, image_bytes)
    is_dropped_N, duplicates = _find_duplicates(config, storage, images, plan, splits_N, num_rows)
    is_used_N = images.is_image_N & ~is_dropped_N
    shards = _cut(splits_N, is_used_N, num_rows)
    there = set(storage.list(plan.writer.folder))
    before = {file for _, file, _ in shards if {file, record_of(file)} <= there}
    if before:
        say(f"goes on from {len(before)} of {len(shards)} shards")

    def task(split: str, file: str, places_M: Int64) -> Record:
        columns: dict[str, Any] = {"labels": images.labels_N[places_M]}
        columns |= {} if plan.vector_rows_N is None else {"vector_rows": plan.vector_rows_N[places_M]}
        return {"split": split, "file": file, "may_be_whole": file in before, **columns, **images.rows(places_M)}

    with counting("writing", len(shards), "shards") as advance:
        results = list(counted(map_records(plan.writer, (task(*shard) for shard in shards)), advance))
    num_written = sum(result["num_images"] for result in results)
    num_left_out = int((images.is_image_N & ~is_used_N).sum())
    if images.num_read != num_written + len(images.rejected) + num_left_out:
        out = f"{num_written} were written, {len(images.rejected)} rejected and {num_left_out} left out"
        raise RuntimeError(f"{images.num_read} images were read, and {out}; give the same command again, and tell us if it says so again")
    return Dataset(storage, plan.writer.folder, _manifest(config, images, plan, results, duplicates))


def _find_duplicates(
    config: DatasetConfig, storage: Storage, images: _Images, plan: _Plan, splits_N: Int8, num_rows: int
) -> tuple[npt.NDArray[np.bool_], dict[str, Any]]:
    """Which train images are left out because they are copies of others, and what the manifest says of copies.

    Where none is left out, those are counted that are known to be the same: looking for others would take as long as writing the shards.
    """
    is_dropped_N, places = np.zeros(len(splits_N), np.bool_), {}
    for code, split in enumerate(SPLITS):
        places[split] = np.nonzero((splits_N == code) & images.is_image_N)[0]
    if config.drop_duplicates == "none":
        known = {"counts": {}} if images.image_hashes_N is None else _count_same(places, images.image_hashes_N)
        return is_dropped_N, {"dropped": "none", "num_dropped": 0, **known}
    ranks_N = np.cumsum(images.is_image_N) - 1

    def tasks(split: str) -> Iterator[Record]:
        for start in range(0, len(places[split]), num_rows):
            places_M = places[split][start : start + num_rows]
            yield {"labels": images.labels_N[places_M], **images.rows(places_M)}

    def keys_at(split: str, rows_M: Int64) -> list[str]:
        return [keys[rank] for rank in ranks_N[places[split][rows_M]].tolist()]

    sketcher, is_near = Sketcher(images.load, images.form.levels_before_draws), config.drop_duplicates == NEAR
    sketches = sketches_of(sketcher, {split: tasks(split) for split in ("train", *OTHERS)})
    found = copies_among(sketches, with_near=is_near) if sketches else []
    rows_M = with_copies(found)
    is_dropped_N[places["train"][rows_M]] = True
    keys = images.keys() if len(rows_M) else []
    write(storage, f"{plan.writer.folder}/{DUPLICATES}", table_file(table_of(found, keys_at)))
    told: dict[str, Any] = {"dropped": config.drop_duplicates, "num_dropped": len(rows_M), "file": DUPLICATES}
    told["counts"] = {one.split: one.counts() for one in found}
    if sketches:  # validation may have been train's, and hold copies of its own: they stay, and are told
        held_out = {split: sketches[split] for split in OTHERS}
        counts = copies_among(held_out, "validation", with_near=is_near)[0].counts()
        told["validation_in_test"] = {"exact": counts["train_exact"], "near": counts["train_near"]}
    return is_dropped_N, told


def _count_same(places: dict[str, Int64], image_hashes_N: npt.NDArray[np.uint64]) -> dict[str, Any]:
    """How many train images are the same as images of another split, how many of its images are in train, and validation's in test."""
    train, counts = image_hashes_N[places["train"]], {}
    for split in OTHERS:
        others = image_hashes_N[places[split]]
        num_train, num = int(np.isin(train, others).sum()), int(np.isin(others, train).sum())
        counts[split] = {"train_exact": num_train, "train_near": 0, "exact": num, "near": 0, "not_compared": 0}
    in_test = np.isin(image_hashes_N[places["validation"]], image_hashes_N[places["test"]])
    return {"counts": counts, "validation_in_test": {"exact": int(in_test.sum()), "near": 0}}


def _rows_per_shard(config: DatasetConfig, image_bytes: int) -> int:
    return max(1, min(config.rows_per_shard, SHARD_BYTES // image_bytes))


def _cut(splits_N: Int8, is_used_N: npt.NDArray[np.bool_], num_rows: int) -> list[tuple[str, str, Int64]]:
    """Split, file and places of the images of each shard: those that are used of `num_rows` images of a split that can be opened."""
    shards = []
    for code, split in enumerate(SPLITS):
        (chosen,) = np.nonzero(splits_N == code)
        for number, start in enumerate(range(0, len(chosen), num_rows)):
            places_M = chosen[start : start + num_rows]
            places_M = places_M[is_used_N[places_M]]
            if len(places_M):
                shards.append((split, f"{split}-{number:05d}.parquet", places_M))
    return shards


def _check_bad_share(config: DatasetConfig, storage: Storage, images: _Images, folder: str) -> None:
    """Raise `UserError` where too many inputs are no images, after all of them are written to a table in a folder."""
    rejected = [entry for entry in images.rejected if not _LITTER.fullmatch(entry.key)]
    num, total = len(rejected), images.num_read - (len(images.rejected) - len(rejected))
    if num > max(1, config.max_bad_share * total):
        more = f" and {num - _SHOWN} more" if num > _SHOWN else ""
        told = f"{', '.join(f'{entry.key} ({entry.reason})' for entry in rejected[:_SHOWN])}{more}"
        where = f"all are in '{_report(storage, folder, images.rejected)}'"
        allowed = f"at most a share of {config.max_bad_share:g} may be"
        raise UserError(
            f"{num} of {total} {images.inputs} are no images: {told}; {where}; {allowed}: remove them, or raise --max-bad-share"
        )


def _report(storage: Storage, folder: str, rejected: Sequence[Rejected]) -> str:
    """Write the table of what is no image, sorted by key, and tell where it is."""
    columns = zip(*rejected, strict=True) if rejected else [[]] * len(Rejected._fields)
    arrays = [pa.array(column, pa.string()) for column in columns]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, list(Rejected._fields)), stream)
    write(storage, f"{folder}/{REJECTED}", stream.getvalue())
    return storage.uri(f"{folder}/{REJECTED}")


def _manifest(config: DatasetConfig, images: _Images, plan: _Plan, results: list[Record], duplicates: dict[str, Any]) -> dict[str, Any]:
    form = images.form
    splits: dict[str, Any] = {}
    for split in SPLITS:
        parts = [result for result in results if result["split"] == split]
        num_images = sum(part["num_images"] for part in parts)
        if not num_images:
            raise UserError(
                f"split '{split}' has no readable image ({images.is_image_N.sum()} images in all); give more images, or another share"
            )
        shards = [{key: part[key] for key in ("file", "num_images", "num_bytes", "sha256")} for part in parts]
        counts = {"num_images": num_images, "num_unlabelled": sum(part["num_unlabelled"] for part in parts)}
        splits[split] = {**counts, "stored_levels": form.stored_levels(split), "shards": shards}
    height, width = form.size
    vectors = {"vector_size": plan.writer.vector_size, "vectors_digest": {"sha256": plan.vectors_digest}} if config.vectors else {}
    return {
        "format": "pixelmodels data set",
        "format_version": FORMAT_VERSION,
        "name": config.dataset_name(),
        "fingerprint": plan.fingerprint,
        "image": {"channels": form.channels, "height": height, "width": width, "levels": form.levels},
        "layout": "column image: uint8, row-major (height, width, channels)",
        "train_images_are_grey": form.binarize == "dynamic",
        "label_names": list(images.label_names),
        **vectors,
        "splits": splits,
        "skipped": {
            "count": len(images.rejected),
            "inputs": images.inputs,
            "kinds": dict(Counter(entry.kind for entry in images.rejected).most_common()),
            "file": REJECTED,
            "num_hidden": images.num_hidden,
        },
        "duplicates": duplicates,
        "options": plan.options,
        "source_digest": {"sha256": images.digest, "of": images.digest_of},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit(storage: Storage, folder: str, manifest: dict[str, Any], rejected: list[Rejected]) -> None:
    """Write the manifest last, and remove what it does not name."""
    _report(storage, folder, rejected)
    write(storage, f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
    named = {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]}
    tables = {REJECTED, *({DUPLICATES} if "file" in manifest["duplicates"] else ())}
    for name in storage.list(folder):
        if name not in named | {MANIFEST, LISTING} | tables | {record_of(file) for file in named}:
            storage.delete(f"{folder}/{name}")


def _remove_records(dataset: Dataset) -> None:
    """Remove what said that shards are whole, of a data set whose manifest says so; of an earlier run, too, that did not come to that."""
    records = {record_of(shard["file"]) for split in SPLITS for shard in dataset.shards(split)}
    for name in records & set(dataset.storage.list(dataset.folder)):
        dataset.storage.delete(f"{dataset.folder}/{name}")


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


def _find(config: DatasetConfig, storage: Storage, source: AnySource, listing: Listing | None) -> Dataset | None:
    """The data set that an earlier run made of a source that still looks the same from outside, or that is surveyed without Ray."""
    if listing is None:
        assert not isinstance(source, EncodedSource)
        return _find_whole(storage, _plan(config, storage, _look(config, source, source.survey())).writer.folder)
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
    options["max_bad_share"] = _FIRST_MAX_BAD_SHARE
    vectors = {} if vectors_digest is None else {"vectors": vectors_digest}
    return json.dumps({"listing": listing.digest, "config": options, **vectors}).encode()
