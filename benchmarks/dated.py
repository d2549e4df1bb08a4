"""Where benchmarks leave their figures: one JSON file a run, with its date and the machine."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pixelmodels.ray_cluster import num_cores

RESULTS = Path(__file__).parent / "results"


def processor_name() -> str:
    """As the system calls it, with the vector instructions that torch uses."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def write_dated(benchmark: str, figures: Mapping[str, Any], folder: Path = RESULTS, kind: str = "") -> Path:
    """Write figures to `benchmark-date-kind.json` in a folder, and print them on one line; other runs of the day stay (`-2`, `-3`)."""
    date = datetime.date.today().isoformat()
    machine = {"cores": num_cores(), "threads": torch.get_num_threads(), "processor": processor_name()}
    report = {"benchmark": benchmark, "date": date, **machine, "python": platform.python_version(), "torch": torch.__version__, **figures}
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join(part for part in (benchmark, date, kind) if part)
    numbered = (f"{name}-{number}" if number > 1 else name for number in range(1, 1000))
    path = next(path for path in (folder / f"{one}.json" for one in numbered) if not path.exists())
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return path
