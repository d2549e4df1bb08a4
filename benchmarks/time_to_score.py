"""How long a recipe trains until its validation images score so well: the board of `docs/experiments.md`.

    python -m benchmarks.time_to_score --bits-per-dim 1.75                                            # the gated net of `digits`
    python -m benchmarks.time_to_score --suite mnist_small --model pixelcnn_pp --data-path FOLDER --nats 92

Seconds are wall clock from the first step to the end of the first epoch whose validation score is as good, on all cores, without Ray. The
learning rate falls as the recipe says, and the run ends with that epoch (`--whole`: with its last one). FOLDER has the IDX files of MNIST,
or of a part of it, as `benchmarks/quality.py` makes them. The last thing printed is one JSON object; it is also written to
`benchmarks/results/` with the date.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.dated import RESULTS, write_dated
from pixelmodels.commandline import parse
from pixelmodels.data import prepare
from pixelmodels.errors import UserError, exit_with, unknown
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan


@dataclass(frozen=True)
class Arguments:
    """Time a recipe to a validation score."""

    suite: str = "digits"
    model: str = "gated_pixelcnn"  # name of a recipe of the suite
    data_path: str | None = None  # the suite's files, where they come with no package
    bits_per_dim: float | None = None  # the score to reach
    nats: float | None = None  # the same in nats an image
    seed: int = 0  # of the run
    whole: bool = False  # train to the end, and test
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        if (self.bits_per_dim is None) == (self.nats is None):
            raise UserError("give one score to reach: --bits-per-dim or --nats")


class Reached(Exception):
    """The score is reached."""


def main() -> int:
    """Train, print and write."""
    arguments = parse(Arguments)
    torch.set_num_threads(num_cores())
    recipes = {recipe.name: recipe for recipe in suite(arguments.suite)}
    if arguments.model not in recipes:
        raise unknown("model", arguments.model, recipes)
    with tempfile.TemporaryDirectory() as folder:
        storage, recipe = Storage(folder), recipes[arguments.model]
        recipe = dataclasses.replace(recipe, seed=arguments.seed, num_samples=0)
        data = recipe.dataset if arguments.data_path is None else dataclasses.replace(recipe.dataset, path=arguments.data_path)
        dataset = prepare(data, storage)
        score = arguments.bits_per_dim
        if score is None:
            assert arguments.nats is not None
            score = float(bits_per_dim(arguments.nats, dataset.spec.num_subpixels))
        begun: list[float] = []
        reached: list[tuple[float, int]] = []

        def after_step(_: int) -> None:
            if not begun:
                begun.append(time.monotonic())

        def report(metrics: dict[str, float]) -> None:
            if not reached and metrics.get("val/bits_per_dim", float("inf")) <= score:
                reached.append((time.monotonic() - begun[0], int(metrics["epoch"])))
                if not arguments.whole:
                    raise Reached

        plan = RunPlan(recipe, dataset, storage, "timed", num_threads=num_cores(), report_epochs=True)
        result = None
        with suppress(Reached):
            result = train(plan, say=lambda line: print(line, file=sys.stderr), report=report, after_step=after_step)
    seconds, epoch = reached[0] if reached else (None, None)
    figures = {
        "suite": arguments.suite,
        "model": arguments.model,
        "score_bits_per_dim": round(score, 4),
        "seconds_to_score": seconds and round(seconds, 1),  # null: not reached
        "epoch": epoch,
        "epochs": recipe.epochs,
    }
    if result is not None:
        figures |= {
            "seconds": round(result.seconds, 1),
            "validation_bits_per_dim": round(result.val_bits_per_dim, 4),
            "test_bits_per_dim": round(result.test_bits_per_dim, 4),
            "test_nats": round(result.test_nll_nats, 3),
        }
    write_dated("time_to_score", figures, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
