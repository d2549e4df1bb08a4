"""Pages of figures: of each committed benchmark result its command, machine, table and plot; nothing is measured here."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
MACHINE = ("date", "cores", "threads", "processor", "python", "torch", "load_average_at_end", "quick")  # told above the tables
# What has no benchmark of its own name: the command that wrote it, and what it is.
OTHERS = {
    "ablation": (
        "python pipelines/train_all.py --ablation",
        "What each improvement of the digits' recipes is worth: switched off one by one.",
    )
}
PART_OF = {"serving_before": "serving"}  # results of a benchmark's own comparison: its commands are in that one's docstring
# Of each benchmark the plot that is made where none is committed: where its rows are, what names a row, and the bars.
PLOTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "data": ("speed", ("name",), ("times_as_fast",), "times as fast as a plain loop"),
    "duplicates": ("found", ("source", "change"), ("found", "found_with_contrast"), "share of planted near copies found"),
    "faults": ("summary", ("",), ("back_s", "within_s"), "seconds until it trains again, and the bound"),
    "main_job": ("leaderboard", ("model",), ("test_bits_per_dim",), "test bits/dim"),
    "memory": ("rows", ("architecture",), ("now_mib", "before_mib"), "MiB for each image of a batch"),
    "peers": ("rows", ("case", "batch", "size"), ("float32_over_peer_median",), "times the images/s of public code"),
    "published": ("recipes", ("",), ("peak_memory_gib",), "GiB, one image a step, on CPUs"),
    "quality": (".", ("",), ("ours.test_nats", "peer.test_nats"), "nats of a test image"),
    "ray_over_bare": (".", ("",), ("ray_over_bare_median", "ray_over_bare_best"), "share of a bare run's speed"),
    "data_feeding": (".", ("",), ("thread.over", "training.over"), "over: with and without a thread; streamed and resident"),
    "sampling_compiled": (
        "rows",
        ("case", "batch"),
        ("compiled.times_reference", "eager.times_reference"),
        "times as fast as the reference sampler",
    ),
    "scale_model": ("predictions", ("",), ("measured_s", "predicted_s"), "seconds a step"),
    "scaling": ("images_per_second", ("",), ("median", "best", "worst"), "images a second"),
    "serving_before": (".", ("",), ("images_per_s.here.median", "images_per_s.before.median"), "images a second"),
    "speculation": ("rows", ("width",), ("chosen_over_better",), "time of what was chosen, over the better way's"),
}


@dataclass(frozen=True)
class Result:
    """One committed result: a JSON file, or a table without one, and the pictures of its name."""

    path: Path

    @cached_property
    def parts(self) -> tuple[str, str]:
        """The benchmark's name, and the date with what follows it."""
        found = re.fullmatch(r"(.+?)-(\d{4}-\d\d-\d\d.*)", self.path.stem)
        assert found is not None, f"{self.path.name} has no date in its name: it is not seen on the pages of figures"
        return found[1], found[2]

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What the file holds; of a CSV its rows."""
        if self.path.suffix == ".json":
            return dict(json.loads(self.path.read_text()))
        return {"rows": list(csv.DictReader(io.StringIO(self.path.read_text())))}

    @cached_property
    def pictures(self) -> list[Path]:
        """Committed pictures whose names begin as the file's does; of several files the longest such name has them."""
        return [file for file in sorted(RESULTS.glob("*.png")) if _owner(file) == self.path]


def results() -> dict[str, list[Result]]:
    """All committed results by the benchmark's name, the newest first."""
    found: dict[str, list[Result]] = {}
    for file in sorted(_files(), key=lambda one: one.stem, reverse=True):
        result = Result(file)
        found.setdefault(result.parts[0], []).append(result)
    return dict(sorted(found.items()))


def pages() -> dict[str, str]:
    """Markdown by the page's path below `figures/`: one for each benchmark, and `index.md`."""
    all_results = results()
    lines = [
        f"| [{name}]({name}.md) | {_cell(title(name))} | {', '.join(dict.fromkeys(one.parts[1][:10] for one in found))} |"
        for name, found in all_results.items()
    ]
    index = [
        "# Figures",
        "Everything that was measured and committed, with its date, its machine and the command that measures it again. A plot is the "
        "benchmark's own where it made one, else it is drawn from the table. Other machines give other figures.",
        "| benchmark | what it measures | measured |\n|:---|:---|:---|\n" + "\n".join(lines),
    ]
    return {"index.md": "\n\n".join(index) + "\n", **{f"{name}.md": _page(name, found) for name, found in all_results.items()}}


def plots() -> dict[str, bytes]:
    """SVG by the path below `figures/`, for results that have no picture of their own."""
    drawn = {}
    for name, found in results().items():
        for result in found:
            if not result.pictures and (bars := _bars(name, result.figures)):
                label = (PLOTS.get(name) or _some_bars(result.figures))[3]
                drawn[f"{result.path.stem}.svg"] = _draw(bars, label)
    return drawn


def title(name: str) -> str:
    """The first line of what a benchmark says of itself."""
    return OTHERS[name][1] if name in OTHERS else _docstring(name).partition("\n")[0]


def command(name: str) -> str:
    """The commands that measure it, as its docstring has them: its lines that are moved in by four, and go on as they end."""
    if name in OTHERS:
        return OTHERS[name][0]
    name = PART_OF.get(name, name)
    lines = _docstring(name).splitlines()
    return "\n".join(line.strip() for line in lines if re.match(r"    (\S.*)?(python |pip )", line))


def _page(name: str, found: Sequence[Result]) -> str:
    text = _docstring(name).partition("\n")[2] if name not in OTHERS else ""
    prose = "\n".join(line for line in text.splitlines() if not re.match(r"    \S", line)).strip()
    parts = [f"# {name}", title(name), f"<!-- not run: it measures -->\n```bash\n{command(name)}\n```"]
    parts += [f'??? note "How it is measured"\n\n{_indented(text)}'] if prose else []
    for result in found:
        parts += [f"## {result.parts[1]}", _machine(result)]
        parts += [f"![{picture.stem}](../results/{picture.name})" for picture in result.pictures]
        if not result.pictures and _bars(name, result.figures):
            parts.append(f"![{result.path.stem}]({result.path.stem}.svg)")
        parts += list(tables(result.figures))
        parts.append(f"[{result.path.name}](../results/{result.path.name})")
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures as tables: what is one value, then a table for each list, and for each group of groups."""
    single = {key: value for key, value in figures.items() if key not in ("benchmark", "machine", *MACHINE)}
    rows_of = {key: _rows(value) for key, value in single.items()}
    plain = {name: one for key, value in single.items() if not rows_of[key] for name, one in _flat(key, value)}
    if plain:
        yield "| figure | value |\n|:---|---:|\n" + "\n".join(f"| {_cell(key)} | {_number(value)} |" for key, value in plain.items())
    for key, rows in rows_of.items():
        if rows:
            yield f"**{key}**\n\n{table(rows)}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, a column for each key that some row has."""
    flat = [dict(pair for key, value in row.items() for pair in _flat(key, value)) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    is_text = {column: any(isinstance(row.get(column), str) and not _is_number(row[column]) for row in flat) for column in columns}
    head = f"| {' | '.join(map(_cell, columns))} |\n|{'|'.join(':---' if is_text[column] else '---:' for column in columns)}|"
    return "\n".join([head, *(f"| {' | '.join(_number(row.get(column)) for column in columns)} |" for row in flat)])


def _rows(value: object) -> list[dict[str, Any]]:
    """The rows of what is a table: a list of groups, or a group of groups; of anything else none."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return value
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        inner = list(value.values())
        if len(inner) > 1 and set(inner[0]) & set(inner[1]):
            return [{"": key, **one} for key, one in value.items()]
    return []


def _flat(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), one)
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        yield key, f"{len(value)} in the file"
    else:
        yield key, value


def _bars(name: str, figures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of each row's name the values of its bars; none where the result has no such rows."""
    where, names, values, _ = PLOTS.get(name) or _some_bars(figures)
    rows = [{"": "", **figures}] if where == "." else _rows(figures.get(where))
    bars = {}
    for row in rows:
        flat = dict(pair for key, value in row.items() for pair in _flat(key, value))
        found = {one: float(str(flat[one])) for one in values if _is_number(flat.get(one))}
        if found:
            bars[", ".join(str(flat[one]) for one in names)] = found
    return bars


def _some_bars(figures: Mapping[str, Any]) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
    """What is drawn of a result that `PLOTS` does not know: of its first table the last column of numbers, by the columns of texts."""
    for where, value in figures.items():
        rows = [dict(pair for key, one in row.items() for pair in _flat(key, one)) for row in _rows(value)]
        numbers = [key for key in (rows[0] if rows else {}) if all(_is_number(row.get(key)) for row in rows)]
        texts = [key for key in (rows[0] if rows else {}) if all(isinstance(row.get(key), str) for row in rows)]
        if numbers:
            return where, tuple(texts) or (numbers[0],), (numbers[-1],), numbers[-1]
    single = [key for key, value in figures.items() if _is_number(value) and not isinstance(value, list) and key not in MACHINE]
    return ".", ("",), tuple(single), "value"


def _draw(bars: Mapping[str, Mapping[str, float]], label: str) -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    series = list(dict.fromkeys(one for found in bars.values() for one in found))
    figure = Figure(figsize=(8, 0.8 + 0.3 * len(bars) * max(1, len(series) / 1.5)), layout="tight")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    height = 0.8 / len(series)
    for number, one in enumerate(series):
        at = [place + number * height for place in range(len(bars))]
        drawn = axes.barh(at, [found.get(one, 0.0) for found in bars.values()], height, label=one)
        axes.bar_label(drawn, fmt="%.4g", padding=2, fontsize=8)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(bars))], list(bars))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)
    if len(series) > 1:
        axes.legend(fontsize=8, loc="best")
    stream = io.BytesIO()
    figure.savefig(stream, format="svg")
    return stream.getvalue()


def _machine(result: Result) -> str:
    """When it was measured, and on what."""
    machine = {key: result.figures.get(key) for key in MACHINE}
    of_machine = result.figures.get("machine")
    machine |= of_machine if isinstance(of_machine, dict) else {"machine": of_machine}
    told = [f"{key} {_number(value)}" for key, value in machine.items() if value not in (None, False) and key != "date"]
    return f"Measured {result.parts[1][:10]}" + (f": {', '.join(told)}." if told else ".")


def _files() -> list[Path]:
    """One file for each result: its JSON, or its CSV where it has none."""
    files = sorted(RESULTS.glob("*.json"))
    return files + [file for file in sorted(RESULTS.glob("*.csv")) if not file.with_suffix(".json").exists()]


def _owner(picture: Path) -> Path | None:
    """The result that a picture belongs to: the one whose name is the longest beginning of the picture's."""
    owners = [file for file in _files() if picture.stem == file.stem or picture.stem.startswith(f"{file.stem}-")]
    return max(owners, key=lambda one: len(one.stem), default=None)


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text())) or ""


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return value is not None and not isinstance(value, bool)


def _number(value: object) -> str:
    """A value as a cell: numbers with four digits that count."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    if not _is_number(value):
        return _cell(str(value))
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 1000 or number == int(number) else f"{number:.4g}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _indented(text: str) -> str:
    body = "\n".join(f"    {line}" if line else "" for line in text.strip("\n").splitlines())
    return body
