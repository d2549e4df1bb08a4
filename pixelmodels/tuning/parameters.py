"""What the parameters of a sweep are worth: the share of the score's variance that each explains, and two pictures.

The shares are those of fANOVA (Hutter et al. 2014), as Optuna finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from pixelmodels.pictures import figure, figure_png, plain
from pixelmodels.tuning.record import TrialRecord
from pixelmodels.tuning.sweep import Sweep

SCORE = "val bits/dim"
_LEAST = 4  # trials from which a group is rated
_ABSENT = -0.12  # height of a parameter that a trial does not have; the others lie in 0..1
_LONG = 14  # characters of a value that fit between two axes
_COLOURS = "viridis"
_BAR = "#2a6f97"


@dataclass(frozen=True)
class Importances:
    """Shares by group of parameters; each group's sum to 1."""

    epoch: int  # after which trials are compared: the last one that all of them trained
    groups: dict[str, dict[str, float]]  # by group: "all trials", or the trials of one architecture; the largest share first
    num_trials: dict[str, int]  # by group
    not_rated: dict[str, int]  # parameters that only some trials of a group have, or that were the same in all, with their number of trials
    note: str  # in words


def importances(sweep: Sweep, trials: Sequence[TrialRecord]) -> Importances:
    """Rate the parameters that all trials of a group have; those of one architecture among its own trials.

    Trials are compared by the best validation bits/dim up to the last epoch that all of them trained, so that none is worse for
    having been stopped.
    """
    epoch = min(trial.epochs for trial in trials)
    names_of_all = sorted({name for trial in trials for name in trial.values})
    every = {name: [trial for trial in trials if name in trial.values] for name in names_of_all}
    groups: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for prefix in sorted({name.rpartition(".")[0] for name in every}):
        members = [trial for trial in trials if any(name.rpartition(".")[0] == prefix for name in trial.values)]
        names = [name for name in members[0].values if name.rpartition(".")[0] == prefix and every[name] == members]
        names = [name for name in names if len({trial.values[name] for trial in members}) > 1]
        shares = _fanova(sweep, members, names, epoch) if len(members) >= _LEAST and names else {}
        if shares:
            groups[prefix or "all trials"], counts[prefix or "all trials"] = shares, len(members)
    rated = {name for shares in groups.values() for name in shares}
    not_rated = {name: len(having) for name, having in every.items() if name not in rated}
    note = f"of the variance between trials after epoch {epoch}; {_LEAST} trials of a group, that are not all alike, are needed"
    return Importances(epoch, groups, counts, not_rated, note)


def _fanova(sweep: Sweep, trials: Sequence[TrialRecord], names: list[str], epoch: int) -> dict[str, float]:
    study = optuna.create_study(direction="minimize")
    for trial in trials:
        _, distributions = sweep.rebuilt(trial.values)
        params = {name: trial.values[name] for name in names}
        kinds = {name: distributions[name] for name in names}
        best = min(bits for done, bits in trial.curve.items() if done <= epoch)
        study.add_trial(optuna.trial.create_trial(value=best, params=params, distributions=kinds))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return {**optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)}
    except (RuntimeError, ValueError):  # all scores alike
        return {}


def axis_of(name: str) -> str:
    """The axis of a parameter: architectures share those of the same name."""
    return name.rpartition(".")[2]


def parallel_coordinates_png(trials: Sequence[TrialRecord], best: TrialRecord, title: str) -> bytes:
    """Every trial as a line across its parameters and its score, as a PNG: the colour is the score, dashed ones were stopped early.

    A line passes below an axis whose parameter the trial does not have. (Optuna's own picture leaves such trials out.)
    """
    from matplotlib import colormaps

    rows: list[dict[str, Any]] = [
        {axis_of(name): value for name, value in trial.values.items()} | {SCORE: trial.best_bits_per_dim} for trial in trials
    ]
    names = [*dict.fromkeys(name for row in rows for name in row if name != SCORE), SCORE]
    heights = {name: _heights([row[name] for row in rows if name in row]) for name in names}
    drawn = figure(max(7.0, 1.35 * len(names)), 5.0)
    axes = drawn.add_subplot()
    for trial, row in sorted(zip(trials, rows, strict=True), key=lambda pair: pair[0] is best):
        axes.plot(
            [heights[name][row[name]] if name in row else _ABSENT for name in names],
            color=colormaps[_COLOURS](heights[SCORE][row[SCORE]]),
            linewidth=3.0 if trial is best else 1.3,
            alpha=1.0 if trial is best else 0.8,
            linestyle="--" if trial.state == "stopped" else "-",
            marker="o",
            markersize=3,
        )
    for place, name in enumerate(names):
        axes.axvline(place, color="#888888", linewidth=0.8, zorder=0)
        values = list(heights[name])
        for value in values if len(values) <= 6 or isinstance(values[0], str) else (values[0], values[-1]):
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            shown = text if len(text) <= _LONG else text.replace("_", "_\n")  # beside the next axis' own
            axes.annotate(plain(shown), (place, heights[name][value]), xytext=(4, 2), textcoords="offset points", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(_ABSENT - 0.05, 1.08)
    axes.set_title(f"{plain(title)} (colour: score, dark is best; dashed: stopped early; below an axis: not there)", loc="left", fontsize=9)
    axes.spines[:].set_visible(False)
    return figure_png(drawn)


def _heights(values: Sequence[Any]) -> dict[Any, float]:
    """Where on its axis, from 0 to 1, each value of a parameter is: numbers to scale, anything else evenly spaced."""
    if any(isinstance(value, (bool, str)) for value in values):
        known = sorted(set(values), key=str)
        return {value: place / (len(known) - 1) if len(known) > 1 else 0.5 for place, value in enumerate(known)}
    low, high = min(values), max(values)
    return {value: (value - low) / (high - low) if high > low else 0.5 for value in sorted(set(values))}


def importance_png(found: Importances, title: str) -> bytes:
    """Bars of each group's shares, as a PNG."""
    sizes = [len(shares) for shares in found.groups.values()]
    drawn = figure(7.0, 1.2 + sum(0.32 * size + 0.45 for size in sizes))
    grid = drawn.subplots(len(sizes), 1, squeeze=False, height_ratios=sizes, sharex=True)
    for axes, (group, shares) in zip(grid[:, 0], found.groups.items(), strict=True):
        axes.barh([axis_of(name) for name in shares], list(shares.values()), color=_BAR, height=0.7)
        axes.tick_params(labelsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(f"{group} ({found.num_trials[group]})", loc="left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1, 0].set_xlabel(f"share of the variance of val bits/dim after epoch {found.epoch}", fontsize=8)
    drawn.suptitle(plain(title), x=0.01, ha="left", fontsize=10)
    return figure_png(drawn)
