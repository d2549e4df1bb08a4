"""A sweep's pictures: every trial as a line across its parameters, and the parameters' importances as bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from pixelmodels.tuning.importance import Importances
from pixelmodels.tuning.record import TrialRecord

SCORE = "val bits/dim"
_ABSENT = -0.12  # height of a parameter that a trial does not have; the others lie in 0..1
_LONG = 14  # characters of a value that fit between two axes
_COLOURS = "viridis"
_BAR = "#2a6f97"


def axis_of(name: str) -> str:
    """The axis of a parameter: architectures share those of the same name."""
    return name.rpartition(".")[2]


class Axis:
    """One parameter's values, from 0 to 1."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        self.is_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        known = sorted(set(values), key=lambda value: value if self.is_number else str(value))
        self.low, self.high = (float(known[0]), float(known[-1])) if self.is_number else (0.0, len(known) - 1.0)
        self._order = {value: float(i) for i, value in enumerate(known)}
        shown = known if not self.is_number or len(known) <= 6 else [known[0], known[-1]]
        self.ticks = [(self.height(value), f"{value:.3g}" if isinstance(value, float) else str(value)) for value in shown]

    def height(self, value: Any) -> float:
        """Where a value is."""
        position = float(value) if self.is_number else self._order[value]
        return 0.5 if self.high == self.low else (position - self.low) / (self.high - self.low)


def parallel_coordinates_png(trials: Sequence[TrialRecord], best: TrialRecord, title: str) -> bytes:
    """Every trial as a line across its parameters and its score, as a PNG: the colour is the score, dashed ones were stopped early.

    A line passes below an axis whose parameter the trial does not have.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    rows: list[dict[str, Any]] = [
        {axis_of(name): value for name, value in trial.values.items()} | {SCORE: trial.best_bits_per_dim} for trial in trials
    ]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != SCORE] + [SCORE]
    axes_of = [Axis(name, [row[name] for row in rows if name in row]) for name in names]
    figure = Figure(figsize=(max(7.0, 1.35 * len(names)), 5.0), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    score = axes_of[-1]
    colours = ScalarMappable(Normalize(score.low, score.high), colormaps[_COLOURS])
    for trial, row in sorted(zip(trials, rows, strict=True), key=lambda pair: pair[0] is best):
        heights = [axis.height(row[axis.name]) if axis.name in row else _ABSENT for axis in axes_of]
        axes.plot(
            range(len(names)),
            heights,
            color=colours.to_rgba(row[SCORE]),
            linewidth=3.0 if trial is best else 1.3,
            alpha=1.0 if trial is best else 0.8,
            linestyle="--" if trial.state == "stopped" else "-",
            marker="o",
            markersize=3,
            label="best" if trial is best else "default recipe" if trial.is_default else None,
        )
    for i, axis in enumerate(axes_of):
        axes.axvline(i, color="#888888", linewidth=0.8, zorder=0)
        for height, text in axis.ticks:
            shown = text if len(text) <= _LONG else text.replace("_", "_\n")  # beside the next axis' own
            axes.annotate(shown, (i, height), xytext=(4, 2), textcoords="offset points", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(_ABSENT - 0.05, 1.08)
    axes.set_title(f"{title} (dashed: stopped early; below an axis: not there)", loc="left", fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(colours, ax=axes, label=f"{SCORE} (lower is better)", pad=0.02)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def importance_png(found: Importances, title: str) -> bytes:
    """Bars of each group's shares, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = [len(shares) for shares in found.groups.values()]
    figure = Figure(figsize=(7.0, 1.2 + sum(0.32 * size + 0.45 for size in sizes)), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(sizes), 1, squeeze=False, height_ratios=sizes, sharex=True)
    for axes, (group, shares) in zip(grid[:, 0], found.groups.items(), strict=True):
        axes.barh(range(len(shares)), list(shares.values()), color=_BAR, height=0.7)
        axes.set_yticks(range(len(shares)), [axis_of(name) for name in shares], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(f"{group} ({found.num_trials[group]})", loc="left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1, 0].set_xlabel(f"share of the variance of val bits/dim after epoch {found.epoch}", fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()
