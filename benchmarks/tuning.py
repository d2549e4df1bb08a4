"""What early stopping saves, and what a sweep finds: the same sweep with ASHA and without it.

    python benchmarks/tuning.py            # 12 trials over the architectures, on the digits, twice
    python benchmarks/tuning.py --quick    # 3 trials of 2 epochs, to see that it works; the figures are rough

Each is `pipelines/tune.py` in a process of its own, in one storage root. Told of each: minutes, epochs spent, the best trial's
validation bits/dim beside the default recipe's at the same budget. The last thing printed is one JSON object; it is also written to
`benchmarks/results/` with the date, beside the plots of the sweep with ASHA.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelmodels.commandline import parse
from pixelmodels.errors import exit_with
from pixelmodels.rayctx import num_cores
from pixelmodels.storage import Storage
from pixelmodels.tuning.record import SWEEP, SWEEPS
from pixelmodels.tuning.report import IMPORTANCES, IMPORTANCES_PICTURE, PARALLEL_COORDINATES, SUMMARY

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WITH, WITHOUT = "with_asha", "without_asha"


@dataclass(frozen=True)
class Arguments:
    """Measure what early stopping saves."""

    space: str = "architectures"  # of tune_spaces/
    suite: str = "digits"  # whose recipes are the defaults
    num_samples: int = 12  # trials of each sweep
    epochs: int | None = None  # of a trial; as pipelines/tune.py chooses unless given
    only_with_asha: bool = False  # leave out the sweep without it
    quick: bool = False  # 3 trials of 2 epochs
    storage: str | None = None  # storage root; a temporary one unless given; sweeps that are there already go on
    out: Path = RESULTS  # folder for the JSON and the plots


def sweep(arguments: Arguments, name: str, storage: str) -> dict[str, Any]:
    """Run one sweep to its end; raises `RuntimeError` if it fails."""
    command = [sys.executable, str(HERE.parent / "pipelines" / "tune.py"), "--storage", storage, "--name", name]
    command += ["--space", arguments.space, "--suite", arguments.suite]
    command += ["--num-samples", "3" if arguments.quick else str(arguments.num_samples)]
    command += ["--epochs", "2", "--grace-epochs", "1"] if arguments.quick else []
    command += ["--epochs", str(arguments.epochs)] if arguments.epochs is not None and not arguments.quick else []
    command += ["--asha" if name == WITH else "--no-asha"]
    is_new = not Storage(storage).is_file(f"{SWEEPS}/{name}/{SWEEP}")
    started = time.monotonic()
    status = subprocess.run(command).returncode
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


def _rounded(bits_per_dim: float | None) -> float | None:
    return None if bits_per_dim is None else round(bits_per_dim, 4)


def measure(arguments: Arguments, storage: str) -> dict[str, Any]:
    """Both sweeps, and the share of the epochs that ASHA spends."""
    names = (WITH,) if arguments.only_with_asha else (WITH, WITHOUT)
    found = {name: sweep(arguments, name, storage) for name in names}
    if WITHOUT not in found:
        return found
    share = found[WITH]["epochs_spent"] / found[WITHOUT]["epochs_spent"]
    return {**found, "share_of_epochs": round(share, 3)}


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
