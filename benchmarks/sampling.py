"""How fast images are drawn: forward passes of a batch, speed-up over the reference sampler, latency under load.

    python -m benchmarks.sampling            # every architecture, batches of 1 to 256, minutes of load
    python -m benchmarks.sampling --quick    # fewer batches and repeats, seconds of load: under 5 minutes on 2 cores

One forward pass, the engine and the reference sampler (timed on some pixels, and scaled) take turns in one process, in
float32 with torch's own number of threads; each figure is the median of several timings. Models have fresh weights: what
a pass costs does not depend on them. Then, for the gated net: images that come out differently in a batch and alone;
continuous batching against static batches (the same engine, which begins when idle with all that waits) under Poisson
arrivals, in simulated time, whose rows cost what was measured for each width, and in real time, as rows take it (both draw
their rows in turn, each on a clock that stands still meanwhile, so that both meet the same machine); and the latency of
single images that arrive while 1,000 are drawn. Published curve in the plot: arXiv:1704.06001, on its own machine.
Before the end a table of goals is printed; the last line is one JSON object, which is also written to `benchmarks/results/`
with the date, beside a plot.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a script

from benchmarks.sampling_load import compare, late_singles, measure_costs
from benchmarks.sampling_plot import plot
from benchmarks.sampling_rows import GATED, Case, float32_differences, rows_of
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.models import ARCHITECTURES, architecture_class

RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 16, 64, 256)
QUICK_BATCHES = (1, 16, 64)  # of the gated net; the others are measured at 16 only
NUM_SLOTS = 64
LEVELS = (2, 4, 16, 256)
COLOUR = (Case("gated_pixelcnn", "categorical", 3, 256), Case("pixelcnn_pp", "discretized_logistic_mixture", 3, 256))


@dataclass(frozen=True)
class Arguments:
    """Measure how fast images are drawn."""

    quick: bool = False  # to see that it works: one batch size for most models, few repeats, a short time under load
    only: tuple[str, ...] = ()  # architectures to measure; all unless given
    batches: tuple[int, ...] = ()  # images of a batch; 1, 16, 64, 256 unless given
    repeats: int = 5  # timings of each figure (3 with --quick, and 1 of the other architectures)
    load: bool = True  # also differences in float32, continuous and static batches, and late single images
    simulated_s: float = 1200.0  # of arrivals in simulated time (100 with --quick)
    real_s: float = (
        60.0  # of arrivals in real time (10 with --quick), drawn by both at 70% of capacity and at saturation, of singles and of a mix
    )
    images_alone: int = 256  # drawn alone and in batches for the differences in float32, for each number of levels (8 with --quick)
    out: Path = RESULTS  # folder for the JSON and the plot

    def __post_init__(self) -> None:
        for name in ("repeats", "simulated_s", "real_s", "images_alone"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is too few; give more than 0")
        if any(batch < 1 for batch in self.batches):
            raise UserError(f"--batches {min(self.batches)} is too few; give 1 or more")

    def cases(self) -> list[tuple[Case, tuple[int, ...], int]]:
        """Models to measure, with batches and repeats; raises `UserError` for an unknown architecture."""
        for name in self.only:
            architecture_class(name)
        names = self.only or tuple(ARCHITECTURES)
        cases = [replace(GATED, architecture=name) for name in names]
        if not self.quick:
            cases += [case for case in COLOUR if case.architecture in names]
            return [(case, self.batches or BATCHES, self.repeats) for case in cases]
        return [(case, self.batches or (QUICK_BATCHES if case == GATED else (16,)), 3 if case == GATED else 1) for case in cases]


def under_load(arguments: Arguments) -> dict[str, Any]:
    """Everything of the gated net that is about many requests."""
    quick, model = arguments.quick, GATED.build()
    say("float32: images in a batch and alone")
    found: dict[str, Any] = {"float32": float32_differences(GATED, LEVELS, 8 if quick else arguments.images_alone, NUM_SLOTS)}
    say("seconds of a row at each width")
    costs = measure_costs(model, NUM_SLOTS, 2 if quick else 6)
    found["row_seconds"] = {"of_width": costs.of_width, "added_where_images_begin": costs.of_begun}
    for way, duration_s in (
        ("simulated", min(arguments.simulated_s, 100.0) if quick else arguments.simulated_s),
        ("real", min(arguments.real_s, 10.0) if quick else arguments.real_s),
    ):
        say(f"continuous and static batches, {duration_s:g} s of arrivals in {way} time")
        simulated = way == "simulated"
        found[way] = compare(model, costs, NUM_SLOTS, duration_s, simulated=simulated)
        num_runs = 1 if quick and not simulated else 3
        found[way]["late_single"] = late_singles(model, costs, NUM_SLOTS, num_runs, simulated=simulated)
    return found


@dataclass(frozen=True)
class Goal:
    """A limit on a figure of this run."""

    name: str
    measured: float | None  # None: nothing was finished in the time
    limit: float
    at_least: bool = False  # else at most

    @property
    def met(self) -> bool:
        """Whether the figure is within the limit."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def goals(rows: Sequence[dict[str, Any]], load: dict[str, Any]) -> list[Goal]:
    """What this run shows of the goals; what was not measured is left out."""
    found = []
    gated = {
        row["batch"]: row
        for row in rows
        if row["mode"] == "raster" and (row["model"], row["likelihood"]) == ("gated_pixelcnn", "bernoulli")
    }
    for batch, passes, speedup in ((64, 2.0, 350.0), (16, 4.5, 150.0), (1, 26.0, 25.0)):
        if batch in gated:
            found.append(Goal(f"forward passes of a batch of {batch}", gated[batch]["forward_passes"], passes))
            found.append(
                Goal(f"times the reference sampler, batch {batch}", gated[batch]["speedup_over_reference"], speedup, at_least=True)
            )
    for way in ("simulated", "real"):
        if way not in load:
            continue
        for name, limit in (("single", 0.65), ("mix", 0.5)):
            measured = load[way][name]
            found.append(Goal(f"p95 of single images, continuous over static ({name}, {way})", measured["single_p95_ratio"], limit))
            found.append(
                Goal(f"images/s at saturation, continuous over static ({name}, {way})", measured["saturated_ratio"], 0.95, at_least=True)
            )
        found.append(
            Goal(f"single image among 1,000, over one in a full batch, worst ({way})", load[way]["late_single"]["worst_ratio"], 1.5)
        )
    return found


def table(found: Sequence[Goal]) -> str:
    """Goals, what was measured, and whether it is enough."""
    lines = [f"{'goal':<72} {'limit':>9} {'measured':>9}  met"]
    for goal in found:
        limit = f"{'>=' if goal.at_least else '<='} {goal.limit:g}"
        measured = "-" if goal.measured is None else f"{goal.measured:.3g}"
        lines.append(f"{goal.name:<72} {limit:>9} {measured:>9}  {'yes' if goal.met else 'NO'}")
    return "\n".join(lines)


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, write, print; the last thing printed is one JSON object."""
    arguments = parse(Arguments)
    rows = [row for case, batches, repeats in arguments.cases() for row in rows_of(case, batches, repeats, say)]
    write(arguments, rows, {})  # what was measured is not lost
    load = under_load(arguments) if arguments.load else {}
    report = write(arguments, rows, load)
    print(table(goals(rows, load)))
    print(json.dumps(report))
    return 0


def write(arguments: Arguments, rows: list[dict[str, Any]], load: dict[str, Any]) -> dict[str, Any]:
    """The plot and the report of what was measured so far; returns the report."""
    today = datetime.date.today().isoformat()
    report: dict[str, Any] = rounded(
        {
            "benchmark": "sampling",
            "date": today,
            "quick": arguments.quick,
            "reference": "timed on `timed_pixels` pixels in each timing, and scaled to all pixels",
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_average_at_end": os.getloadavg()[0],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "rows": list(rows),
            **load,
            "goals": [{"goal": goal.name, "limit": goal.limit, "measured": goal.measured, "met": goal.met} for goal in goals(rows, load)],
        }
    )
    name = f"sampling-{today}" + ("-quick" if arguments.quick else "")
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot(rows, os.cpu_count() or 1, arguments.out / f"{name}.png")
    (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def rounded(value: Any) -> Any:
    """Every float of nested lists and dicts to five digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    exit_with(main)
