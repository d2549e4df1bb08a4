"""How fast compiled rows are drawn, in forward passes of a batch, beside rows that are not compiled, and beside an earlier checkout.

    python -m benchmarks.sampling_compiled                                # the gated net, batches of 1, 16 and 64: 5 minutes
    python -m benchmarks.sampling_compiled --before ../earlier            # also what the checkout there draws, by its own .venv
    python -m benchmarks.sampling_compiled --only pixelcnn_pp gated_rgb   # of the cases in CASES
    python -m benchmarks.sampling_compiled --only pixelcnn_pp_paper --batches 4 --eager-only

Each side is a process of its own (`sampling_side.py`); they take turns, one timing each, `--rounds` times: best and median. What is
compiled is compiled before (`first_call_s`, most of it where the functions are not in the cache yet). The reference sampler is timed on
four pixels and scaled. Float32, torch's own number of threads, fresh weights. The last thing printed is one JSON object; it is also
written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.dated import RESULTS, write_dated
from benchmarks.sampling_rows import GATED, Case
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with

ROOT = Path(__file__).parents[1]
CASES = {
    "gated": GATED,
    "pixelcnn": Case("pixelcnn"),
    "row_lstm": Case("pixelrnn_row_lstm"),
    "diagonal_bilstm": Case("pixelrnn_diagonal_bilstm"),
    "multiscale": Case("multiscale_pixelrnn"),
    "gated_rgb": Case("gated_pixelcnn", "categorical", 3, 256, 32),
    "pixelsnail": Case("pixelsnail"),
    "pixelcnn_pp": Case("pixelcnn_pp", "discretized_logistic_mixture", 3, 256, 32, num_features=40, num_layers=2),
    "pixelcnn_pp_paper": Case("pixelcnn_pp", "discretized_logistic_mixture", 3, 256, 32, num_features=160, num_layers=5),
}
MODES = ("forward", "eager", "compiled", "reference")


@dataclass(frozen=True)
class Arguments:
    """Measure how fast compiled rows are drawn."""

    only: tuple[str, ...] = ("gated",)  # cases to measure
    batches: tuple[int, ...] = (1, 16, 64)  # images of a batch
    eager_only: bool = False  # leave out compiled rows: large networks take hours to compile
    rounds: int = 5  # timings of each
    before: Path | None = None  # another checkout, whose engine is timed, too
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(CASES):
            raise UserError(f"case '{min(unknown)}' is unknown; have {', '.join(CASES)}")
        if self.before is not None and not (self.before / ".venv" / "bin" / "python").exists():
            raise UserError(f"--before '{self.before}' has no .venv; give a checkout in which 'make install' was run")


class Side:
    """A process that times what it is told to."""

    def __init__(self, checkout: Path, python: Path | str) -> None:
        script = Path(__file__).with_name("sampling_side.py")
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [str(python), "-P", str(script)]
        self._process = subprocess.Popen(command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, case: Case, mode: str, batch: int, seed: int) -> float:
        """See `sampling_side.Side.seconds`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"case": asdict(case), "mode": mode, "batch": batch, "seed": seed}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with status {self._process.wait()}")
        return float(json.loads(line))

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(name: str, sides: dict[str, Side], arguments: Arguments) -> list[dict[str, Any]]:
    """Figures of a case for each batch."""
    case, rows = CASES[name], []
    for batch in arguments.batches:
        ours = "eager" if arguments.eager_only else "compiled"
        here = [mode for mode in MODES if not arguments.eager_only or mode != "compiled"]
        modes = {mode: (sides["here"], mode) for mode in here} | ({"before": (sides["before"], "eager")} if "before" in sides else {})
        started = time.perf_counter()
        sides["here"].seconds(case, ours, batch, 0)
        first_call_s = time.perf_counter() - started
        for side, mode in modes.values():
            side.seconds(case, mode, batch, 0)
        timings: dict[str, list[float]] = {mode: [] for mode in modes}
        for round_number in range(arguments.rounds):
            for mode in list(modes)[:: 1 if round_number % 2 == 0 else -1]:
                side, what = modes[mode]
                timings[mode].append(side.seconds(case, what, batch, 1 + round_number))
        best, middle = ({mode: pick(seconds) for mode, seconds in timings.items()} for pick in (min, median))
        row: dict[str, Any] = {"case": name, "batch": batch, "first_call_s": round(first_call_s, 1)}
        for mode in modes:
            row[mode] = {"best_s": round(best[mode], 5), "median_s": round(middle[mode], 5)}
            if mode not in ("forward", "reference"):
                row[mode] |= {
                    "forward_passes": round(middle[mode] / middle["forward"], 2),
                    "forward_passes_best": round(best[mode] / best["forward"], 2),
                    "times_reference": round(middle["reference"] / middle[mode], 1),
                }
        for mode in ("eager", "before"):
            if mode in modes and mode != ours:
                row[f"times_{mode}"] = round(median(a / b for a, b in zip(timings[mode], timings[ours], strict=True)), 2)
                row[f"times_{mode}_best"] = round(best[mode] / best[ours], 2)
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    sides = {"here": Side(ROOT, sys.executable)}
    if arguments.before is not None:
        sides["before"] = Side(arguments.before.resolve(), arguments.before.resolve() / ".venv" / "bin" / "python")
    try:
        rows = [row for name in arguments.only for row in measure(name, sides, arguments)]
    finally:
        for side in sides.values():
            side.end()
    write_dated("sampling_compiled", {"rows": rows}, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
