"""What each improvement is worth: the table of an ablation, on the terminal, as Markdown, CSV and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

from pixelmodels.evaluation.nats import TEST_NATS, ImageNats, read_nats
from pixelmodels.evaluation.scores import standard_error
from pixelmodels.pictures import bars, figure, figure_png
from pixelmodels.progress import Say
from pixelmodels.recipes.ablation import Ablation
from pixelmodels.runs.result import RunResult, run_folder
from pixelmodels.storage import Storage
from pixelmodels.tables import csv_text, markdown_table, plain_table, wide_console

MARKDOWN, CSV, PICTURE = "ablation.md", "ablation.csv", "ablation.png"
SIGN = "Worth is test bits/dim without the improvement minus with it: above 0, it helps."
NOTE = (
    "± is the standard error of the mean over the test images of that difference, taken image by image; each recipe is trained once, "
    "with one seed."
)
SIZE_NOTE = "A line with (2.0x) or the like changes the network's size too: with the improvement it has that many times the parameters."
_HEADINGS = ("improvement", "parameters with / without", "bits/dim with", "bits/dim without", "worth (without - with)")
_HELPS_COLOUR, _HARMS_COLOUR = "#2a6f97", "#b8533c"


@dataclass(frozen=True)
class AblationRow:
    """One line. The fields are the columns of `ablation.csv`."""

    improvement: str
    model_with: str  # name of the recipe that has it
    model_without: str  # name of the recipe that does not
    parameters_with: int  # trained numbers
    parameters_without: int
    bits_per_dim_with: float  # mean over the test images
    bits_per_dim_without: float
    worth_bits_per_dim: float  # without - with: above 0, the improvement helps
    worth_stderr: float  # standard error of the mean of the differences over images; NaN for one image

    @property
    def resized(self) -> str:
        """How many times the parameters the improvement brings: `2.0x`; empty where that is 1.0."""
        times = f"{self.parameters_with / self.parameters_without:.1f}x"
        return "" if times == "1.0x" else times


COLUMNS = tuple(field.name for field in fields(AblationRow))


def compare(ablation: Ablation, results: Mapping[str, RunResult], tests: Mapping[str, ImageNats]) -> AblationRow:
    """The line of one improvement, from results and tests by recipe's name; raises `ValueError` where they are of other images."""
    names = ablation.recipe_with.name, ablation.recipe_without.name
    given, lacking = (tests[name] for name in names)
    if given.keys != lacking.keys:
        raise ValueError(f"'{names[0]}' and '{names[1]}' were not tested on the same images in the same order")
    worth_N = lacking.bits_per_dim_N - given.bits_per_dim_N
    stderr = standard_error(worth_N)
    parameters = results[names[0]].parameters, results[names[1]].parameters
    means = float(given.bits_per_dim_N.mean()), float(lacking.bits_per_dim_N.mean())
    return AblationRow(ablation.name, *names, *parameters, *means, float(worth_N.mean()), math.nan if stderr is None else stderr)


def compare_all(comparisons: Sequence[Ablation], results: Iterable[RunResult], storage: Storage, say: Say) -> list[AblationRow]:
    """A line for each improvement both of whose runs ended well; for others it is told what they lack."""
    by_name, tests = {result.name: result for result in results}, dict[str, ImageNats]()
    for name, result in by_name.items():
        try:
            tests[name] = read_nats(storage.read_bytes(f"{run_folder(name, result.run_key)}/{TEST_NATS}"))
        except FileNotFoundError:
            say(f"{name}: its run kept no nats of its test images; --fresh trains it anew")
    rows = []
    for one in comparisons:
        lacking = [recipe.name for recipe in (one.recipe_with, one.recipe_without) if recipe.name not in tests]
        if lacking:
            say(f"{one.name}: not compared, there is no test of {' and '.join(lacking)}")
        else:
            rows.append(compare(one, by_name, tests))
    return rows


def print_ablation(rows: Iterable[AblationRow], title: str) -> None:
    """Print the table; as wide as it needs to be where nobody sets a width."""
    rows, console = list(rows), wide_console()
    console.print(f"{_titled(title)}\n{SIGN}", highlight=False, soft_wrap=True)
    table = plain_table()
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    if any(row.resized for row in rows):
        console.print(SIZE_NOTE, highlight=False, soft_wrap=True)


def markdown(rows: Sequence[AblationRow], title: str, comparisons: Iterable[Ablation]) -> str:
    """The table as a Markdown page, with what each line switches below it."""
    compared = {row.improvement for row in rows}
    lines = [f"# {_titled(title)}", "", f"{SIGN} {NOTE}", "", markdown_table(_HEADINGS, map(_cells, rows)).rstrip()]
    lines += ["", SIZE_NOTE] if any(row.resized for row in rows) else []
    lines += ["", f"![worth in bits/dim]({PICTURE})", ""]
    shown = (one for one in comparisons if one.name in compared)
    lines += [f"- {one.name}: {one.switches} (`{one.recipe_with.name}`, `{one.recipe_without.name}`)" for one in shown]
    return "\n".join(lines) + "\n"


def picture_png(rows: Sequence[AblationRow], title: str) -> bytes:
    """Bars of what each improvement is worth, with standard errors, as the bytes of a PNG file."""
    drawn = figure(8.0, 1.6 + 0.42 * len(rows))
    worth = [row.worth_bits_per_dim for row in rows]
    errors = [0.0 if math.isnan(row.worth_stderr) else row.worth_stderr for row in rows]
    colours = [_HELPS_COLOUR if value >= 0 else _HARMS_COLOUR for value in worth]
    xlabel = "worth: test bits/dim without - with (above 0 it helps; whiskers: standard error, paired over images)"
    how = {"color": colours, "xerr": errors, "error_kw": {"ecolor": "#222222", "capsize": 3}}
    axes = bars(drawn, _titled(title), [_label(row) for row in rows], worth, xlabel, **how)
    axes.axvline(0, color="#222222", linewidth=0.8)
    return figure_png(drawn)


def ablation_files(rows: Sequence[AblationRow], title: str, comparisons: Iterable[Ablation]) -> dict[str, bytes]:
    """The three files by name."""
    return {
        MARKDOWN: markdown(rows, title, comparisons).encode(),
        CSV: csv_text(COLUMNS, map(astuple, rows)).encode(),
        PICTURE: picture_png(rows, title),
    }


def _titled(title: str) -> str:
    return f"What each improvement is worth: {title}"


def _label(row: AblationRow) -> str:
    return f"{row.improvement}\n({row.resized} the parameters)" if row.resized else row.improvement


def _cells(row: AblationRow) -> tuple[str, ...]:
    parameters = " / ".join(f"{count:,}" for count in dict.fromkeys((row.parameters_with, row.parameters_without)))
    parameters += f" ({row.resized})" if row.resized else ""
    worth = f"{row.worth_bits_per_dim:+z.4f}"
    if not math.isnan(row.worth_stderr):
        worth += f" ± {row.worth_stderr:z.4f}"
    return row.improvement, parameters, f"{row.bits_per_dim_with:z.4f}", f"{row.bits_per_dim_without:z.4f}", worth
