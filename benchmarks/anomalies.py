"""How well each score tells images apart from those that a model was trained on: six pairs of sets, models trained here.

    python -m benchmarks.anomalies            # about a quarter of an hour on two cores
    python -m benchmarks.anomalies --quick    # one epoch, few images: to see that it works; the figures mean nothing

Two data sets: `photos` in grey (16x16, 256 levels) and `digits` (8x8, 17 levels). Of each, three models are trained by a recipe of its
suite (of photos `pixelcnn`, in many small steps; of digits `gated_pixelcnn`): one of one order; a background model, the same but with
mutated sub-pixels; one of four orders, whose spread is a score. The last two take fewer epochs of photos. Scores are calibrated on the
validation split; the normal images of every pair are the test split. Against the photo patches: digits resized to their size; flat
patches, each of one level drawn at random; the same patches with their pixels shuffled; the same turned upside down. Against the digits:
their mirror images; blends (means) of two of them, of different classes.

One score is recommended for all pairs; docs/anomalies.md says why, and what was known when it was chosen.
The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date, and ROC curves beside it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.dated import RESULTS, write_dated
from pixelmodels.anomalies.codecs import Complexity
from pixelmodels.anomalies.comparison import roc_picture, separation
from pixelmodels.anomalies.measuring import BACKGROUND, CODEC, LEVELS, Instruments, Measured
from pixelmodels.anomalies.scores import NAMES, RECOMMENDED, Calibration, Float64
from pixelmodels.commandline import parse
from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.data.quantization import UInt8
from pixelmodels.data.rows import Rows
from pixelmodels.errors import exit_with
from pixelmodels.evaluation.nats import OF_ORDERS
from pixelmodels.models import PixelModel
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.recipe import Recipe, run_key
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.loading import find_model
from pixelmodels.storage import Storage
from pixelmodels.tables import markdown_table
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan

BATCH = 128
GOAL, AIMED_AT = 0.95, ("digits", "flat", "shuffled")  # of these pairs of photo patches
QUICK_IMAGES = 24
RATE = 0.05
EPOCHS = {"photos": {"model": 14, "background": 6, "ensemble": 6}, "digits": {"model": 14, "background": 14, "ensemble": 14}}


@dataclass(frozen=True)
class Arguments:
    """Measure how well each score tells anomalous images."""

    quick: bool = False  # one epoch, 24 images of each set
    storage: str | None = None  # storage root to train in, or to find trained models in; a temporary one unless given
    mutated_share: float = 0.1  # of the background models
    codecs: tuple[str, ...] = ("png", "webp")  # of input complexity
    seed: int = 0  # of all models, and of what is drawn
    out: Path = RESULTS  # folder for the JSON and the picture


def recipes(arguments: Arguments) -> Iterator[tuple[str, dict[str, Recipe]]]:
    """By the name of the data set: what is trained, by what it is for."""
    photos = next(recipe for recipe in suite("photos") if recipe.name == "pixelcnn")
    digits = next(recipe for recipe in suite("digits") if recipe.name == "gated_pixelcnn")
    grey = DatasetConfig(source="photos", channels=1, name="photos_grey")
    small = dataclasses.replace(photos.model, num_features=32)
    steps = dataclasses.replace(photos.optimizer, learning_rate=4e-3, average_decay=0.995)
    photos = dataclasses.replace(photos, dataset=grey, model=small, optimizer=steps, batch_size=4)
    changes: dict[str, dict[str, Any]] = {"model": {}, "background": {"mutated_share": arguments.mutated_share}, "ensemble": {"orders": 4}}
    for name, recipe in (("photos", photos), ("digits", digits)):
        common = dataclasses.replace(recipe, seed=arguments.seed, num_samples=0)
        epochs = {kind: 1 if arguments.quick else number for kind, number in EPOCHS[name].items()}
        yield (
            name,
            {kind: dataclasses.replace(common, name=f"{name}_{kind}", epochs=epochs[kind], **change) for kind, change in changes.items()},
        )


def trained(recipe: Recipe, dataset: Dataset, storage: Storage) -> tuple[PixelModel, dict[str, Any]]:
    """A model of a recipe, and what is told of its training."""
    plan = RunPlan(recipe, dataset, storage, run_key(recipe, dataset.fingerprint), num_threads=num_cores())
    result = train(plan, say=lambda line: print(line, file=sys.stderr))
    told = {"epochs": result.epochs, "seconds": round(result.seconds, 1), "test_bits_per_dim": round(result.test_bits_per_dim, 4)}
    return find_model(plan.folder, storage), told


def pairs(name: str, test: Rows, classes_N: np.ndarray | None, digits_NCHW: UInt8, rng: np.random.Generator) -> dict[str, UInt8]:
    """By name the images that the test images of a data set are held against."""
    own_NCHW = test.images_NCHW
    if name == "digits":
        assert classes_N is not None
        other_N = np.array([rng.choice(np.flatnonzero(classes_N != label)) for label in classes_N])
        blends = (own_NCHW.astype(np.int64) + own_NCHW[other_N] + 1) // 2
        return {"mirrored": np.ascontiguousarray(own_NCHW[..., ::-1]), "blends": blends.astype(np.uint8)}
    size = own_NCHW.shape[:1:-1]
    grey = np.round(digits_NCHW[:, 0] * (255 / 16)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(digit_HW).resize(size, Image.Resampling.BICUBIC))[None] for digit_HW in grey]
    flat = rng.integers(0, 256, (len(own_NCHW), 1, 1, 1))
    return {
        "digits": np.stack(resized),
        "flat": np.ascontiguousarray(np.broadcast_to(flat, own_NCHW.shape)).astype(np.uint8),
        "shuffled": rng.permuted(own_NCHW.reshape(len(own_NCHW), 1, -1), axis=2).reshape(own_NCHW.shape),
        "upside_down": np.ascontiguousarray(own_NCHW[:, :, ::-1]),
    }


def measured(images_NCHW: UInt8, instruments: Instruments) -> Measured:
    """Images measured in this process."""
    parts = [instruments(Rows(images_NCHW[start : start + BATCH])) for start in range(0, len(images_NCHW), BATCH)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keys = [str(place) for place in range(len(images_NCHW))]
    return Measured(keys, [None] * len(keys), columns[OF_ORDERS], columns[CODEC], columns[LEVELS], columns[BACKGROUND])


def all_scores(
    sets: dict[str, UInt8], models: dict[str, PixelModel], arguments: Arguments
) -> tuple[dict[str, dict[str, Float64]], dict[str, float]]:
    """By set and score: those of the model, and the spread of the ensemble; and the shares of the test images told at `RATE`."""
    scores: dict[str, dict[str, Float64]] = {}
    alarms: dict[str, float] = {}
    for kind, names in (("model", [name for name in NAMES if name != "order_spread"]), ("ensemble", ["order_spread"])):
        one = models[kind]
        instruments = Instruments(one, models["background"], Complexity(arguments.codecs, one.spec), with_context=False)
        found = {name: measured(images, instruments) for name, images in sets.items()}
        calibration = Calibration.of(found["validation"], one.spec)
        for name, each in found.items():
            values = calibration.scores(each)
            scores.setdefault(name, {}).update({score: values[score] for score in names})
        told = calibration.p_values({score: scores["test"][score] for score in names})
        alarms |= {score: round(float((p_values <= RATE).mean()), 4) for score, p_values in told.items()}
    return {name: {score: scores[name][score] for score in NAMES} for name in sets}, alarms


def rounded(value: Any) -> Any:
    """Numbers in what is written, with four places."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> int:
    """Train, score, compare, print and write."""
    arguments = parse(Arguments)
    torch.set_num_threads(num_cores())
    started, rng = time.perf_counter(), np.random.default_rng(arguments.seed)
    figures: dict[str, Any] = {"quick": arguments.quick, "mutated_share": arguments.mutated_share, "codecs": list(arguments.codecs)}
    rows: list[list[str]] = []
    curves: dict[str, tuple[Float64, Float64]] = {}
    goals = {}
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(arguments.storage or folder)
        digits_NCHW = prepare(DatasetConfig(source="digits"), storage, say=lambda _: None).read("test").images_NCHW
        for name, of_kinds in recipes(arguments):
            dataset = prepare(of_kinds["model"].dataset, storage, say=lambda line: print(line, file=sys.stderr))
            found = {kind: trained(recipe, dataset, storage) for kind, recipe in of_kinds.items()}
            most = QUICK_IMAGES if arguments.quick else 10**9
            test = dataset.some("test", most)
            sets = {"validation": dataset.some("validation", most).images_NCHW, "test": test.images_NCHW}
            sets |= pairs(name, test.rows, test.labels_N, digits_NCHW[: len(test)], rng)
            scores, alarms = all_scores(sets, {kind: one for kind, (one, _) in found.items()}, arguments)
            bits = 1 / (math.log(2) * dataset.spec.num_subpixels)
            figures[name] = {
                "models": {kind: told for kind, (_, told) in found.items()},
                "images": {one: len(images) for one, images in sets.items()},
                "bits_per_dim": {one: round(float(values["nats"].mean() * bits), 4) for one, values in scores.items()},
                f"told_of_test_at_{RATE:g}": alarms,
                "pairs": {},
            }
            for other in list(sets)[2:]:
                each = {score: separation(scores["test"][score], scores[other][score], seed=arguments.seed) for score in NAMES}
                figures[name]["pairs"][other] = {score: rounded(dataclasses.asdict(one)) for score, one in each.items()}
                rows.append([f"{name}: {other}", *(f"{each[score].auroc.value:.3f}" for score in NAMES)])
                curves[f"{name}: {other}"] = (scores["test"][RECOMMENDED], scores[other][RECOMMENDED])
                if name == "photos" and other in AIMED_AT:
                    goals[other] = each[RECOMMENDED].auroc.value >= GOAL
    print(markdown_table(("AUROC", *NAMES), rows))
    for other, reached in goals.items():
        print(f"{'reached' if reached else 'MISSED ':8} {RECOMMENDED} against {other}: AUROC {GOAL} or more")
    figures |= {"goals": goals, "minutes": round((time.perf_counter() - started) / 60, 1)}
    path = write_dated("anomalies", figures, arguments.out, "quick" if arguments.quick else "")
    path.with_suffix(".png").write_bytes(roc_picture(curves, f"{RECOMMENDED}: test images against others"))
    return 0


if __name__ == "__main__":
    exit_with(main)
