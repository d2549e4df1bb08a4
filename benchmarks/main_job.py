"""What the main job costs: time, memory, and how far every model is below every baseline.

    python benchmarks/main_job.py                      # what `make train` runs, in a storage root of its own
    python benchmarks/main_job.py -- --epochs 2        # with flags of pipelines/train_all.py

Memory is the proportional set size (shared pages divided among those who share them) of all processes that the job
starts, Ray's included, summed once a second; the figure is the highest sum. Linux only. The last thing printed is one
JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from pixelmodels.ray_cluster import num_cores

HERE = Path(__file__).parent
MARK = "PIXELMODELS_MEASURED_JOB"  # in the environment of every process of the job


def proportional_bytes(mark: str) -> int:
    """Proportional set size of all processes with the mark in their environment."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if mark.encode() not in (folder / "environ").read_bytes():
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measure(flags: list[str]) -> dict[str, object]:
    """Run the job once; raises `RuntimeError` if it fails."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE.parent / "pipelines" / "train_all.py"), "--storage", folder, *flags]
        started, peak, last = time.monotonic(), 0, ""
        with tempfile.TemporaryFile("w+") as output:
            job = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=output)
            while job.poll() is None:
                peak = max(peak, proportional_bytes(mark))
                time.sleep(1)
            seconds = time.monotonic() - started
            output.seek(0)
            last = output.read().splitlines()[-1]
        if job.returncode:
            raise RuntimeError(f"the job ended with status {job.returncode}")
        rows = list(csv.DictReader((Path(last).parent / "leaderboard.csv").open()))
    models = [row for row in rows if row["parameters"]]
    baselines = [row for row in rows if not row["parameters"]]
    best_baseline = min(float(row["test_bits_per_dim"]) for row in baselines)
    return {
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(peak / 2**30, 2),
        "best_baseline_bits_per_dim": round(best_baseline, 4),
        "margins_in_standard_errors": {
            row["model"]: round((best_baseline - float(row["test_bits_per_dim"])) / float(row["test_bits_per_dim_stderr"]), 1)
            for row in models
        },
        "leaderboard": rows,
    }


def main() -> None:
    """Measure, write, print."""
    flags = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    today = datetime.date.today().isoformat()
    report = {"benchmark": "main_job", "date": today, "cores": num_cores(), "flags": flags, **measure(flags)}
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    name = f"main_job-{today}.json" if not flags else f"main_job-{today}-flags.json"
    (results / name).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
