"""How images come to training: read from shards, streamed beside held in memory, and how often they are read.

    python -m benchmarks.data_feeding             # about 10 minutes, on a machine where nothing else runs
    python -m benchmarks.data_feeding --quick     # small sizes, one round: about 3 minutes; the figures are rough

`reading`: 32x32 RGB images a second of one core's time from shards on a local disk, all of it: the file, its sha256, Parquet, the array of
a window, and each of two workers' rows. `thread`: images a second of a small net in this process with as many torch threads as there are
cores, what the next steps take made by a thread, and made between the steps, the two in turn. `training`: images a second of that net in
one worker of Ray Train, the data set on an S3 server on this machine (SeaweedFS, `cluster/servers.py`), the train split in memory and
streamed, the two in turn; of each epoch but the first, in which the one reads all and the other starts its tasks. `over` is the median of
the rounds' ratios. `bytes`: what two workers together read of each split in one epoch and the test after it (whose labels are read once
more), over the split's size in storage, and of `epoch`, training and validation; each split is streamed.
The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from benchmarks.dated import RESULTS, write_dated
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels import ray_cluster
from pixelmodels.commandline import parse
from pixelmodels.data import Dataset, DatasetConfig, feeds
from pixelmodels.data.config import SPLITS
from pixelmodels.data.dataset import FORMAT_VERSION, MANIFEST
from pixelmodels.data.shards import encode_shard
from pixelmodels.data.streaming import WINDOW_SHARDS, Windows
from pixelmodels.errors import exit_with
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe, run_key
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training import loop
from pixelmodels.training.ahead import made_ahead
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import run_group, wrap

SPEC = ImageSpec(3, 32, 32, 256)
FOLDER = "datasets/feeding"
ROWS_PER_SHARD = DatasetConfig().rows_per_shard
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure how images come to training."""

    quick: bool = False  # small sizes and one round, to see that it works; the figures are rough
    rounds: int = 3  # of the two trainings in turn (1 with --quick)
    epochs: int = 3  # of each training, of which the first is not counted
    num_shards: int = 8  # of the train split, of 2048 images each (5 of 512 with --quick)
    out: Path = RESULTS  # folder for the JSON


class _CountedFile:
    """A file that is open for random access, and tells how much of it is read."""

    closed = False

    def __init__(self, file: pa.NativeFile, note: Callable[[int], None]) -> None:
        self._file, self._note = file, note
        self.seek, self.tell, self.size = file.seek, file.tell, file.size

    def read(self, count: int | None = None) -> bytes:
        data = bytes(self._file.read(count))
        self._note(len(data))
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self._file.close()


class CountingStorage(Storage):
    """A storage root that writes down how many bytes of each file are read, in a file that all processes of the machine append to."""

    def __init__(self, root: str, notes: str) -> None:
        super().__init__(root)
        self.notes = notes

    def read_bytes(self, path: str) -> bytes:
        data = super().read_bytes(path)
        self._note(path, len(data))
        return data

    def open_input(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_CountedFile(super().open_input(path), partial(self._note, path)), mode="r")

    def _note(self, path: str, num_bytes: int) -> None:
        with open(self.notes, "a") as file:
            file.write(f"{num_bytes} {path}\n")


def images(count: int, seed: int) -> np.ndarray:
    """Smooth colours under noise, which no compression makes much smaller, as it does not photographs: N,H,W,C."""
    rng = np.random.default_rng(seed)
    smooth_NHWC = np.kron(rng.uniform(40, 216, (count, 4, 4, 3)).astype(np.float32), np.ones((1, 8, 8, 1), np.float32))
    return np.clip(smooth_NHWC + rng.normal(0, 12, smooth_NHWC.shape), 0, 255).astype(np.uint8)


def write_dataset(storage: Storage, num_shards: int, rows: int) -> Dataset:
    """A data set of generated images as `prepare` would write it."""
    splits: dict[str, Any] = {}
    for number, (split, shards) in enumerate(zip(SPLITS, (num_shards, 1, 1), strict=True)):
        entries = []
        for shard in range(shards):
            name = f"{split}-{shard:05d}.parquet"
            keys = [f"{split}/{shard}/{row}" for row in range(rows)]
            data = encode_shard(images(rows, 1000 * number + shard), [row % 10 for row in range(rows)], keys, SPEC.levels)
            storage.write_bytes(f"{FOLDER}/{name}", data)
            entries.append({"file": name, "num_images": rows, "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        splits[split] = {"num_images": shards * rows, "num_unlabelled": 0, "shards": entries}
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": "feeding",
        "fingerprint": "0" * 12,
        "image": dataclasses.asdict(SPEC),
        "label_names": [str(label) for label in range(10)],
        "train_images_are_grey": False,
        "skipped": {"count": 0, "num_hidden": 0},
        "splits": splits,
    }
    storage.write_bytes(f"{FOLDER}/{MANIFEST}", json.dumps(manifest).encode())
    return Dataset(storage, FOLDER, manifest)


def reading(rows: int, num_times: int = 5) -> dict[str, float]:
    """Images a second of one core's time, best of some windows, through all that a task does."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Storage(folder), WINDOW_SHARDS, rows)
        windows = Windows(dataset, 0, BATCH, 2)
        windows.read(0, 0, 0)  # once, for what is made when it is first used
        spent = []
        for epoch in range(num_times):
            began = time.process_time()
            parts = windows.read(epoch, 0, 0)
            spent.append(time.process_time() - began)
            if sum(map(len, parts)) != dataset.num_images("train"):
                raise RuntimeError(f"{sum(map(len, parts))} images of {dataset.num_images('train')} were read")
    return {"images_per_core_second": round(sum(map(len, parts)) / min(spent)), "window_images": sum(map(len, parts))}


def thread(num_shards: int, rows: int, rounds: int) -> dict[str, Any]:
    """Images a second with a thread that makes what the next steps take, and without it."""
    speeds: dict[str, list[float]] = {"with": [], "without": []}
    ways: dict[str, Any] = {"with": made_ahead, "without": lambda items: (item for item in items)}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Storage(folder), num_shards, rows)
        for number in range(rounds):
            for how in list(ways)[:: 1 - 2 * (number % 2)]:
                plan = dataclasses.replace(plan_of(dataset, f"{how}-{number}", 4), num_threads=ray_cluster.num_cores())
                with patch.object(loop, "made_ahead", ways[how]):
                    speeds[how].append(statistics.mean(speeds_of(plan, torch.device("cpu"))[1:]))
    medians = {how: round(statistics.median(found), 1) for how, found in speeds.items()}
    over = [ahead / alone for ahead, alone in zip(speeds["with"], speeds["without"], strict=True)]
    return {**medians, "over": round(statistics.median(over), 4), "over_of_rounds": [round(one, 4) for one in over]}


def speeds_of(plan: RunPlan, device: torch.device, wrapped: Callable[[nn.Module], nn.Module] | None = None) -> list[float]:
    """Train, and give the images a second of each epoch."""
    found: list[float] = []

    def report(metrics: dict[str, float]) -> None:
        if "images_per_second" in metrics:
            found.append(metrics["images_per_second"])

    loop.train(plan, device=device, wrap=wrapped, say=lambda _: None, report=report)
    return found


def plan_of(dataset: Dataset, place: str, epochs: int) -> RunPlan:
    """A small net, whose training asks for many images a second."""
    model = PixelCNNConfig(num_layers=1, num_features=8, first_kernel_size=3, head_features=16)
    recipe = Recipe(
        name="feeding",
        dataset=DatasetConfig(),
        model=model,
        likelihood=LikelihoodConfig("discretized_logistic_mixture", num_mixtures=1),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=BATCH,
        epochs=epochs,
        num_samples=0,
    )
    key = run_key(recipe, dataset.fingerprint)
    return RunPlan(recipe, dataset, Storage(dataset.storage.root), key, num_threads=1, report_epochs=True, place=place)


def worker(config: dict[str, Any]) -> str:
    """What each worker runs: the training; gives the images a second of each epoch.

    Args: `config` with the plan, and the bytes from which on a split is streamed.
    """
    import ray.train.torch

    feeds.RESIDENT_BYTES = config["resident_bytes"]
    return json.dumps(speeds_of(config["plan"], ray.train.torch.get_device(), wrap))


def training(dataset: Dataset, arguments: Arguments) -> dict[str, Any]:
    """Images a second of epochs, held in memory and streamed."""
    speeds: dict[str, list[float]] = {"resident": [], "streamed": []}
    of_epochs: dict[str, list[list[float]]] = {"resident": [], "streamed": []}
    resident_bytes = {"resident": 1 << 60, "streamed": 0}
    for number in range(1 if arguments.quick else arguments.rounds):
        for how in list(resident_bytes)[:: 1 - 2 * (number % 2)]:  # neither is always the first
            config = {"plan": plan_of(dataset, f"{how}-{number}", arguments.epochs), "resident_bytes": resident_bytes[how]}
            found = json.loads(str(run_group(worker, config, WorkerNeeds(1))))
            of_epochs[how].append([round(speed, 1) for speed in found])
            speeds[how].append(statistics.mean(found[1:]))
            print(f"round {number + 1}, {how}: {of_epochs[how][-1]} images/s", file=sys.stderr)
    over = [streamed / resident for streamed, resident in zip(speeds["streamed"], speeds["resident"], strict=True)]
    medians = {how: round(statistics.median(found), 1) for how, found in speeds.items()}
    return {**medians, "over": round(statistics.median(over), 4), "over_of_rounds": [round(one, 4) for one in over], "epochs": of_epochs}


def bytes_read(dataset: Dataset) -> dict[str, float]:
    """What two workers read of each split over its size, in a training of one epoch and its test."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "read"
        counting = Dataset(CountingStorage(dataset.storage.root, str(notes)), dataset.folder, dataset.manifest)
        run_group(worker, {"plan": plan_of(counting, "counted", 1), "resident_bytes": 0}, WorkerNeeds(2))
        read = Counter[str]()
        for line in notes.read_text().splitlines():
            num_bytes, path = line.split()
            read[path.removeprefix(f"{dataset.folder}/")] += int(num_bytes)
    files = {split: {shard["file"]: shard["num_bytes"] for shard in dataset.shards(split)} for split in SPLITS}
    shares = {split: sum(read[name] for name in of_split) / sum(of_split.values()) for split, of_split in files.items()}
    of_epoch = [file for split in ("train", "validation") for file in files[split].items()]
    size = sum(num_bytes for _, num_bytes in of_epoch)
    epoch = sum(read[name] for name, _ in of_epoch) / size
    return {
        "epoch": round(epoch, 4),
        **{split: round(share, 4) for split, share in shares.items()},
        "epoch_bytes": sum(n for _, n in of_epoch),
    }


@contextmanager
def bucket() -> Iterator[Storage]:
    """A storage root on an S3 server of this machine, which this process and all that it starts know."""
    with LocalCluster(LocalClusterOptions(workers=0, s3=True, loopback=True), with_ray=False) as servers:
        assert servers.bucket is not None
        os.environ.update(servers.bucket.variables)
        yield Storage(f"{servers.bucket.storage}/feeding")


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    rows, num_shards = (512, 5) if arguments.quick else (ROWS_PER_SHARD, arguments.num_shards)
    in_process = {"reading": reading(rows), "thread": thread(2, rows, 2 if arguments.quick else 2 * arguments.rounds)}
    with bucket() as storage:
        ray_cluster.connect()
        dataset = write_dataset(storage, num_shards, rows)
        report = {
            "quick": arguments.quick,
            "train_images": dataset.num_images("train"),
            **in_process,
            "training": training(dataset, arguments),
            "bytes": bytes_read(dataset),
            "load_average_at_end": os.getloadavg()[0],
        }
    write_dated("data_feeding", report, arguments.out, "quick" if arguments.quick else "")
    return 0


if __name__ == "__main__":
    exit_with(main)
