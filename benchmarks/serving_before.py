"""The service of this checkout beside that of an earlier one, as `python -m benchmarks.serving --before CHECKOUT` measures them.

Each is what `pipelines/serve.py` of its checkout starts, with its own .venv and a Ray of its own; both are there all the time, and are
loaded in turn.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import serving_figures as experiments
from benchmarks.serving_engine import NUM_SLOTS
from benchmarks.serving_load import Connections, closed_loop
from pixelmodels.errors import UserError

ROOT = Path(__file__).parents[1]
ENDS_S = 180.0  # for a service to end
# What each figure is held to: at least, or at most.
GOALS = {"images_per_s.over_before": (">=", 1.2), "single_s.over_before": ("<=", 0.4)}


class Service:
    """The service of a checkout."""

    def __init__(self, checkout: Path, python: Path | str, folder: Path, storage: Path, *flags: str):
        """Serve the model in a folder; `is_up` waits for it."""
        environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        command = [str(python), str(checkout / "pipelines" / "serve.py"), "--model", str(folder), "--storage", str(storage), "--port", "0"]
        self._process = subprocess.Popen(
            [*command, *flags], cwd=checkout, env={**environment, "PYTHONPATH": str(checkout)}, stdout=subprocess.PIPE, text=True
        )

    def is_up(self) -> Connections:
        """Once it says where it is; raises `UserError` where it ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.match(r"serving on http://127\.0\.0\.1:(\d+)", line):
                return Connections("127.0.0.1", int(found[1]))
        raise UserError(f"a service ended with status {self._process.wait()} before it served; see above")

    def end(self) -> None:
        """Let it end, as ctrl-c does."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def services(before: Path, folder: Path, storage: Path, *flags: str) -> dict[str, Service]:
    """Both, of the model in a folder; `flags` for the one of this checkout."""
    python = before / ".venv" / "bin" / "python"
    return {
        "here": Service(ROOT, sys.executable, folder, storage / "here", *flags),
        "before": Service(before, python, folder, storage / "before"),
    }


async def compare(
    webs: dict[str, Connections], rounds: int, seconds: float, num_singles: int, unexpected: experiments.Unexpected
) -> dict[str, dict[str, Any]]:
    """Images a second with requests of four images, and seconds of a single image on an idle service, of both, and their quotients.

    Args: `seconds` of load in each round.
    """
    found: dict[str, dict[str, list[float]]] = {name: {side: [] for side in webs} for name in ("images_per_s", "single_s")}
    for web in webs.values():
        await closed_loop(web, NUM_SLOTS, 3.0, 4)  # warm
    for round_number in range(rounds):
        sides = list(webs)[:: 1 if round_number % 2 == 0 else -1]
        for side in sides:
            images_per_s = await experiments.saturation(webs[side], seconds, unexpected, {"four": 4})
            found["images_per_s"][side].append(images_per_s["four"])
        for side in sides:
            found["single_s"][side].append(await experiments.idle(webs[side], num_singles, unexpected))
        print({name: {side: round(timed[-1], 4) for side, timed in by_side.items()} for name, by_side in found.items()}, file=sys.stderr)
    return {name: _summary(by_side, max if name == "images_per_s" else min) for name, by_side in found.items()}


def _summary(by_side: dict[str, list[float]], best: Any) -> dict[str, Any]:
    """Of each side its best round, the median and all; and the quotients of this checkout and the other one."""
    told: dict[str, Any] = {side: {"best": best(each), "median": median(each), "rounds": each} for side, each in by_side.items()}
    here, before = by_side["here"], by_side["before"]
    told["over_before"] = median(a / b for a, b in zip(here, before, strict=True))
    told["over_before_best"] = best(here) / best(before)
    return told
