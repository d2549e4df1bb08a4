"""Images a second of a training step beside public code: the same network, size, batch and dropout rate, the two in turn.

    python -m benchmarks.peers --pytorch-generative FOLDER --pixel-cnn-pp FOLDER
    python -m benchmarks.peers --pytorch-generative FOLDER --only gated --precisions float32 bfloat16

The peers are not part of this project. Clone github.com/EugenHotaj/pytorch-generative (`GatedPixelCNN`, `PixelSNAIL`) and
github.com/pclucas14/pixel-cnn-pp (`PixelCNN`, the PyTorch port of PixelCNN++), and give their folders; what they import and their networks
do not use (torchvision, tensorboard) need not be there. Each side is a process of its own (`peers_side.py`); they take turns, `--seconds`
of steps each, `--rounds` times: best and median. Ours is the loop of a run with all that it does in a step: reading, dropout by image,
clipping, averaging the weights, looking at the clock; a peer's is its network, loss and Adam. With bfloat16 the peer counts by the better
of its two precisions. `flops_utilization` is 3 x the operations of a forward pass that the masks keep, times images a second, over the
peak of a float32 matrix product. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.dated import RESULTS, write_dated
from benchmarks.peers_side import CASES
from benchmarks.training import matmul_peak
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import active_flops_per_image, build
from pixelmodels.ray_cluster import num_cores
from pixelmodels.shapes import ImageSpec

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Arguments:
    """Measure training steps beside public code."""

    pytorch_generative: Path | None = None  # folder of a clone of EugenHotaj/pytorch-generative
    pixel_cnn_pp: Path | None = None  # folder of a clone of pclucas14/pixel-cnn-pp
    only: tuple[str, ...] = ()  # cases; all whose peer is given, unless named
    precisions: tuple[str, ...] = ("float32",)  # float32, bfloat16
    rounds: int = 5  # timings of each side
    seconds: float = 8.0  # of a timing
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        if unknown := set(self.only) - set(CASES):
            raise UserError(f"case '{min(unknown)}' is unknown; have {', '.join(CASES)}")
        if unknown := set(self.precisions) - {"float32", "bfloat16"}:
            raise UserError(f"precision '{min(unknown)}' is unknown; have float32, bfloat16")
        if not self.cases():
            raise UserError("no peer's code is given; give --pytorch-generative or --pixel-cnn-pp, a folder of its clone")
        for name in self.cases():
            folder = self.folder_of(name)
            if folder is None or not folder.is_dir():
                raise UserError(f"case '{name}' needs --{CASES[name].peer.replace('_', '-')}, a folder of its clone (given: {folder})")

    def folder_of(self, name: str) -> Path | None:
        """Where the code of a case's peer is."""
        folder: Path | None = getattr(self, CASES[name].peer)
        return folder

    def cases(self) -> tuple[str, ...]:
        """Those to measure."""
        return self.only or tuple(name for name in CASES if self.folder_of(name) is not None)


class Side:
    """A process that trains when it is told to."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers_side", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def images_per_second(self, seconds: float) -> float:
        """Of the steps of some seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(seconds, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("["):
                images, took = json.loads(line)
                return float(images / took)
        raise RuntimeError(f"a side ended with status {self._process.wait()}")

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(name: str, arguments: Arguments) -> dict[str, Any]:
    """Images a second of both sides of a case, in each precision."""
    case = CASES[name]
    peer = str(arguments.folder_of(name))
    sides = {f"ours_{precision}": Side("--case", name, "--precision", precision) for precision in arguments.precisions}
    sides |= {f"peer_{precision}": Side("--case", name, "--precision", precision, "--peer", peer) for precision in arguments.precisions}
    found: dict[str, list[float]] = {side: [] for side in sides}
    try:
        for number in range(1 + arguments.rounds):  # the first one does not count
            for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
                found[side].append(sides[side].images_per_second(arguments.seconds if number else 1.0))
    finally:
        for one in sides.values():
            one.end()
    model = build(
        case.recipe("float32").model, ImageSpec(case.channels, case.size, case.size, case.levels), LikelihoodConfig(case.likelihood)
    )
    row: dict[str, Any] = {"case": name, "batch": case.batch, "size": case.size, "parameters": model.num_parameters}
    for side, speeds in found.items():
        row[side] = {"best": round(max(speeds[1:]), 2), "median": round(median(speeds[1:]), 2)}
    for precision in arguments.precisions:
        others = [f"peer_{one}" for one in arguments.precisions if precision == "bfloat16" or one == "float32"]
        for kind in ("median", "best"):
            row[f"{precision}_over_peer_{kind}"] = round(row[f"ours_{precision}"][kind] / max(row[other][kind] for other in others), 3)
    peak = matmul_peak()
    row["peak_gflops"] = round(peak / 1e9, 1)
    for precision in arguments.precisions:
        flops = 3 * active_flops_per_image(model) * row[f"ours_{precision}"]["median"]
        row[f"{precision}_flops_utilization"] = round(flops / peak, 3)
    print(row, file=sys.stderr)
    return row


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    torch.set_num_threads(num_cores())
    write_dated("peers", {"rows": [measure(name, arguments) for name in arguments.cases()]}, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
