"""Peak memory of a training step for each image of a batch, of every architecture, beside an earlier checkout.

    python -m benchmarks.memory --before ../earlier

The largest resident size of a process during a forward and a backward pass, with a few images and with a few more: what each further image
adds. Float32; `pixelsnail` has the published network for CIFAR-10 (12 blocks of 256), the others 64 features. The last thing printed is one
JSON object; it is also written to `benchmarks/results/` with the date. Linux only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.dated import RESULTS, write_dated
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.recipes.suites import published

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
FEW, MORE = 8, 32  # images
LARGE = {"pixelsnail": 4}  # parts of that which are enough for a large network
_GREY = (1, 28, 28, 2)
_LAYERS = {"num_layers": 8, "num_features": 64}
_MIXTURE = {"likelihood": "discretized_logistic_mixture", "spec": (3, 32, 32, 256)}


def cases() -> dict[str, dict[str, Any]]:
    """What is measured, as `memory_side` takes it."""
    cifar10 = published("cifar10")
    assert cifar10 is not None
    snail = {name: value for name, value in dataclasses.asdict(cifar10.entry("pixelsnail").recipe.model).items() if name != "dropout"}
    lstm = {"architecture": "pixelrnn_row_lstm", "values": _LAYERS}
    return {
        "pixelsnail": {"architecture": "pixelsnail", "values": snail, **_MIXTURE},
        "pixelcnn_pp": {"architecture": "pixelcnn_pp", "values": {"num_layers": 2, "num_features": 64}, **_MIXTURE},
        **{
            name: {"architecture": name, "values": _LAYERS, "likelihood": "bernoulli", "spec": _GREY}
            for name in ("gated_pixelcnn", "pixelcnn", "pixelrnn_row_lstm", "pixelrnn_diagonal_bilstm")
        },
        "multiscale_pixelrnn": {
            "architecture": "multiscale_pixelrnn",
            "values": {"small": lstm, "large": lstm},
            "likelihood": "bernoulli",
            "spec": _GREY,
        },
    }


@dataclass(frozen=True)
class Arguments:
    """Measure the memory of training steps."""

    before: Path | None = None  # another checkout, measured too
    only: tuple[str, ...] = ()  # architectures; all unless named
    rounds: int = 3  # measurements of each
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(cases()):
            raise UserError(f"case '{min(unknown)}' is unknown; have {', '.join(cases())}")
        if self.before is not None and not (self.before / "pixelmodels").is_dir():
            raise UserError(f"'{self.before}' is no checkout: it has no folder pixelmodels")


def peak_bytes(checkout: Path, case: dict[str, Any], batch: int) -> int:
    """Of a process."""
    command = [sys.executable, "-W", "ignore", "-P", str(ROOT / "benchmarks" / "memory_side.py"), json.dumps(case), str(batch)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def image_mib(checkout: Path, case: dict[str, Any]) -> float:
    """What an image adds."""
    part = LARGE.get(case["architecture"], 1)
    few, more = FEW // part, MORE // part
    return (peak_bytes(checkout, case, more) - peak_bytes(checkout, case, few)) / (more - few) / MIB


def measure(name: str, arguments: Arguments) -> dict[str, Any]:
    """Both sides of a case, in turn: medians."""
    sides = {"now": ROOT, **({"before": arguments.before} if arguments.before else {})}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, checkout in sides.items():
            found[side].append(image_mib(checkout, cases()[name]))
    row: dict[str, Any] = {"architecture": name, **{f"{side}_mib": round(median(values), 2) for side, values in found.items()}}
    if arguments.before:
        row["now_over_before"] = round(median(found["now"]) / median(found["before"]), 3)
    print(row, file=sys.stderr)
    return row


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    write_dated("memory", {"rows": [measure(name, arguments) for name in arguments.only or cases()]}, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
