"""What Ray Train costs: the wall clock of a run through TorchTrainer, and of the same run in a process without Ray, in turn.

    python -m benchmarks.ray_over_bare                  # the gated net of `digits`, 8 epochs each way, 5 rounds: some 10 minutes
    python -m benchmarks.ray_over_bare --epochs 20

Seconds are a run's own, from its first step to its test score, after its worker has started: all epochs, their validation, reports to Ray
Train and checkpoints. `ray_over_bare` is the bare run's seconds over the other's, 1 where Ray costs nothing: best of each, and medians.
The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.dated import RESULTS, write_dated
from pixelmodels import ray_cluster
from pixelmodels.commandline import parse
from pixelmodels.data import Dataset, prepare
from pixelmodels.errors import exit_with
from pixelmodels.progress import Progress
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import fit


@dataclass(frozen=True)
class Arguments:
    """Measure what Ray Train costs."""

    model: str = "gated_pixelcnn"  # of the suite `digits`
    epochs: int = 8  # of a run
    rounds: int = 5  # runs of each way
    out: Path = RESULTS  # folder for the JSON
    bare: Path | None = None  # internal: train in this process, with this storage root, and print its seconds


def plan_of(arguments: Arguments, storage: Storage, run: str) -> RunPlan:
    """A run of that name, with every core, that draws and tracks nothing."""
    (found,) = (recipe for recipe in suite("digits") if recipe.name == arguments.model)
    recipe = dataclasses.replace(found, epochs=arguments.epochs, num_samples=0)
    dataset: Dataset = prepare(recipe.dataset, storage)
    return RunPlan(recipe, dataset, storage, run, num_threads=ray_cluster.num_cores(), report_epochs=True)


def bare_seconds(arguments: Arguments, root: Path, run: str) -> float:
    """Of a run in a process of its own."""
    flags = ["--model", arguments.model, "--epochs", str(arguments.epochs), "--bare", str(root / run)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ray_over_bare", *flags]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    if arguments.bare is not None:
        plan = plan_of(arguments, Storage(str(arguments.bare.parent)), arguments.bare.name)
        print(train(plan, say=lambda line: print(line, file=sys.stderr)).seconds)
        return 0
    progress = Progress(lambda line: print(line, file=sys.stderr))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plan_of(arguments, Storage(folder), "first")  # the data are prepared
        ray_cluster.connect()
        seconds: dict[str, list[float]] = {"bare": [], "ray": []}
        for number in range(arguments.rounds):
            for way in list(seconds)[:: 1 if number % 2 == 0 else -1]:
                run = f"{way}{number}"
                if way == "bare":
                    seconds[way].append(bare_seconds(arguments, root, run))
                else:
                    plan = plan_of(arguments, Storage(folder), run)
                    seconds[way].append(fit(plan, WorkerNeeds(1, ray_cluster.num_cores(), False), progress.actor).seconds)
    bare, ray = seconds["bare"], seconds["ray"]
    figures = {
        "model": arguments.model,
        "epochs": arguments.epochs,
        **{f"{way}_seconds": [round(value, 2) for value in values] for way, values in seconds.items()},
        "ray_over_bare_median": round(median(bare) / median(ray), 3),
        "ray_over_bare_best": round(min(bare) / min(ray), 3),
    }
    write_dated("ray_over_bare", figures, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
