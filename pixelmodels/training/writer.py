"""What the first worker of a run writes while the training goes on: in a thread, one thing after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

MOST_WAITING = 2  # things to write, with what they hold in memory: who brings another one waits


class Writer:
    """A thread that writes. What went wrong is raised when the next thing is brought, or by `wait`; nothing is written after it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting = deque[Future[None]]()
        self._error: BaseException | None = None

    def bring(self, write: Callable[[], None]) -> None:
        """Have it written after what was brought before; it must hold nothing that changes in the meantime."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._write, write))

    def wait(self) -> None:
        """Go on when all is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Let all be written, whatever comes of it, and end the thread."""
        self._thread.shutdown()

    def _write(self, write: Callable[[], None]) -> None:
        if self._error is not None:  # what comes later may stand on what is not there
            raise self._error
        try:
            write()
        except BaseException as error:
            self._error = error
            raise
