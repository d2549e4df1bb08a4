"""What a sweep found: the table, the plots, the importance of each parameter, and the best recipe as a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelmodels.training.leaderboard import LOG_WIDTH
from pixelmodels.training.recipe_files import recipe_text
from pixelmodels.training.recipes import Recipe
from pixelmodels.tuning.importance import importances
from pixelmodels.tuning.plots import importance_png, parallel_coordinates_png
from pixelmodels.tuning.record import TrialRecord
from pixelmodels.tuning.state import Sweep, values_of

BEST, SUMMARY, IMPORTANCES = "best.yaml", "summary.json", "importances.json"
PARALLEL_COORDINATES, IMPORTANCES_PICTURE = "parallel_coordinates.png", "importances.png"


@dataclass(frozen=True)
class Summary:
    """A sweep in numbers, as `summary.json` has it."""

    sweep: str  # its name
    settings: dict[str, Any]
    num_finished: int  # trials that trained all epochs
    num_stopped: int  # by ASHA
    num_failed: int
    num_unfinished: int
    num_too_large: int  # recipes that were drawn and not tried, for their parameters
    num_impossible: int  # recipes that this call drew and that nothing can be built from
    epochs_spent: int  # over all trials
    epochs_without_asha: int  # of the same trials, had none been stopped
    best: dict[str, Any] | None  # the best trial's record
    default: dict[str, Any] | None  # the default recipe's; none where it was not tried
    best_bits_per_dim: float | None  # of the validation images
    default_bits_per_dim: float | None  # at the same budget; none unless the default recipe trained all epochs
    trials: list[dict[str, Any]]  # all of them, without their recipes

    def counts(self) -> str:
        """How many trials ended how: `4 finished, 7 stopped early, 1 failed`."""
        counts = {
            "finished": self.num_finished,
            "stopped early": self.num_stopped,
            "failed": self.num_failed,
            "left for the next call": self.num_unfinished,
        }
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "no trial"
        said += f"; {self.num_too_large} recipe(s) with too many parameters not tried" if self.num_too_large else ""
        return said + (f"; {self.num_impossible} recipe(s) that cannot be built not tried" if self.num_impossible else "")


def summarize(sweep: Sweep) -> Summary:
    """The numbers of a sweep."""
    trials = [sweep.trials[number] for number in sorted(sweep.trials)]
    states = [trial.state for trial in trials]
    best, default = sweep.best(), sweep.default_trial
    return Summary(
        sweep=sweep.records.name,
        settings=sweep.settings,
        num_finished=states.count("finished"),
        num_stopped=states.count("stopped"),
        num_failed=states.count("failed"),
        num_unfinished=states.count("unfinished"),
        num_too_large=sweep.num_too_large,
        num_impossible=sweep.num_impossible,
        epochs_spent=sum(trial.epochs for trial in trials),
        epochs_without_asha=sum(sweep.epochs if trial.state == "stopped" else trial.epochs for trial in trials),
        best=None if best is None else dataclasses.asdict(best),
        default=None if default is None else dataclasses.asdict(default),
        best_bits_per_dim=None if best is None else best.best_bits_per_dim,
        default_bits_per_dim=default.best_bits_per_dim if default is not None and default.state == "finished" else None,
        trials=[{**_without_recipe(trial), "best_bits_per_dim": trial.best_bits_per_dim} for trial in trials],
    )


def best_recipe(sweep: Sweep, trial: TrialRecord) -> Recipe:
    """The recipe of a trial as it is to be trained in full: with the epochs of the suite's recipe that it was drawn from."""
    drawn, _ = sweep.rebuilt(trial.values)
    return dataclasses.replace(drawn.recipe, name=f"{drawn.recipe.name}_tuned")


def publish(sweep: Sweep) -> tuple[Summary, str | None]:
    """Write all that was found below the storage root and to MLflow, and print the table; returns where best.yaml is."""
    summary, best = summarize(sweep), sweep.best()
    files = {SUMMARY: _json(dataclasses.asdict(summary))}
    scored = [trial for trial in sweep.trials.values() if trial.curve and trial.state != "failed"]
    if best is not None:
        found = importances(sweep, scored)
        files[BEST] = recipe_text(best_recipe(sweep, best), _notes(sweep, best, summary), sweep.settings["dataset"]).encode()
        files[IMPORTANCES] = _json(dataclasses.asdict(found))
        heading = f"{sweep.records.name}: {len(scored)} trials"
        files[PARALLEL_COORDINATES] = parallel_coordinates_png(scored, best, heading)
        if found.groups:
            files[IMPORTANCES_PICTURE] = importance_png(found, f"{sweep.records.name}: what the parameters are worth")
        else:
            sweep.say(f"importances: {found.note}")
        metrics = {
            "best_val_bits_per_dim": summary.best_bits_per_dim,
            "default_val_bits_per_dim": summary.default_bits_per_dim,
            "epochs_spent": summary.epochs_spent,
            "epochs_without_asha": summary.epochs_without_asha,
        }
        sweep.tracker.log_metrics(
            sweep.parent, {name: float(value) for name, value in metrics.items() if value is not None}, summary.epochs_spent
        )
    _keep(sweep, files)
    print_summary(sweep, summary)
    return summary, sweep.records.storage.uri(f"{sweep.records.folder}/{BEST}") if best is not None else None


def rich_table(sweep: Sweep, name: str) -> Table:
    """The trials, the best first, those that failed last."""
    table = Table(title=f"sweep {name}", title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("trial", "architecture", "parameters", "epochs", "val bits/dim", "how it ended"):
        table.add_column(heading, justify="right" if heading in ("trial", "parameters", "epochs", "val bits/dim") else "left")
    best = sweep.best()
    for trial in sorted(sweep.trials.values(), key=lambda trial: (trial.state == "failed", trial.best_bits_per_dim or 99, trial.number)):
        bits = "" if trial.best_bits_per_dim is None else f"{trial.best_bits_per_dim:.4f}"
        how = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        how += ", the default recipe" if trial.is_default else ""
        style = "bold" if trial is best else "dim" if trial.state == "failed" else None
        table.add_row(str(trial.number), trial.architecture, f"{trial.parameters:,}", str(trial.epochs), bits, escape(how), style=style)
    return table


def print_summary(sweep: Sweep, summary: Summary) -> None:
    """The table on the terminal, and below it the best trial, the default's figure and the epochs spent."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    console.print(rich_table(sweep, summary.sweep))
    for line in told(sweep, summary):
        sweep.say(line)


def told(sweep: Sweep, summary: Summary) -> list[str]:
    """What the sweep found, in a few lines."""
    best, lines = sweep.best(), []
    if best is not None:
        lines.append(f"best: trial {best.number}, val {best.best_bits_per_dim:.4f} bits/dim ({values_of(best)})")
        default = summary.default_bits_per_dim
        if default is not None and best.best_bits_per_dim is not None:
            difference = best.best_bits_per_dim - default
            lines.append(f"default recipe at the same budget: val {default:.4f} bits/dim (the best is {difference:+.4f})")
        elif (tried := sweep.default_trial) is not None:
            lines.append(f"default recipe at the same budget: {tried.state} after {tried.epochs} of {sweep.epochs} epochs")
        else:
            lines.append("default recipe at the same budget: not tried")
    if summary.epochs_without_asha:
        share = summary.epochs_spent / summary.epochs_without_asha
        lines.append(f"epochs: {summary.epochs_spent} spent, {summary.epochs_without_asha} without early stopping ({share:.0%})")
    return lines


def _notes(sweep: Sweep, best: TrialRecord, summary: Summary) -> tuple[str, ...]:
    default = summary.default_bits_per_dim
    beside = f"; the default recipe: {default:.4f}" if default is not None else ""
    return (
        f"Best of sweep {sweep.records.name}: trial {best.number}, validation {best.best_bits_per_dim:.4f} bits/dim after up to "
        f"{sweep.epochs} epochs{beside}.",
        "To train it in full and register it: python pipelines/train_all.py --recipe-file THIS_FILE",
    )


def _keep(sweep: Sweep, files: Mapping[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            sweep.records.storage.write_bytes(f"{sweep.records.folder}/{name}", content)
            (Path(folder) / name).write_bytes(content)
        sweep.tracker.log_artifact(sweep.parent, folder)


def _without_recipe(trial: TrialRecord) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(trial).items() if name not in ("recipe", "too_large")}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
