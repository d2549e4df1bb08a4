"""What a condition is worth: bits/dim with and without it, and whether samples are what was asked for.

    python benchmarks/conditioning.py            # trains the suites digits_by_class, colorization and super_resolution
    python benchmarks/conditioning.py --quick    # two epochs each, to see that it works; the figures are rough

Trained by `pipelines/train_all.py` in a storage root of its own. For each suite: test bits/dim of the model without and
with the condition, and the mean of the paired difference over the test images with its standard error; where the condition
tells some pixels exactly (super_resolution), also on the other pixels alone. For the classes also how many of the samples a
k-nearest-neighbour classifier, trained on the real training images, takes for their class (k = 5, Euclidean, on the levels),
beside its accuracy on real test images. The last thing printed is one JSON object; it is also written to
`benchmarks/results/` with the date, beside pictures.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.neighbors import KNeighborsClassifier

import pixelmodels
from pixelmodels.commandline import parse
from pixelmodels.data import Dataset, find_dataset
from pixelmodels.errors import exit_with
from pixelmodels.evaluation.nats import TEST_NATS
from pixelmodels.evaluation.sample_grids import sample_grid
from pixelmodels.models import Context, ContextBlend, PixelModel
from pixelmodels.models.context_images import context_of, grey, small
from pixelmodels.pictures import grid, write_png
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.result import RESULT
from pixelmodels.sampling import sample
from pixelmodels.storage import Storage

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SUITES = ("digits_by_class", "colorization", "super_resolution")
SAMPLES_A_CLASS = 50
GUIDANCE = (0.0, 1.0)


@dataclass(frozen=True)
class Arguments:
    """Measure what conditions are worth."""

    quick: bool = False  # two epochs of each model
    only: tuple[str, ...] = SUITES  # suites of two recipes: without and with the condition
    storage: str | None = None  # storage root to train in, or to find trained models in; a temporary one unless given
    out: Path = RESULTS  # folder for the JSON and the pictures


def train(name: str, arguments: Arguments, storage: Storage) -> None:
    """Train a suite's two models, or find them trained."""
    command = [sys.executable, str(HERE.parent / "pipelines" / "train_all.py"), "--suite", name, "--storage", storage.root]
    subprocess.run([*command, *(["--epochs", "2"] if arguments.quick else [])], check=True, stdout=sys.stderr)


def run_folder(storage: Storage, recipe: Recipe) -> str:
    """The folder of a finished run of a recipe on its data set."""
    found = []
    for run in storage.list("runs"):
        if run.rsplit("-", 1)[0] == recipe.name and storage.exists(f"runs/{run}/{RESULT}"):
            result = json.loads(storage.read_bytes(f"runs/{run}/{RESULT}"))
            if result["dataset"].rsplit("-", 1)[0] == recipe.dataset.dataset_name():
                found.append(f"runs/{run}")
    return found[-1]


def compare(name: str, storage: Storage) -> dict[str, Any]:
    """Bits/dim of both models of a suite, and the paired difference."""
    without, given = (pq.read_table(io.BytesIO(storage.read_bytes(f"{run_folder(storage, recipe)}/{TEST_NATS}"))) for recipe in suite(name))
    assert without["key"].equals(given["key"])
    bits = [table["bits_per_dim"].to_numpy() for table in (without, given)]
    gain = bits[0] - bits[1]
    stderr = float(gain.std(ddof=1) / math.sqrt(len(gain)))
    return {
        "suite": name,
        "bits_per_dim_without": round(float(bits[0].mean()), 4),
        "bits_per_dim_given": round(float(bits[1].mean()), 4),
        "gain": round(float(gain.mean()), 4),
        "gain_stderr": round(stderr, 4),
        "gain_in_standard_errors": round(float(gain.mean()) / stderr, 1),
        "test_images": len(gain),
    }


def of_pixels_not_given(without: PixelModel, given: PixelModel, dataset: Dataset) -> dict[str, Any]:
    """Bits/dim of both models on the pixels that the condition leaves open, where it tells some of them exactly."""
    bits: list[list[float]] = [[], []]
    for image_CHW in dataset.read("test").images_NCHW:
        x_1CHW = torch.from_numpy(image_CHW)[None].long()
        context = context_of(given.context_spec, x_1CHW)
        known = given.given_pixels(context)
        if known is None:
            return {}
        open_1HW = ~known.mask_BHW
        with torch.inference_mode():
            maps = without.log_prob_map(x_1CHW), given.log_prob_map(x_1CHW, context)
        for found, nats_1HW in zip(bits, maps, strict=True):
            found.append(-float(nats_1HW[open_1HW].sum()) / math.log(2) / (int(open_1HW.sum()) * x_1CHW.shape[1]))
    gain = np.array(bits[0]) - np.array(bits[1])
    return {
        "bits_per_dim_without_of_pixels_not_given": round(float(np.mean(bits[0])), 4),
        "bits_per_dim_given_of_pixels_not_given": round(float(np.mean(bits[1])), 4),
        "gain_of_pixels_not_given": round(float(gain.mean()), 4),
        "gain_of_pixels_not_given_stderr": round(float(gain.std(ddof=1) / math.sqrt(len(gain))), 4),
    }


def recognized(model: PixelModel, dataset: Dataset) -> dict[str, Any]:
    """Share of samples that a classifier of real images takes for the class that was asked for."""
    train_split, test_split = dataset.read("train"), dataset.read("test")
    assert train_split.labels_N is not None and test_split.labels_N is not None
    classifier = KNeighborsClassifier(n_neighbors=5).fit(train_split.images_NCHW.reshape(len(train_split.keys), -1), train_split.labels_N)
    real = classifier.score(test_split.images_NCHW.reshape(len(test_split.keys), -1), test_split.labels_N)
    label_N = torch.arange(dataset.num_classes).repeat_interleave(SAMPLES_A_CLASS)
    found: dict[str, Any] = {"accuracy_on_real_test_images": round(float(real), 4), "samples": len(label_N)}
    for guidance in GUIDANCE:
        x_NCHW = sample(model, len(label_N), seed=0, context=Context(label_B=label_N), guidance=guidance)
        share = float((classifier.predict(x_NCHW.flatten(1).numpy()) == label_N.numpy()).mean())
        found[f"recognized_at_guidance_{guidance:g}"] = round(share, 4)
    return found


def between_classes(model: PixelModel, first: int, second: int) -> np.ndarray:
    """From one class to another with the noise held fixed: a column for each image, a row for each step."""
    ends = [Context(label_B=torch.full((12,), label)) for label in (first, second)]
    blends = [ContextBlend(ends[0], ends[1], share.expand(12)) for share in torch.linspace(0, 1, 9, dtype=torch.float64)]
    x_NCHW = torch.cat([sample(model, 12, seed=0, context=blend) for blend in blends])
    return grid(x_NCHW.numpy(), model.spec.levels, columns=12)


def reproduced(name: str, model: PixelModel, dataset: Dataset) -> float:
    """Mean absolute difference, in levels, between what was given and the same made of the samples."""
    x_NCHW = torch.from_numpy(dataset.read("test").images_NCHW[:64])
    of_name = {"colorization": grey, "super_resolution": lambda x: small(x, 2)}[name]
    given = Context(image_BCHW=of_name(x_NCHW)) if model.context_spec.image is not None else Context(small_BCHW=of_name(x_NCHW))
    drawn = sample(model, len(x_NCHW), seed=0, context=given)
    return float((of_name(drawn).float() - of_name(x_NCHW).float()).abs().mean())


def main() -> int:
    """Train, measure, write, print."""
    arguments = parse(Arguments)
    today = datetime.date.today().isoformat()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(arguments.storage or folder)
        for name in arguments.only:
            train(name, arguments, storage)
            row, (unconditional, conditional) = compare(name, storage), suite(name)
            without, model = (pixelmodels.load(storage.uri(run_folder(storage, recipe))) for recipe in (unconditional, conditional))
            dataset = find_dataset(storage, conditional.dataset.dataset_name())
            if name == "digits_by_class":
                row |= recognized(model, dataset)
                write_png(arguments.out / f"conditioning-{today}-between_classes.png", between_classes(model, 3, 8))
            else:
                row |= of_pixels_not_given(without, model, dataset)
                row["mean_difference_from_given_levels"] = round(reproduced(name, model, dataset), 3)
            write_png(arguments.out / f"conditioning-{today}-{name}.png", sample_grid(dataset, model, 40, seed=0))
            rows.append(row)
    report = {"benchmark": "conditioning", "date": today, "quick": arguments.quick, "rows": rows}
    name = "-".join(["conditioning", today, *(arguments.only if arguments.only != SUITES else ()), *(["quick"] if arguments.quick else [])])
    (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    exit_with(main)
