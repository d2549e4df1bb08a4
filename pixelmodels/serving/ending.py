"""How the service is told to end, and that it does: ctrl-c and signals, and a bound on the time that its end takes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

OF_GROUPS = (signal.SIGTERM, signal.SIGHUP)  # are often sent to all processes of a group: by `timeout`, systemd, a terminal that is closed
SIGNALS = (signal.SIGINT, *OF_GROUPS)
START_ENDS_S = 30.0  # for a service that is not up yet


class Ending:
    """Hears ctrl-c, SIGTERM and SIGHUP (unless that is ignored, as by `nohup`); one for a process, made in its main thread.

    Until the service is up they end the process, with the status of a shell (130, 143, 129). Then they let `wait` return; however often
    they come, the process has `within_s` to end by itself before it is ended as it is, with status 1.
    """

    def __init__(self, within_s: float):
        self.within_s, self.is_up = within_s, False
        self._told = threading.Event()
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Python writes there at once, whatever the main thread does; a handler that sets an event may wait for itself.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._listen()
        threading.Thread(target=self._watch, name="ending", daemon=True).start()

    @contextmanager
    def kept_from_children(self) -> Iterator[None]:
        """Around the start of processes that are to end when this one does, in order, and not when a signal is sent to all of them.

        One that comes meanwhile is heard afterwards.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_GROUPS)  # children inherit it
        try:
            yield
            self._listen()  # Ray puts a handler of its own in the place of ours
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self) -> None:
        """Until it is told to end."""
        self._told.wait()

    def _listen(self) -> None:
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self.is_up:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # or they would come to this thread where they are kept from the main one
        number = 0
        while number not in SIGNALS:
            (number,) = os.read(self._reader, 1)
        was_up, within_s = self.is_up, self.within_s if self.is_up else START_ENDS_S
        self._told.set()
        time.sleep(within_s)
        with suppress(OSError):
            os.write(2, f"error: the service has not ended within {within_s:g} s, and is ended as it is\n".encode())
        os._exit(1 if was_up else 128 + number)


def say(text: str, file: TextIO) -> None:
    """Print a line if anybody can still read it: that a terminal was closed, or a pipe, is no reason to end otherwise."""
    try:
        print(text, file=file, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
