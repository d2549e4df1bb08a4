"""Lines of progress from workers on any host to the terminal of whoever started them.

Ray's own forwarding of workers' output would bring everything that libraries print; this brings whole lines that
are meant for a person.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pixelmodels.training.loop import Say


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
        self.actor: Any = ray.remote(Lines).options(num_cpus=0).remote()

    def drain(self) -> None:
        """Show what was said since the last call."""
        import ray

        for line in ray.get(self.actor.take.remote()):
            self._show(line)


def sayer(actor: Any) -> Callable[[str], None]:
    """A function that says a line through the actor, for a worker."""

    def say(line: str) -> None:
        actor.say.remote(line)

    return say
