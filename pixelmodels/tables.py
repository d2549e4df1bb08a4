"""Tables for people: as CSV, as Markdown, and on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

LOG_WIDTH = 132  # characters


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV: a line of names, then a line for each row; `None` is an empty cell."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table as Markdown: the first `text_columns` columns to the left, numbers to the right."""
    marks = [":---" if index < text_columns else "---:" for index in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(marks) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def plain_table(title: str | None = None) -> Table:
    """An empty table for the terminal: a line under its headings, no other frame."""
    return Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def wide_console() -> Console:
    """The terminal, or a log of a width that tables fit in."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)
