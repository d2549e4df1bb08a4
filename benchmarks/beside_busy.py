"""What one busy process beside a training costs it, by how torch's OpenMP threads wait for each other.

    python -m benchmarks.beside_busy             # about 8 minutes, on a machine where nothing else runs
    python -m benchmarks.beside_busy --quick     # two policies, short: under 2 minutes

A gated net (the digits' recipe) trains in a process of its own with as many threads as there are cores, and with one, under each way of
waiting; in every round each of them runs once alone and once beside a process that only computes. Where the busy process shares one of
the cores fairly, (cores - 1/2) of the cores are left: 0.75 of the speed on two. The figures are images a second, median, best and worst
over the rounds; `kept` is the share of the same policy's quiet speed that is left beside the busy process, `of_default` its quiet speed
as a share of the default policy's. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date,
beside a plot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.pictures import figure, figure_png
from pixelmodels.ray_cluster import num_cores

RESULTS = Path(__file__).parent / "results"
# libgomp (torch's own on Linux) reads these when it is loaded: how long a thread that waits for others keeps its core.
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "bound": {"OMP_PROC_BIND": "true"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
QUICK = ("default", "passive")
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure a training beside a busy process."""

    quick: bool = False  # two policies and short runs: the figures are rough
    rounds: int = 5  # of all policies, quiet and busy in turn
    seconds: float = 5.0  # that each measurement trains, after its first steps
    only: tuple[str, ...] = ()  # policies to measure; all unless given
    out: Path = RESULTS  # folder for the JSON and the plot
    train: bool = False  # internal: train in this process, and print images a second


def train(seconds: float) -> float:
    """Images a second of the digits' gated net in this process, with torch's own number of threads."""
    import torch

    from pixelmodels.models import build
    from pixelmodels.recipes.suites import suite
    from pixelmodels.shapes import ImageSpec

    recipe = next(recipe for recipe in suite("digits") if recipe.name == "gated_pixelcnn")
    torch.manual_seed(0)
    spec = ImageSpec(channels=1, height=8, width=8, levels=17)
    model = build(recipe.model, spec, recipe.likelihood)
    optimizer = torch.optim.Adam(model.parameters())
    x_BCHW = torch.randint(0, spec.levels, (BATCH, *spec.shape))

    def step() -> None:
        optimizer.zero_grad()
        (-model.log_prob(x_BCHW).mean()).backward()
        optimizer.step()

    for _ in range(5):
        step()
    started, num_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    return num_steps * BATCH / (time.perf_counter() - started)


@contextlib.contextmanager
def busy(on: bool) -> Iterator[None]:
    """A process that only computes, while the context is open."""
    if not on:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(policy: str, seconds: float) -> float:
    """Images a second of a training of its own under a policy."""
    command = [sys.executable, "-m", "benchmarks.beside_busy", "--train", "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_cores()), **POLICIES[policy]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return float(done.stdout.strip().splitlines()[-1])


def run(arguments: Arguments) -> dict[str, object]:
    """The figures of all policies."""
    policies = arguments.only or (QUICK if arguments.quick else tuple(POLICIES))
    rounds, seconds = (2, 2.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    found: dict[str, dict[str, list[float]]] = {policy: {"quiet": [], "busy": []} for policy in policies}
    for number in range(rounds):
        for policy in policies:
            for how in ("quiet", "busy"):
                with busy(how == "busy"):
                    found[policy][how].append(measure(policy, seconds))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    default = statistics.median(found["default"]["quiet"]) if "default" in found else None
    rows: list[dict[str, object]] = []
    for policy, speeds in found.items():
        alone, beside = statistics.median(speeds["quiet"]), statistics.median(speeds["busy"])
        rows.append(
            {
                "policy": policy,
                "environment": POLICIES[policy],
                "quiet_median": round(alone, 1),
                "quiet_best": round(max(speeds["quiet"]), 1),
                "busy_median": round(beside, 1),
                "busy_best": round(max(speeds["busy"]), 1),
                "busy_worst": round(min(speeds["busy"]), 1),
                "kept": round(beside / alone, 3),
                "of_default": None if default is None else round(alone / default, 3),
            }
        )
    return {
        "benchmark": "beside_busy",
        "date": datetime.date.today().isoformat(),
        "quick": arguments.quick,
        "cores": num_cores(),
        "rounds": rounds,
        "seconds": seconds,
        "python": platform.python_version(),
        "rows": rows,
    }


def picture(result: dict[str, object]) -> bytes:
    """Bars of images a second, alone and beside, as the bytes of a PNG file."""
    rows: list[dict[str, float]] = result["rows"]  # type: ignore[assignment]
    drawn = figure(8.0, 1.4 + 0.5 * len(rows))
    axes = drawn.add_subplot()
    for offset, key, colour in ((-0.2, "quiet_median", "#3b6ea8"), (0.2, "busy_median", "#c46a3a")):
        axes.barh([index + offset for index in range(len(rows))], [row[key] for row in rows], height=0.38, color=colour)
    axes.set_yticks(range(len(rows)), [str(row["policy"]) for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("images a second (median; blue: alone, orange: beside one busy process)", fontsize=9)
    axes.set_title(f"a training of {result['cores']} threads on {result['cores']} cores", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure_png(drawn)


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    if arguments.train:
        print(train(arguments.seconds))
        return 0
    result = run(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"beside_busy-{result['date']}"
    (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / f"{name}.png").write_bytes(picture(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    exit_with(main)
