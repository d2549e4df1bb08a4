"""What early stopping saves, what a sweep finds, and what is left of it when it is killed.

    python benchmarks/tuning.py            # 12 trials over the architectures, on the digits, three times: about 25 minutes on 2 cores
    python benchmarks/tuning.py --quick    # 3 trials of 2 epochs, to see that it works; the figures are rough

The same sweep with ASHA, without it, and with ASHA but killed (SIGKILL) when half of its trials have ended and called again. Each is
`pipelines/tune.py` in a process of its own, in one storage root. Told of each: minutes, epochs spent, the best trial's validation
bits/dim beside the default recipe's at the same budget; of the one that was killed, how many trials and MLflow runs there are in the end,
and whether one that had ended was touched again. The last thing printed is one JSON object; it is also written to
`benchmarks/results/` with the date, beside the plots of the sweep with ASHA.
"""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.ray_cluster import num_cores
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import PARENT_TAG
from pixelmodels.tuning.record import SWEEP, SWEEPS, Records
from pixelmodels.tuning.report import IMPORTANCES, IMPORTANCES_PICTURE, PARALLEL_COORDINATES, SUMMARY

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WITH, WITHOUT, KILLED = "with_asha", "without_asha", "killed"
LIMIT_S = 4 * 3600.0  # for one sweep


@dataclass(frozen=True)
class Arguments:
    """Measure what early stopping saves."""

    space: str = "architectures"  # of tune_spaces/
    suite: str = "digits"  # whose recipes are the defaults
    num_samples: int = 12  # trials of each sweep
    epochs: int | None = None  # of a trial; as pipelines/tune.py chooses unless given
    only_with_asha: bool = False  # leave out the other two sweeps
    quick: bool = False  # 3 trials of 2 epochs
    storage: str | None = (
        None  # storage root; a temporary one unless given; sweeps that are there already go on, but for the one that is killed
    )
    out: Path = RESULTS  # folder for the JSON and the plots


def command_of(arguments: Arguments, name: str, storage: str) -> list[str]:
    """The command of one sweep."""
    command = [sys.executable, str(HERE.parent / "pipelines" / "tune.py"), "--storage", storage, "--name", name]
    command += ["--space", arguments.space, "--suite", arguments.suite]
    command += ["--num-samples", "3" if arguments.quick else str(arguments.num_samples)]
    command += ["--epochs", "2", "--grace-epochs", "1"] if arguments.quick else []
    command += ["--epochs", str(arguments.epochs)] if arguments.epochs is not None and not arguments.quick else []
    return [*command, "--no-asha" if name == WITHOUT else "--asha"]


def sweep(arguments: Arguments, name: str, storage: str) -> dict[str, Any]:
    """Run one sweep to its end; raises `RuntimeError` if it fails."""
    command = command_of(arguments, name, storage)
    is_new = not Storage(storage).is_file(f"{SWEEPS}/{name}/{SWEEP}")
    started = time.monotonic()
    status = subprocess.run(command, timeout=LIMIT_S).returncode
    seconds = time.monotonic() - started
    if status:
        raise RuntimeError(f"the sweep {name} ended with status {status}")
    summary: dict[str, Any] = json.loads(Storage(storage).read_bytes(f"{SWEEPS}/{name}/{SUMMARY}"))
    best = summary["best"] or {}
    return {
        "minutes": round(seconds / 60, 2) if is_new else None,  # of a sweep that goes on the last call's would say nothing
        "epochs_a_trial": summary["settings"]["epochs"],
        "epochs_spent": summary["epochs_spent"],
        "finished": summary["num_finished"],
        "stopped": summary["num_stopped"],
        "failed": summary["num_failed"],
        "best_val_bits_per_dim": _rounded(summary["best_bits_per_dim"]),
        "default_val_bits_per_dim": _rounded(summary["default_bits_per_dim"]),
        "best": {"trial": best.get("number"), "parameters": best.get("parameters"), **best.get("values", {})},
        "trials": [
            {name: trial[name] for name in ("number", "architecture", "parameters", "state", "best_bits_per_dim", "curve")}
            for trial in summary["trials"]
        ],
    }


def killed_sweep(arguments: Arguments, storage: str) -> dict[str, Any]:
    """The sweep, killed when half of its trials have ended, and called again; raises `RuntimeError` if it ends before or fails."""
    records = Records(Storage(storage), KILLED)
    records.clear()
    process = subprocess.Popen(command_of(arguments, KILLED, storage))
    half, until = (2 if arguments.quick else arguments.num_samples // 2), time.monotonic() + LIMIT_S
    while sum(trial.has_ended for trial in records.trials()) < half:
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError(f"the sweep {KILLED} ended before it could be killed, or took too long")
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {trial.number: trial for trial in records.trials()}
    found = sweep(arguments, KILLED, storage)
    head, tracker = records.head(), Tracker(Storage(storage))
    assert head is not None
    runs = tracker.client.search_runs([tracker.experiment_id], f"tags.`{PARENT_TAG}` = '{head.mlflow_run_id}'", max_results=1000)
    after = {trial.number: trial for trial in records.trials()}
    return {
        "ended_when_killed": sum(trial.has_ended for trial in before.values()),
        "half_way_when_killed": sum(not trial.has_ended for trial in before.values()),
        "ended_and_touched_again": sum(trial.has_ended and after[number] != trial for number, trial in before.items()),
        "trials": len(after),
        "ended": sum(trial.has_ended for trial in after.values()),
        "mlflow_runs": len(runs),
        "mlflow_runs_of_distinct_trials": len({run.data.tags["trial"] for run in runs}),
        "best_val_bits_per_dim": found["best_val_bits_per_dim"],
        "epochs_spent": found["epochs_spent"],
    }


def _rounded(bits_per_dim: float | None) -> float | None:
    return None if bits_per_dim is None else round(bits_per_dim, 4)


def measure(arguments: Arguments, storage: str) -> dict[str, Any]:
    """All sweeps, and the share of the epochs that ASHA spends."""
    found = {WITH: sweep(arguments, WITH, storage)}
    if arguments.only_with_asha:
        return found
    found[WITHOUT] = sweep(arguments, WITHOUT, storage)
    share = found[WITH]["epochs_spent"] / found[WITHOUT]["epochs_spent"]
    return {**found, "share_of_epochs": round(share, 3), KILLED: killed_sweep(arguments, storage)}


def main() -> None:
    """Measure, write, print."""
    arguments = parse(Arguments)
    today = datetime.date.today().isoformat()
    stem = f"tuning-{today}" + ("-with-asha" if arguments.only_with_asha else "") + ("-quick" if arguments.quick else "")
    with tempfile.TemporaryDirectory() as folder:
        storage = arguments.storage or folder
        figures = measure(arguments, storage)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for file in (PARALLEL_COORDINATES, IMPORTANCES_PICTURE, IMPORTANCES):
            path = f"{SWEEPS}/{WITH}/{file}"
            if Storage(storage).is_file(path):
                (arguments.out / f"{stem}-{file}").write_bytes(Storage(storage).read_bytes(path))
    report = {"benchmark": "tuning", "date": today, "cores": num_cores(), "space": arguments.space, "suite": arguments.suite, **figures}
    (arguments.out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    exit_with(main)
