"""What a sweep found: the table, the plots, the importance of each parameter, and the best recipe as a file."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from pixelmodels.recipes.files import recipe_text
from pixelmodels.tables import wide_console
from pixelmodels.tuning.parameters import importance_png, importances, parallel_coordinates_png
from pixelmodels.tuning.sweep import Sweep, values_of

BEST, SUMMARY, IMPORTANCES = "best.yaml", "summary.json", "importances.json"
PARALLEL_COORDINATES, IMPORTANCES_PICTURE = "parallel_coordinates.png", "importances.png"
_HOW_ON = "To train it in full and register it: python pipelines/train_all.py --recipe-file THIS_FILE"


def summarize(sweep: Sweep) -> dict[str, Any]:
    """A sweep in numbers, as `summary.json` has it; none for what there is not."""
    trials = [sweep.trials[number] for number in sorted(sweep.trials)]
    states = Counter(trial.state for trial in trials)
    best, default = sweep.best(), sweep.default_trial
    plain = [{**dataclasses.asdict(trial), "best_bits_per_dim": trial.best_bits_per_dim} for trial in trials]
    return {
        "sweep": sweep.records.name,
        "settings": sweep.settings,
        "num_finished": states["finished"],  # trials that trained all epochs
        "num_stopped": states["stopped"],  # by ASHA
        "num_failed": states["failed"],
        "num_unfinished": states["unfinished"],
        "num_too_large": len(sweep.too_large),  # recipes that were drawn and not tried, for their parameters
        "num_impossible": sweep.num_impossible,  # recipes that this call drew and that nothing can be built from
        "epochs_spent": sum(trial.epochs for trial in trials),
        "epochs_without_asha": sum(sweep.epochs if trial.state == "stopped" else trial.epochs for trial in trials),
        "best": best and dataclasses.asdict(best),
        "default": default and dataclasses.asdict(default),
        "best_bits_per_dim": best and best.best_bits_per_dim,  # of the validation images
        "default_bits_per_dim": default.best_bits_per_dim if default is not None and default.state == "finished" else None,  # same budget
        "trials": [{name: value for name, value in trial.items() if name not in ("recipe", "too_large")} for trial in plain],
    }


def counts(summary: Mapping[str, Any]) -> str:
    """How many trials ended how: `4 finished, 7 stopped early, 1 failed`."""
    words = {"finished": "finished", "stopped": "stopped early", "failed": "failed", "unfinished": "left for the next call"}
    said = ", ".join(f"{summary[f'num_{state}']} {word}" for state, word in words.items() if summary[f"num_{state}"]) or "no trial"
    left_out = {"too_large": "with too many parameters", "impossible": "that cannot be built"}
    return said + "".join(
        f"; {summary[f'num_{kind}']} recipe(s) {why} not tried" for kind, why in left_out.items() if summary[f"num_{kind}"]
    )


def publish(sweep: Sweep) -> tuple[dict[str, Any], str | None]:
    """Write all that was found below the storage root and to MLflow, and print the table; returns where best.yaml is."""
    summary, best, name = summarize(sweep), sweep.best(), sweep.records.name
    files = {SUMMARY: _json(summary)}
    if best is not None:
        scored = sweep.scored()
        found = importances(sweep, scored)
        recipe, _ = sweep.rebuilt(best.values)  # with the epochs of the suite's recipe that it was drawn from
        recipe = dataclasses.replace(recipe, name=f"{recipe.name}_tuned")
        default = summary["default_bits_per_dim"]
        found_at = f"trial {best.number}, validation {best.best_bits_per_dim:z.4f} bits/dim after up to {sweep.epochs} epochs"
        beside = f"; the default recipe: {default:z.4f}" if default is not None else ""
        notes = (f"Best of sweep {name}: {found_at}{beside}.", _HOW_ON)
        files[BEST] = recipe_text(recipe, notes, sweep.settings["dataset"]).encode()
        files[IMPORTANCES] = _json(dataclasses.asdict(found))
        files[PARALLEL_COORDINATES] = parallel_coordinates_png(scored, best, f"{name}: {len(scored)} trials")
        if found.groups:
            files[IMPORTANCES_PICTURE] = importance_png(found, f"{name}: what the parameters are worth")
        else:
            sweep.say(f"importances: {found.note}")
        names = ("best_bits_per_dim", "default_bits_per_dim", "epochs_spent", "epochs_without_asha")
        metrics = {name.replace("_bits", "_val_bits"): float(summary[name]) for name in names if summary[name] is not None}
        sweep.tell(partial(sweep.tracker.log_metrics, sweep.parent, metrics, summary["epochs_spent"]))
    for file, content in files.items():
        sweep.records.storage.write_bytes(f"{sweep.records.folder}/{file}", content)
    sweep.tell(partial(sweep.tracker.log_files, sweep.parent, files))
    wide_console().print(rich_table(sweep))
    for line in told(sweep, summary):
        sweep.say(line)
    return summary, sweep.records.storage.uri(f"{sweep.records.folder}/{BEST}") if best is not None else None


def rich_table(sweep: Sweep) -> Table:
    """The trials, the best first, those that failed last."""
    table = Table(title=f"sweep {sweep.records.name}", title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("trial", "architecture", "parameters", "epochs", "val bits/dim", "how it ended"):
        table.add_column(heading, justify="left" if heading in ("architecture", "how it ended") else "right")
    best = sweep.best()
    for trial in sorted(sweep.trials.values(), key=lambda trial: (trial.state == "failed", trial.best_bits_per_dim or 99, trial.number)):
        bits = "" if trial.best_bits_per_dim is None else f"{trial.best_bits_per_dim:z.4f}"
        how = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        how += ", the default recipe" if trial.is_default else ""
        style = "bold" if trial is best else "dim" if trial.state == "failed" else None
        table.add_row(str(trial.number), trial.architecture, f"{trial.parameters:,}", str(trial.epochs), bits, escape(how), style=style)
    return table


def told(sweep: Sweep, summary: Mapping[str, Any]) -> list[str]:
    """What the sweep found, in a few lines: the best trial, the default's figure and the epochs spent."""
    best, default, tried, lines = sweep.best(), summary["default_bits_per_dim"], sweep.default_trial, []
    if best is not None and best.best_bits_per_dim is not None:
        lines.append(f"best: trial {best.number}, val {best.best_bits_per_dim:z.4f} bits/dim ({values_of(best)})")
        how = "not tried" if tried is None else f"{tried.state} after {tried.epochs} of {sweep.epochs} epochs"
        if default is not None:
            how = f"val {default:z.4f} bits/dim (the best is {best.best_bits_per_dim - default:+z.4f})"
        lines.append(f"default recipe at the same budget: {how}")
    spent, without = summary["epochs_spent"], summary["epochs_without_asha"]
    if without:
        lines.append(f"epochs: {spent} spent, {without} without early stopping ({spent / without:.0%})")
    if sweep.untold is not None:
        at = f"all of it is in {sweep.records.storage.root}, and the same command brings it there when MLflow answers"
        lines.append(f"MLflow could not be told of all of it ({sweep.untold}); {at}")
    return lines


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
