"""Lines of progress from workers on any host to the terminal of whoever started them; on a terminal a live table of what
trains, and a bar for what one process counts.

Ray's own forwarding of workers' output would bring everything that libraries print; this brings whole lines that
are meant for a person.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

_ANSWER_S = 30.0  # a machine that is cut off answers nothing
# What the live table tells of a run, in the order of what is kept on a narrow terminal, and the characters that it takes.
_WIDTHS = {"left": 18, "bits": 16, "epoch": 14, "bar": 9, "speed": 15}

Say = Callable[[str], None]
T = TypeVar("T")


def beside_the_driver() -> dict[str, Any]:
    """Options of an actor that serves this process: on its machine, without a CPU of its own, and started again where it dies."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    # Each node has a resource of its own name. Ray starts an actor that needs nothing anywhere, whatever node it is said to prefer.
    names = (name for node in ray.nodes() if node["NodeID"] == here for name in node["Resources"] if name.startswith("node:"))
    address = next(name for name in names if name != "node:__internal_head__")
    return {"num_cpus": 0, "max_restarts": -1, "resources": {address: 0.001}}


@dataclass(frozen=True)
class Standing:
    """How far a run is: a line of the live table."""

    name: str  # of the run
    share: float  # of all its steps, 0 to 1
    epoch: int  # epochs that are whole
    epochs: int  # in all
    bits_per_dim: float | None  # of the last validation; none before the first
    images_per_second: float | None  # of training; none before it is known
    left_s: float | None  # seconds that all steps to come will take


class Lines:
    """Lines that were said and not yet taken, and how far each run is; lives in an actor."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._standings: dict[str, Standing] = {}

    def say(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """All lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def stand(self, standing: Standing) -> None:
        """Keep how far a run is, in place of what was told of it before."""
        self._standings[standing.name] = standing

    def take_all(self) -> tuple[list[str], list[Standing]]:
        """All lines, and how far the runs are that told it, since the last call."""
        standings, self._standings = list(self._standings.values()), {}
        return self.take(), standings


class Shows(Protocol):
    """Where a table of runs is shown."""

    def say(self, line: str) -> None:
        """A note above the table."""

    def stand(self, standing: Standing) -> None:
        """How far a run is."""

    def end(self, name: str, bits_per_dim: float | None) -> None:
        """A run has ended: with its test bits/dim, or (None) without."""


class Progress:
    """The terminal's end: made by the driver, and drained by it while others talk."""

    def __init__(self, show: Say, table: Shows | None = None) -> None:
        import ray

        self._show, self._table = show if table is None else table.say, table
        self._is_open = True
        self.actor: Any = ray.remote(Lines).options(**beside_the_driver()).remote()

    def show(self, line: str) -> None:
        """Show a line of the driver's own."""
        if self._is_open:
            self._show(line)

    def drain(self) -> None:
        """Show what was said since the last call; what an actor held that died is lost, and the one in its place is asked the next time."""
        import ray

        if not self._is_open:
            return
        try:
            lines, standings = ray.get(self.actor.take_all.remote(), timeout=_ANSWER_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return
        for line in lines:
            self._show(line)
        if self._table is not None:
            for standing in standings:
                self._table.stand(standing)

    @property
    def is_live(self) -> bool:
        """Whether there is a table that wants to know how far runs are; else they say it in lines."""
        return self._table is not None

    def end(self, name: str, bits_per_dim: float | None) -> None:
        """A run has ended: with its test bits/dim, or (None) without."""
        if self._is_open and self._table is not None:
            self._table.end(name, bits_per_dim)

    def close(self) -> None:
        """Show nothing more: what runs report while they are being torn down is no news."""
        self._is_open = False


def sayer(actor: Any) -> Say:
    """A function that says a line through the actor, for a worker."""

    def say(line: str) -> None:
        actor.say.remote(line)

    return say


def teller(actor: Any) -> Callable[[Standing], None]:
    """A function that tells through the actor how far a run is, for a worker."""

    def tell(standing: Standing) -> None:
        actor.stand.remote(standing)

    return tell


class LiveTable:
    """A line for each run that is redrawn in place, below the notes that are said meanwhile."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        room = console.width - max((cell_len(name) for name in names), default=0)
        fields = ("bar", "epoch", "bits", "speed", "left")
        columns = [_column(field) for field in fields if field in _kept(room)]
        self._bar = Bar(_text("{task.description}", Column(no_wrap=True)), *columns, console=console, refresh_per_second=4)
        self._ended: set[str] = set()
        self._tasks: dict[str, TaskID] = {
            name: self._bar.add_task(name, total=1.0, epoch="", bits="", speed="", left="waits") for name in names
        }

    def __enter__(self) -> LiveTable:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """A note above the table, as it is."""
        self._bar.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def stand(self, standing: Standing) -> None:
        """Redraw a run's line; one that has ended stays as it is, whatever is heard of it afterwards."""
        if standing.name in self._ended:
            return
        self._bar.update(
            self._tasks[standing.name],
            completed=standing.share,
            epoch=f"epoch {standing.epoch}/{standing.epochs}",
            bits="" if standing.bits_per_dim is None else f"{standing.bits_per_dim:z.4f} bits/dim",
            speed="" if standing.images_per_second is None else f"{standing.images_per_second:.0f} images/s",
            left="" if standing.left_s is None else f"{duration(standing.left_s)} left",
        )

    def end(self, name: str, bits_per_dim: float | None) -> None:
        """A run's line stays as it ended: with its test's bits/dim, or as failed."""
        self._ended.add(name)
        if bits_per_dim is None:
            self._bar.update(self._tasks[name], left="failed")
        else:
            self._bar.update(self._tasks[name], completed=1.0, bits=f"{bits_per_dim:z.4f} bits/dim", left="tested")


def _kept(room: int) -> list[str]:
    """What is told of each run where there are so many characters for it beside the names; how it stands always."""
    used = list(accumulate(_WIDTHS.values()))
    return [field for field, end in zip(_WIDTHS, used, strict=True) if end <= max(room, used[0])]


def _column(field: str) -> ProgressColumn:
    if field == "bar":
        return BarColumn(bar_width=24)
    return _text(f"{{task.fields[{field}]}}", Column(justify="right", no_wrap=True))


def _text(template: str, column: Column) -> TextColumn:
    """A column of text as it is: names of runs may have brackets."""
    return TextColumn(template, markup=False, table_column=column)


@contextmanager
def live_table(names: Sequence[str]) -> Iterator[LiveTable | None]:
    """A live table of runs on standard output where that is a terminal; elsewhere none, and lines stay lines."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal or not sys.stdout.isatty():
        yield None
        return
    with LiveTable(names, console) as table:
        yield table


@contextmanager
def counting(title: str, total: int, unit: str, *, done: float = 0) -> Iterator[Callable[[float], None]]:
    """A bar on the terminal (standard error) that counts up to `total` of a unit; nothing where there is no terminal.

    Gives a function that is told how many more are done; parts of one may be told, too.
    """
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    is_shown = console.is_terminal and not console.is_dumb_terminal
    # what is printed meanwhile stands above the bar, but for what goes into a file
    with Bar(*columns, console=console, disable=not is_shown, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=total)
        bar.update(task, completed=done)
        yield lambda count: bar.advance(task, count)


def counted(items: Iterable[T], advance: Callable[[float], None]) -> Iterator[T]:
    """Items as they come, each one told to a bar."""
    for item in items:
        advance(1)
        yield item


def duration(seconds: float) -> str:
    """A length of time as a person says it: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
