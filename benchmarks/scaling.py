"""What a second worker brings: training speed of one worker with two threads, two workers on one host, and two hosts.

    python -m benchmarks.scaling             # about 15 minutes, on a machine where nothing else runs

On two cores. Each run trains the same net (the digits' gated PixelCNN) with the same 64 images a step in

    threads     one worker with two threads
    workers     two workers with a thread each, on one host
    hosts       two workers with a thread each, on two hosts

where a host is one of `cluster/local_cluster.py` (Linux, root). In every round each of them trains once, in turns. The figures are
images a second of training alone (`train_images_per_second` of a run's result), median, best and worst over the rounds, and as shares:
`workers` of `threads`, `hosts` of `workers`. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with
the date. Exit status 1 where a share is below its goal.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import statistics
import sys
import time
from pathlib import Path

from cluster import network
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, check_at_least, exit_with
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.files import recipe_text
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.result import RUNS, finished
from pixelmodels.storage import Storage

RESULTS = Path(__file__).parent / "results"
GOALS = {"workers_of_threads": 0.9, "hosts_of_workers": 0.85}


@dataclasses.dataclass(frozen=True)
class ScalingOptions:
    """Compare one worker of two threads with two workers on one host and on two."""

    rounds: int = 5  # how often each trains
    epochs: int = 4  # of each training
    batch_size: int = 64  # images a step
    suite: str = "digits"  # where the recipe is from
    recipe: str = "gated_pixelcnn"  # which it is

    def __post_init__(self) -> None:
        check_at_least(self, rounds=1, epochs=1, batch_size=1)


def trained(cluster: LocalCluster, options: ScalingOptions, name: str, words: str) -> float:
    """Train once on a cluster, with these options of train_all; images a second."""
    recipe = next(one for one in suite(options.suite) if one.name == options.recipe)
    recipe = dataclasses.replace(recipe, name="scaling", epochs=options.epochs, batch_size=options.batch_size, patience=0, num_samples=0)
    recipe_file, storage = cluster.folder / "scaling.yaml", Storage(str(cluster.folder / f"storage-{name}"))
    recipe_file.write_text(recipe_text(recipe))
    command = f"pipelines/train_all.py --recipe-file {recipe_file} --storage {storage.root} --fresh {words}"
    variables = {"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}"}
    done = cluster.head.run([sys.executable, *command.split()], variables=variables, timeout_s=900.0, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stdout}{done.stderr}")
    (run,) = [found for found in storage.list(RUNS) if found.startswith("scaling-")]
    result = finished(storage, f"{RUNS}/{run}")
    assert result is not None
    return result.train_images_per_second


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write what was found; status 1 where a goal is missed."""
    options = parse(ScalingOptions, argv)
    if (reason := network.lacks()) is not None:
        raise UserError(f"hosts of their own cannot be had here: {reason}")
    speeds: dict[str, list[float]] = {"threads": [], "workers": [], "hosts": []}
    # A CPU more than train: for Ray Data. MLflow's server on SQLite is enough; several nodes need one.
    with (
        LocalCluster(LocalClusterOptions(workers=0, cpus=3, mlflow=True)) as one,
        LocalCluster(LocalClusterOptions(workers=2, cpus=1, mlflow=True)) as two,
    ):
        plans = {
            "threads": (one, "--num-workers 1 --cpus-per-worker 2"),
            "workers": (one, "--num-workers 2"),
            "hosts": (two, "--num-workers 2"),
        }
        for number in range(options.rounds):
            order = list(plans)[number % 3 :] + list(plans)[: number % 3]
            for name in order:
                cluster, words = plans[name]
                speeds[name].append(trained(cluster, options, name, words))
                print(f"round {number + 1}: {name} {speeds[name][-1]:.1f} images/s", flush=True)
                time.sleep(2)
    figures = {name: {"median": statistics.median(all_of), "best": max(all_of), "worst": min(all_of)} for name, all_of in speeds.items()}
    shares = {"workers_of_threads": ("workers", "threads"), "hosts_of_workers": ("hosts", "workers")}
    report = {
        "options": dataclasses.asdict(options),
        "machine": {"cores": num_cores(), "processor": platform.machine(), "python": platform.python_version()},
        "images_per_second": {name: {kind: round(value, 1) for kind, value in one_of.items()} for name, one_of in figures.items()},
        "shares": {
            name: {kind: round(figures[upper][kind] / figures[lower][kind], 3) for kind in ("median", "best")}
            for name, (upper, lower) in shares.items()
        },
        "goals": GOALS,
    }
    (RESULTS / f"scaling-{datetime.date.today()}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0 if all(report["shares"][name]["median"] >= goal for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    exit_with(main)
