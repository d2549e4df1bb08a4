"""The leaderboard of a run: baselines, then models, by exact test bits/dim; as a table, Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

BASELINE = "baseline"  # what the column `likelihood` says of rows that are no model
MARKDOWN, CSV, PICTURE = "leaderboard.md", "leaderboard.csv", "leaderboard.png"
LOG_WIDTH = 132  # characters
_MODEL_COLOUR, _BASELINE_COLOUR = "#2a6f97", "#b8b8b8"


@dataclass(frozen=True)
class LeaderboardRow:
    """One line; `None` is an empty cell. The fields are the columns of `leaderboard.csv`."""

    model: str  # name of the recipe, or of the baseline
    likelihood: str  # name of the likelihood, `baseline` for a baseline
    parameters: int | None  # trained numbers; none for a baseline
    test_bits_per_dim: float  # mean over the test images, bits per sub-pixel
    test_bits_per_dim_stderr: float | None  # standard error of that mean over images; none when only the sum is known
    test_nll_nats: float  # mean negative log-likelihood of a whole test image
    train_images_per_second: float | None  # over all workers
    samples_per_second: float | None  # exact samples drawn
    seconds: float | None  # all the time it took

    @property
    def is_baseline(self) -> bool:
        """Whether this line is no model."""
        return self.parameters is None

    @property
    def label(self) -> str:
        """Model over likelihood, since a suite may train one architecture with several."""
        return self.model if self.is_baseline else f"{self.model}\n{self.likelihood}"


COLUMNS = tuple(field.name for field in fields(LeaderboardRow))
_HEADINGS = ("model", "likelihood", "parameters", "test bits/dim", "nats/image", "train img/s", "samples/s", "time")


def ordered(rows: Iterable[LeaderboardRow]) -> list[LeaderboardRow]:
    """Baselines first, then models; the best (fewest bits/dim) first in each."""
    return sorted(rows, key=lambda row: (not row.is_baseline, row.test_bits_per_dim, row.model))


def rich_table(rows: Iterable[LeaderboardRow], title: str = "leaderboard", width: int = LOG_WIDTH) -> Table:
    """The leaderboard for a terminal of `width` characters, with fewer columns where all do not fit; the best model is bold."""
    lines = ordered(rows)
    cells = [_cells(row) for row in lines]
    shown: Sequence[int] = range(len(_HEADINGS))
    for candidate in (shown, [0, 1, 2, 3, 7], [0, 1, 3, 7], [0, 1, 3]):  # the CSV file has them all
        shown = candidate
        if sum(3 + max(len(text) for text in [_HEADINGS[index], *(line[index] for line in cells)]) for index in shown) <= width:
            break
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        table.add_column(_HEADINGS[index], justify="left" if index < 2 else "right", no_wrap=index != 1, overflow="fold")
    best = next((row for row in lines if not row.is_baseline), None)
    for position, row in enumerate(lines):
        last_baseline = row.is_baseline and position + 1 < len(lines) and not lines[position + 1].is_baseline
        style = "dim" if row.is_baseline else "bold" if row is best else None
        table.add_row(*(cells[position][index] for index in shown), style=style, end_section=last_baseline)
    return table


def print_leaderboard(rows: Iterable[LeaderboardRow], title: str = "leaderboard") -> None:
    """Print the leaderboard; as wide as it needs to be where nobody sets a width (a log file, the output of a job)."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    console.print(rich_table(rows, title, console.width))


def markdown(rows: Iterable[LeaderboardRow], title: str, notes: Sequence[str] = ()) -> str:
    """The leaderboard as a Markdown page, with a list of notes below the table."""
    lines = [f"# {title}", "", "| " + " | ".join(_HEADINGS) + " |", "|" + "|".join([":---"] * 2 + ["---:"] * (len(_HEADINGS) - 2)) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in ordered(rows)]
    lines += ["", f"![test bits/dim]({PICTURE})", ""]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def csv_text(rows: Iterable[LeaderboardRow]) -> str:
    """The leaderboard as CSV with the columns `COLUMNS`: full precision, empty cells where there is no value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in ordered(rows):
        values = (getattr(row, name) for name in COLUMNS)
        writer.writerow(["" if value is None else value for value in values])
    return stream.getvalue()


def picture_png(rows: Iterable[LeaderboardRow], title: str) -> bytes:
    """Bars of test bits/dim with their standard errors, baselines in grey, as the bytes of a PNG file."""
    # The object interface: pyplot would keep global state and look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    lines = ordered(rows)
    figure = Figure(figsize=(8.0, 1.4 + 0.42 * len(lines)), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = [row.test_bits_per_dim for row in lines]
    errors = [row.test_bits_per_dim_stderr or 0.0 for row in lines]
    colours = [_BASELINE_COLOUR if row.is_baseline else _MODEL_COLOUR for row in lines]
    axes.barh(range(len(lines)), values, color=colours, height=0.68)
    with_error = [index for index, error in enumerate(errors) if error > 0]
    axes.errorbar(
        [values[index] for index in with_error],
        with_error,
        xerr=[errors[index] for index in with_error],
        fmt="none",
        ecolor="#222222",
        elinewidth=1.2,
        capsize=3,
    )
    widest = max(value + error for value, error in zip(values, errors, strict=True))
    for index, (value, error) in enumerate(zip(values, errors, strict=True)):
        axes.text(value + error + 0.015 * widest, index, f"{value:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(lines)), [row.label for row in lines], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * widest)
    axes.set_xlabel("test bits/dim (lower is better; whiskers: standard error over images)", fontsize=9)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    legend = [Patch(color=_BASELINE_COLOUR, label="baselines"), Patch(color=_MODEL_COLOUR, label="models")]
    figure.legend(handles=legend, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def leaderboard_files(rows: Sequence[LeaderboardRow], title: str, notes: Sequence[str] = ()) -> dict[str, bytes]:
    """The three files by name; raises `ValueError` without rows."""
    if not rows:
        raise ValueError("a leaderboard needs at least one row")
    return {
        MARKDOWN: markdown(rows, title, notes).encode(),
        CSV: csv_text(rows).encode(),
        PICTURE: picture_png(rows, title),
    }


def _cells(row: LeaderboardRow) -> list[str]:
    """The line as text, in the order of `_HEADINGS`."""
    bits = f"{row.test_bits_per_dim:.4f}"
    if row.test_bits_per_dim_stderr:
        bits += f" ± {row.test_bits_per_dim_stderr:.4f}"
    return [
        row.model,
        row.likelihood,
        "" if row.parameters is None else f"{row.parameters:,}",
        bits,
        f"{row.test_nll_nats:,.2f}",
        _number(row.train_images_per_second),
        _number(row.samples_per_second),
        _duration(row.seconds),
    ]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
