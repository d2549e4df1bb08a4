"""Lines of progress from workers on any host to the terminal of whoever started them, and a bar for what one process counts.

Ray's own forwarding of workers' output would bring everything that libraries print; this brings whole lines that
are meant for a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_ANSWER_S = 30.0  # a machine that is cut off answers nothing

Say = Callable[[str], None]


def beside_the_driver() -> dict[str, Any]:
    """Options of an actor that serves this process: on its machine, without a CPU of its own, and started again where it dies."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    # Each node has a resource of its own name. Ray starts an actor that needs nothing anywhere, whatever node it is said to prefer.
    names = (name for node in ray.nodes() if node["NodeID"] == here for name in node["Resources"] if name.startswith("node:"))
    address = next(name for name in names if name != "node:__internal_head__")
    return {"num_cpus": 0, "max_restarts": -1, "resources": {address: 0.001}}


class Lines:
    """Lines that were said and not yet taken; lives in an actor."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def say(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """All lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


class Progress:
    """The terminal's end: made by the driver, and drained by it while others talk."""

    def __init__(self, show: Say) -> None:
        import ray

        self._show = show
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
            lines = ray.get(self.actor.take.remote(), timeout=_ANSWER_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return
        for line in lines:
            self._show(line)

    def close(self) -> None:
        """Show nothing more: what runs report while they are being torn down is no news."""
        self._is_open = False


def sayer(actor: Any) -> Say:
    """A function that says a line through the actor, for a worker."""

    def say(line: str) -> None:
        actor.say.remote(line)

    return say


@contextmanager
def counting(title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[float], None]]:
    """A bar on the terminal (standard error) that counts up to `total` of a unit; nothing where there is no terminal.

    Gives a function that is told how many more are done; parts of one may be told, too.
    """
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def duration(seconds: float) -> str:
    """A length of time as a person says it: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
