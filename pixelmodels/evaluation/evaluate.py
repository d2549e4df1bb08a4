"""`evaluate`: a trained model scored on a prepared data set, by Ray Data over the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
import tyro

from pixelmodels import ray_cluster
from pixelmodels.data import Dataset, decode_labels, find_dataset
from pixelmodels.data.feeds import RESIDENT_BYTES
from pixelmodels.data.rows import Rows
from pixelmodels.data.streaming import rows_of
from pixelmodels.errors import UserError, check_at_least, check_seed
from pixelmodels.evaluation.activations import Source, choose_images, first_step, probe_model
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.batches import check_context_fits, check_images_fit
from pixelmodels.evaluation.dependence import AT_ONCE, MOST_PASSES, check_pixel
from pixelmodels.evaluation.explanation import arrays_file, explain
from pixelmodels.evaluation.explanation_page import explanation_files
from pixelmodels.evaluation.nats import OF_ORDERS, nats_table
from pixelmodels.evaluation.probes import ProbeRow, probe_files
from pixelmodels.evaluation.scores import Scores, mixed_nats, score_orders, summarize
from pixelmodels.models import PixelModel
from pixelmodels.models.turns import ORDERS, check_order
from pixelmodels.pictures import grid, png_bytes
from pixelmodels.preflight import Preflight
from pixelmodels.progress import counting
from pixelmodels.ray_cluster import WorkerNeeds, runs_at_once, without_remarks
from pixelmodels.runs.loading import REGISTERED, find_model, locate
from pixelmodels.storage import DEFAULT_STORAGE, Storage, StorageFull, fitting, why
from pixelmodels.tracking import Tracker

EVALUATIONS = "evaluations"
SUMMARY = "evaluation.json"
LEAST, MOST = "least likely", "most likely"  # images that are explained


@dataclass(frozen=True)
class Evaluate:
    """Score a trained model on a prepared data set: bits/dim, the nats of each image, the likeliest images and the unlikeliest."""

    model: Annotated[str, tyro.conf.Positional]  # folder of a run or checkpoint (path or URI), or models:/name/version
    dataset: str  # prepared data set: name, or name-fingerprint
    split: str = "test"  # train, validation or test
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix
    num_workers: int | None = None  # actors that hold the model; as many as the cluster has room for unless given
    use_gpu: bool = False  # one GPU an actor
    batch_size: int = 128  # images scored at a time
    num_images: int = 16  # images in each picture of extremes
    probe: bool = False  # also read the labels off each layer's activations with a linear classifier: trained on train, tested on test
    probe_images: int = 10_000  # training images of a probe at most
    probe_seed: int = 0  # which ones, and the weights of the untrained network that it compares with
    without_context: bool = False  # score a conditional model with all that it is conditioned on left out
    order: int | None = None  # of a model of several orders (docs/orders.md): score it by this one; by the mixture of all unless given
    # So many of the least likely images, and of the most likely ones, with maps of what the model expected there (docs/explanations.md):
    # bits and entropy of each pixel, the expected image, and on what the prediction of one pixel depends.
    explain: int | None = None
    explain_pixel: tuple[int, int] | None = None  # row and column of that pixel, from 0; of each image the most surprising one unless given
    explain_passes: int = MOST_PASSES  # of the network at most, for each image, to find out on what that pixel depends

    def __post_init__(self) -> None:
        check_seed("--probe-seed", self.probe_seed)
        check_at_least(self, num_workers=1, batch_size=1, num_images=1, probe_images=1, explain=1, explain_passes=1)
        if self.explain is None and self.explain_pixel is not None:
            raise UserError("--explain-pixel says which pixel is explained; give --explain N too")


@dataclass(frozen=True)
class Evaluation:
    """What came of it."""

    scores: Scores  # of the split
    num_images: int  # images scored
    # Path or URI: nats.parquet, lowest.png, highest.png, evaluation.json; with a probe also probe.csv, probe.png; with explained images
    # also explanations.html, explanations.npz, least_likely.png, most_likely.png.
    folder: str
    probe: tuple[ProbeRow, ...] = ()  # baselines, then layers in order of depth
    probe_title: str = ""  # what the probes were trained and tested on


class Scorer:
    """An actor that holds the model and scores batches of rows."""

    def __init__(self, actors: Actors, dataset: Dataset, order: int | None = None) -> None:
        self._actors, self._dataset, self._order = actors, dataset, order
        self._model = actors.model().to(actors.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of the data set to rows with columns key, label and nll_nats; of several orders also with the nats by each one."""
        rows, order = rows_of(batch, self._dataset), self._order
        nats_NK = score_orders(self._model, rows, self._actors.device, with_context=self._actors.with_context, order=order)
        columns = {"key": batch["key"], "label": batch["label"], "nll_nats": mixed_nats(nats_NK)}
        if nats_NK.shape[1] > 1:
            columns[OF_ORDERS] = pa.FixedSizeListArray.from_arrays(nats_NK.ravel(), nats_NK.shape[1])
        return pa.table(columns)


def evaluate(options: Evaluate) -> Evaluation:
    """Score a model on a split; raises `UserError` when there is no such model or data, or they do not fit."""
    storage = Storage(options.storage)
    storage.check_writable()
    dataset = find_dataset(storage, options.dataset)
    place = locate(options.model, storage)
    tracker = Tracker(storage)  # as this process sees it: the actors may have another environment
    model = find_model(place, storage, tracker)
    _check_fit(model, dataset, options)
    chosen = choose_images(dataset, options.probe_images, options.probe_seed) if options.probe else None
    name = options.model.rstrip("/").replace("models:/", "").split("/runs/")[-1].replace("/", "-").replace("@", "-").removeprefix("-")
    ending = f"-{options.split}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = f"{EVALUATIONS}/{fitting(f'{name}-{dataset.name}', 255 - len(ending))}{ending}"
    check_writable(storage, folder, SUMMARY)
    ray_cluster.connect()
    needs = WorkerNeeds(options.num_workers or 1, use_gpu=options.use_gpu)
    Preflight(storage, tracker if place.startswith(REGISTERED) else None, needs).check()
    room = runs_at_once(needs)
    with_context = not options.without_context
    actors = Actors(place, tracker, options.num_workers or room, options.batch_size, options.use_gpu, with_context)
    with without_remarks():
        table = _score(actors, dataset, options.split, options.order)
    scores = summarize(table["nll_nats"].to_numpy(), dataset.spec.num_subpixels)
    files = _files_of(table, scores, dataset, options, with_context=bool(model.context_spec) and with_context)
    for file, data in files:
        storage.write_bytes(f"{folder}/{file}", data)
    if options.explain is not None:
        for file, data in _explained(model, table, dataset, options).items():
            storage.write_bytes(f"{folder}/{file}", data)
    found = Evaluation(scores, len(table), storage.uri(folder))
    if chosen is None:
        return found
    source = Source(actors, options.probe_seed, first_step(model, dataset, options.probe_seed))
    with without_remarks():
        rows = probe_model(source, dataset, chosen)
    counts = [f"{len(positions):,} of {dataset.num_images(split):,} {split}" for split, positions in chosen.items()]
    title = f"linear probes on labelled images: {', '.join(counts)}"
    for file, data in probe_files(rows, f"{name}\n{title}").items():
        storage.write_bytes(f"{folder}/{file}", data)
    return replace(found, probe=tuple(rows), probe_title=title)


def check_writable(storage: Storage, folder: str, file: str) -> None:
    """See that a folder takes files before there is anything that would be lost; raises `UserError`."""
    try:
        storage.write_bytes(f"{folder}/{file}", b"")
        storage.delete(folder)
    except StorageFull:
        raise
    except (OSError, pa.ArrowException) as error:
        remedy = "give another --storage, or a model whose folders have shorter names"
        raise UserError(f"'{storage.uri(folder)}' cannot be written ({why(error)}); {remedy}") from error


def _files_of(table: pa.Table, scores: Scores, dataset: Dataset, options: Evaluate, *, with_context: bool) -> Iterator[tuple[str, bytes]]:
    """The files that tell of scores, by name: first the nats, which took the time."""
    keys, nll_nats_N = table["key"].to_pylist(), table["nll_nats"].to_numpy()
    nats_NK = np.array(table[OF_ORDERS].to_pylist()) if OF_ORDERS in table.column_names else None
    yield "nats.parquet", nats_table(keys, decode_labels(table["label"]), nll_nats_N, dataset.spec.num_subpixels, nats_NK)
    order = np.argsort(-nll_nats_N, kind="stable")
    for picture, indices in (("lowest", order), ("highest", order[::-1])):
        images_NCHW = _images(dataset, options.split, [keys[index] for index in indices[: options.num_images]])
        yield f"{picture}.png", png_bytes(grid(images_NCHW, dataset.spec.levels))
    summary = {
        "model": options.model,
        "dataset": f"{dataset.name}-{dataset.fingerprint}",
        "split": options.split,
        "with_context": with_context,
        **({} if options.order is None else {"order": options.order}),
        **({} if nats_NK is None else {"bits_per_dim_of_orders": [_bits(nats_N, dataset) for nats_N in nats_NK.T]}),
        "num_images": len(keys),
        **{name: getattr(scores, name) for name in ("bits_per_dim", "bits_per_dim_stderr", "nll_nats")},
    }
    yield SUMMARY, json.dumps(summary, indent=1).encode()


def _explained(model: PixelModel, table: pa.Table, dataset: Dataset, options: Evaluate) -> dict[str, bytes]:
    """The files that explain the least likely and the most likely images, by name."""
    assert options.explain is not None
    keys, ranked_N = table["key"].to_pylist(), np.argsort(-table["nll_nats"].to_numpy(), kind="stable")
    groups = {}
    for group, indices in ((LEAST, ranked_N), (MOST, ranked_N[::-1])):
        chosen = [keys[index] for index in indices[: options.explain]]
        groups[group] = explain(
            model,
            _rows(dataset, options.split, chosen),
            chosen,
            with_context=not options.without_context,
            order=options.order,
            pixel=options.explain_pixel,
            most_passes=options.explain_passes,
            at_once=min(AT_ONCE, options.batch_size),
        )
    facts = [f"{options.model}: {len(keys):,} {options.split} images of {dataset.name}-{dataset.fingerprint} were scored."]
    if model.context_spec:
        facts.append("Without what it is conditioned on." if options.without_context else "Given what it is conditioned on.")
    if options.order is not None and model.context_spec.num_orders > 1:
        facts.append(f"By order {options.order}: {ORDERS[options.order]}.")
    if len(model.stages()) > 1:
        facts.append("The model draws a small image first: the pixels of the small image are before all others.")
    files = explanation_files(groups, dataset.spec.levels, facts)
    return {**files, "explanations.npz": arrays_file([one for group in groups.values() for one in group])}


def _bits(nats_N: np.ndarray, dataset: Dataset) -> float:
    return summarize(nats_N, dataset.spec.num_subpixels).bits_per_dim


def _check_fit(model: PixelModel, dataset: Dataset, options: Evaluate) -> None:
    dataset.num_images(options.split)  # an unknown split is told here
    check_images_fit(model, dataset)
    if options.without_context and not model.context_spec:
        raise UserError("--without-context given, and the model is not conditioned on anything; leave it out")
    if not options.without_context:
        check_context_fits(model.context_spec, dataset, (options.split,), "score it with --without-context")
    if options.order is not None:
        check_order(options.order, model.context_spec.num_orders)
    if options.explain is not None and options.order is None and model.context_spec.num_orders > 1:
        have = f"0..{model.context_spec.num_orders - 1}"
        raise UserError(f"--explain: a pixel costs something in one order only, not in a mixture of them; give --order too, {have}")
    if options.explain_pixel is not None:
        check_pixel(model, options.explain_pixel)
    if options.split == "train" and dataset.train_images_are_grey:
        raise UserError(f"split 'train' of data set '{dataset.name}' is drawn anew each epoch; evaluate validation or test")


def _score(actors: Actors, dataset: Dataset, split: str, order: int | None) -> pa.Table:
    """What `Scorer` tells of every image of the split, ordered by key."""
    rows = actors.over(dataset.stream(split), len(dataset.shards(split)), Scorer, actors, dataset, order)
    batches: list[pa.Table] = []
    with counting("scoring", dataset.num_images(split), "images") as advance:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            batches.append(batch)
            advance(len(batch))
    table = pa.concat_tables(batches).sort_by("key")
    if len(table) != dataset.num_images(split):
        raise RuntimeError(f"{len(table)} images were scored, the split has {dataset.num_images(split)}")
    return table


def _images(dataset: Dataset, split: str, keys: list[str]) -> np.ndarray:
    """Images of these keys, in this order, (N, C, H, W)."""
    return _rows(dataset, split, keys).images_NCHW


def _rows(dataset: Dataset, split: str, keys: list[str]) -> Rows:
    """Images of these keys, in this order, with their labels and vectors."""
    if dataset.split_bytes(split) < RESIDENT_BYTES:
        whole = dataset.read(split)
        position = {key: index for index, key in enumerate(whole.keys)}
        return whole.rows.at(np.array([position[key] for key in keys]))
    wanted = pa.array(keys)
    found = dataset.stream(split).map_batches(lambda batch: batch.filter(pa.compute.is_in(batch["key"], wanted)), batch_format="pyarrow")
    table = pa.concat_tables(list(found.iter_batches(batch_size=None, batch_format="pyarrow")))
    position = {key: index for index, key in enumerate(table["key"].to_pylist())}
    return rows_of(table, dataset).at(np.array([position[key] for key in keys]))
