"""`evaluate`: a trained model scored on a prepared data set, by Ray Data over the cluster."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import tyro

from pixelmodels import rayctx
from pixelmodels.data import Dataset, decode_labels, decode_rows, find_dataset
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.storage import DEFAULT_STORAGE, Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.grids import grid, png_bytes
from pixelmodels.training.conditioning import check_context_fits, check_images_fit
from pixelmodels.training.evaluation import Scores, nats_table, score_rows, summarize
from pixelmodels.training.feeds import RESIDENT_BYTES
from pixelmodels.training.loading import REGISTERED, find_model, locate
from pixelmodels.training.preflight import WorkerNeeds, check_shared, runs_at_once
from pixelmodels.training.probe import ProbeRow, probe_files
from pixelmodels.training.probe_run import Source, choose_images, first_step, probe_model
from pixelmodels.training.streaming import rows_of

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Evaluate:
    """Score a trained model on a prepared data set: bits/dim, the nats of each image, the likeliest images and the unlikeliest."""

    model: Annotated[str, tyro.conf.Positional]  # folder of a run or checkpoint (path or s3:// URI), or models:/name/version
    dataset: str  # prepared data set: name, or name-fingerprint
    split: str = "test"  # train, validation or test
    storage: str = DEFAULT_STORAGE  # storage root: a local folder or s3://bucket/prefix
    num_workers: int | None = None  # actors that hold the model; as many as the cluster has room for unless given
    use_gpu: bool = False  # one GPU an actor
    batch_size: int = 128  # images scored at a time
    num_images: int = 16  # images in each picture of extremes
    probe: bool = False  # also read the labels off each layer's activations with a linear classifier: trained on train, tested on test
    probe_images: int = 10_000  # training images of a probe at most
    probe_seed: int = 0  # which ones, and the weights of the untrained network that it compares with
    without_context: bool = False  # score a conditional model with all that it is conditioned on left out

    def __post_init__(self) -> None:
        for name in ("num_workers", "batch_size", "num_images", "probe_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value} is too few; give 1 or more")


@dataclass(frozen=True)
class Evaluation:
    """What came of it."""

    scores: Scores  # of the split
    num_images: int  # images scored
    folder: str  # path or URI: nats.parquet, lowest.png, highest.png, evaluation.json; with a probe also probe.csv, probe.png
    probe: tuple[ProbeRow, ...] = ()  # baselines, then layers in order of depth
    probe_title: str = ""  # what the probes were trained and tested on


class Scorer:
    """An actor that holds the model and scores batches of rows."""

    def __init__(self, place: str, dataset: Dataset, tracker: Tracker, *, use_gpu: bool = False, with_context: bool = True) -> None:
        self._dataset, self._with_context = dataset, with_context
        self._device = torch.device("cuda" if use_gpu else "cpu")
        self._model = find_model(place, dataset.storage, tracker).to(self._device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of the data set to rows with columns key, label and nll_nats."""
        nll_nats = score_rows(self._model, rows_of(batch, self._dataset), self._device, with_context=self._with_context)
        return pa.table({"key": batch["key"], "label": batch["label"], "nll_nats": nll_nats})


def evaluate(options: Evaluate) -> Evaluation:
    """Score a model on a split; raises `UserError` when there is no such model or data, or they do not fit."""
    storage = Storage(options.storage)
    storage.check_writable()
    dataset = find_dataset(storage, options.dataset)
    place = locate(options.model, storage)
    tracker = Tracker(storage)  # as this process sees it: the actors may have another environment
    model = find_model(place, storage, tracker)
    _check_fit(model, dataset, options)
    chosen = None
    if options.probe:
        chosen = choose_images(dataset, options.probe_images, options.probe_seed)
    rayctx.connect()
    check_shared(storage, tracker.uri if place.startswith(REGISTERED) else "")
    room = runs_at_once(WorkerNeeds(1 if options.num_workers is None else options.num_workers, use_gpu=options.use_gpu))
    num_workers = room if options.num_workers is None else options.num_workers
    table = _score(place, dataset, options, tracker, num_workers)
    nll_nats_N = table["nll_nats"].to_numpy()
    scores = summarize(nll_nats_N, dataset.spec.num_subpixels)
    name = options.model.rstrip("/").replace("models:/", "").split("/runs/")[-1].replace("/", "-").replace("@", "-").removeprefix("-")
    folder = f"{EVALUATIONS}/{name}-{dataset.name}-{options.split}-{time.strftime('%Y%m%d-%H%M%S')}"
    storage.write_bytes(
        f"{folder}/nats.parquet",
        nats_table(table["key"].to_pylist(), decode_labels(table["label"]), nll_nats_N, dataset.spec.num_subpixels),
    )
    order = np.argsort(-nll_nats_N, kind="stable")
    for picture, indices in (("lowest", order[: options.num_images]), ("highest", order[::-1][: options.num_images])):
        images = _images(dataset, options.split, [table["key"][int(index)].as_py() for index in indices])
        storage.write_bytes(f"{folder}/{picture}.png", png_bytes(grid(images, dataset.spec.levels)))
    summary = {
        "model": options.model,
        "dataset": f"{dataset.name}-{dataset.fingerprint}",
        "split": options.split,
        "with_context": bool(model.context_spec) and not options.without_context,
        "num_images": len(nll_nats_N),
        "bits_per_dim": scores.bits_per_dim,
        "bits_per_dim_stderr": scores.bits_per_dim_stderr,
        "nll_nats": scores.nll_nats,
    }
    storage.write_bytes(f"{folder}/evaluation.json", json.dumps(summary, indent=1).encode())
    found = Evaluation(scores, len(nll_nats_N), storage.uri(folder))
    if chosen is None:
        return found
    source = Source(
        place,
        storage,
        tracker,
        options.use_gpu,
        num_workers,
        options.batch_size,
        options.probe_seed,
        first=first_step(model, dataset, options.probe_seed),
        with_context=not options.without_context,
    )
    rows = probe_model(source, dataset, chosen)
    counts = [f"{len(positions):,} of {dataset.num_images(split):,} {split}" for split, positions in chosen.items()]
    title = f"linear probes on labelled images: {', '.join(counts)}"
    for file, data in probe_files(rows, f"{name}\n{title}").items():
        storage.write_bytes(f"{folder}/{file}", data)
    return replace(found, probe=tuple(rows), probe_title=title)


def _check_fit(model: PixelModel, dataset: Dataset, options: Evaluate) -> None:
    dataset.num_images(options.split)  # an unknown split is told here
    check_images_fit(model, dataset)
    if options.without_context and not model.context_spec:
        raise UserError("--without-context given, and the model is not conditioned on anything; leave it out")
    if not options.without_context:
        check_context_fits(model.context_spec, dataset, (options.split,), "score it with --without-context")
    if options.split == "train" and dataset.train_images_are_grey:
        raise UserError(f"split 'train' of data set '{dataset.name}' is drawn anew each epoch; evaluate validation or test")


def _score(place: str, dataset: Dataset, options: Evaluate, tracker: Tracker, num_workers: int) -> pa.Table:
    """Columns key, label and nll_nats of every image of the split, ordered by key."""
    import ray.data

    rows = dataset.stream(options.split).map_batches(
        Scorer,
        fn_constructor_args=(place, dataset, tracker),
        fn_constructor_kwargs={"use_gpu": options.use_gpu, "with_context": not options.without_context},
        batch_size=options.batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(dataset.shards(options.split)))),  # a shard is read by one task
        num_cpus=1,
        num_gpus=1 if options.use_gpu else 0,
    )
    table = pa.concat_tables(list(rows.iter_batches(batch_size=None, batch_format="pyarrow"))).sort_by("key")
    if len(table) != dataset.num_images(options.split):
        raise RuntimeError(f"{len(table)} images were scored, the split has {dataset.num_images(options.split)}")
    return table


def _images(dataset: Dataset, split: str, keys: list[str]) -> np.ndarray:
    """Images of these keys, in this order, (N, C, H, W)."""
    if dataset.split_bytes(split) < RESIDENT_BYTES:
        whole = dataset.read(split)
        position = {key: index for index, key in enumerate(whole.keys)}
        return whole.images_NCHW[[position[key] for key in keys]]
    wanted = pa.array(keys)
    found = dataset.stream(split).map_batches(lambda batch: batch.filter(pa.compute.is_in(batch["key"], wanted)), batch_format="pyarrow")
    table = pa.concat_tables(list(found.iter_batches(batch_size=None, batch_format="pyarrow")))
    images = dict(zip(table["key"].to_pylist(), decode_rows(table["image"], dataset.spec.shape), strict=True))
    return np.stack([images[key] for key in keys])
