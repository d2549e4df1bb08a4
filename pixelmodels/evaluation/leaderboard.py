"""The leaderboard of a run: baselines, then models, by exact test bits/dim; as a table, Markdown, CSV and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

from rich.table import Table

from pixelmodels.pictures import bars, figure, figure_png
from pixelmodels.tables import LOG_WIDTH, csv_text, markdown_table, plain_table, wide_console

BASELINE = "baseline"  # what the column `likelihood` says of rows that are no model
MARKDOWN, CSV, PICTURE = "leaderboard.md", "leaderboard.csv", "leaderboard.png"
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
    table = plain_table(title)
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
    console = wide_console()
    console.print(rich_table(rows, title, console.width))


def markdown(rows: Iterable[LeaderboardRow], title: str, notes: Sequence[str] = ()) -> str:
    """The leaderboard as a Markdown page, with a list of notes below the table."""
    cells = ([cell.replace("|", "\\|") for cell in _cells(row)] for row in ordered(rows))
    page = f"# {title}\n\n{markdown_table(_HEADINGS, cells, text_columns=2)}\n![test bits/dim]({PICTURE})\n\n"
    return (page + "\n".join(f"- {note}" for note in notes)).rstrip() + "\n"


def picture_png(rows: Iterable[LeaderboardRow], title: str) -> bytes:
    """Bars of test bits/dim with their standard errors, baselines in grey, as the bytes of a PNG file."""
    from matplotlib.patches import Patch

    lines = ordered(rows)
    drawn = figure(8.0, 1.4 + 0.42 * len(lines))
    values = [row.test_bits_per_dim for row in lines]
    errors = [row.test_bits_per_dim_stderr or 0.0 for row in lines]
    colours = [_BASELINE_COLOUR if row.is_baseline else _MODEL_COLOUR for row in lines]
    xlabel = "test bits/dim (lower is better; whiskers: standard error over images)"
    axes = bars(drawn, title, [row.label for row in lines], values, xlabel, color=colours)
    widest = max(value + error for value, error in zip(values, errors, strict=True))
    for index, (value, error) in enumerate(zip(values, errors, strict=True)):
        if error > 0:
            axes.errorbar(value, index, xerr=error, fmt="none", ecolor="#222222", elinewidth=1.2, capsize=3)
        axes.text(value + error + 0.015 * widest, index, f"{value:z.3f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.1 * widest or 1.0)
    legend = [Patch(color=_BASELINE_COLOUR, label="baselines"), Patch(color=_MODEL_COLOUR, label="models")]
    drawn.legend(handles=legend, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure_png(drawn)


def leaderboard_files(rows: Sequence[LeaderboardRow], title: str, notes: Sequence[str] = ()) -> dict[str, bytes]:
    """The three files by name; raises `ValueError` without rows."""
    if not rows:
        raise ValueError("a leaderboard needs at least one row")
    return {
        MARKDOWN: markdown(rows, title, notes).encode(),
        CSV: csv_text(COLUMNS, map(astuple, ordered(rows))).encode(),
        PICTURE: picture_png(rows, title),
    }


def _cells(row: LeaderboardRow) -> list[str]:
    """The line as text, in the order of `_HEADINGS`."""
    bits = f"{row.test_bits_per_dim:z.4f}"
    if row.test_bits_per_dim_stderr:
        bits += f" ± {row.test_bits_per_dim_stderr:z.4f}"
    return [
        row.model,
        row.likelihood,
        "" if row.parameters is None else f"{row.parameters:,}",
        bits,
        f"{row.test_nll_nats:z,.2f}",
        _number(row.train_images_per_second),
        _number(row.samples_per_second),
        _duration(row.seconds),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
