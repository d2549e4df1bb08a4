"""Processes of this machine that work for one other process, and end with it.

They are fresh processes and no forks, so threads of the other one do no harm, and what it has as `__main__` is not run again. No module
is looked for in the working directory (`-P`): it may hold anybody's files. Calls and
their outcomes are pickled, through pipes that nobody else can write to; when the pipe ends, so does the process.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pixelmodels.errors import UserError

_AHEAD = 4  # calls that are waiting or running for each process
_ALL: list[_Process] = []  # until `end_processes`
_IDLE: list[_Process] = []  # of these, those that wait for a call
_TAKING = threading.Lock()


def map_here(function: Callable[[Any], Any], arguments: Iterable[Any], num_processes: int) -> Iterator[Any]:
    """`function` of each argument, in their order, in processes that are begun as they are needed; these stay until `end_processes`.

    Raises the `UserError` that a call raised, and `RuntimeError` with the traceback of any other error.
    """
    waiting: deque[Future[Any]] = deque()
    threads = ThreadPoolExecutor(num_processes)  # each waits for one process
    try:
        for argument in arguments:
            waiting.append(threads.submit(_call, function, argument))
            if len(waiting) >= _AHEAD * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def end_processes() -> None:
    """End all of them, whatever they do."""
    with _TAKING:
        ended = list(_ALL)
        _ALL.clear()
        _IDLE.clear()
    for process in ended:
        process.end()


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    with _TAKING:
        if not _IDLE:
            _ALL.append(_Process())
        process = _IDLE.pop() if _IDLE else _ALL[-1]
    kind, value = process.call(function, argument)
    with _TAKING:
        if process in _ALL:  # it was not ended meanwhile, while another call failed
            _IDLE.append(process)
    if kind == "user error":
        raise UserError(value)
    if kind == "error":
        raise RuntimeError(f"a task failed in another process:\n{value}")
    return value


class _Process:
    """One process, which makes one call at a time."""

    def __init__(self) -> None:
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", "from pixelmodels.data.processes import main; main()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def call(self, function: Callable[[Any], Any], argument: Any) -> tuple[str, Any]:
        """What came of it, and which kind that is; `UserError` where the process is lost."""
        calls, outcomes = self._process.stdin, self._process.stdout
        assert calls is not None and outcomes is not None
        try:
            pickle.dump((function, argument), calls)
            calls.flush()
            outcome: tuple[str, Any] = pickle.load(outcomes)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            lost = f"a process was lost (status {status}), perhaps for want of memory"
            raise UserError(f"{lost}; give the same command again: it goes on from what is whole") from error
        return outcome

    def end(self) -> None:
        """End it; a call that it is at is lost."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Make the calls that come, until no more can come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that this one works for is interrupted, and ends it
    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever somebody prints is no outcome
    with suppress(EOFError, BrokenPipeError):
        while True:
            function, argument = pickle.load(sys.stdin.buffer)
            outcome: tuple[str, Any]
            try:
                outcome = ("value", function(argument))
            except UserError as error:
                outcome = ("user error", str(error))
            except Exception:
                outcome = ("error", traceback.format_exc())
            pickle.dump(outcome, outcomes)
            outcomes.flush()
