"""Signals, in processes of their own: with which status one ends, how soon, and who else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

START = """
import os, signal, subprocess, sys, time
from pixelmodels.serving.ending import Ending, say
ending = Ending(within_s=float(sys.argv[1]))
"""
UP = START + "ending.is_up = True\nprint('up', flush=True)\n"
WAITS = UP + "ending.wait()\nprint('ending', flush=True)\n"


def started(program: str, within_s: float = 60.0, **options: object) -> subprocess.Popen[str]:
    """The program, in a process group of its own, once it has said its first line."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", program, str(within_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    assert process.stdout.readline().strip()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 3])
def test_it_ends_as_it_likes_once_it_is_up(number: signal.Signals, times: int) -> None:
    process = started(WAITS + "time.sleep(0.5)\nsys.exit(7)\n")
    for _ in range(times):
        os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (7, "ending\n", "")


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(3600)",
        "while True: pass",
        "lock = __import__('threading').Lock()\nlock.acquire()\nlock.acquire()",
    ],
)
def test_what_does_not_end_by_itself_is_ended(body: str) -> None:
    process = started(WAITS + body, within_s=0.3)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "error: the service has not ended within 0.3 s, and is ended as it is\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_before_it_is_up_it_ends_at_once(number: signal.Signals, status: int) -> None:
    program = START + "from pixelmodels.errors import exit_with\nexit_with(lambda: (print('starting', flush=True), time.sleep(3600)))"
    process = started(program)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in err


def test_a_signal_that_is_swallowed_at_the_start_is_remembered() -> None:
    swallows = "try:\n    print('starting', flush=True)\n    time.sleep(3600)\nexcept SystemExit:\n    pass\n"
    program = START + swallows + "ending.is_up = True\nending.wait()\n"
    process = started(program)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0


def test_processes_that_it_starts_end_after_it() -> None:
    """Though the signal is sent to all of them, and what starts them puts a handler in the place of ours."""
    program = START + (
        "with ending.kept_from_children():\n"
        "    child = subprocess.Popen(['sleep', '3600'])\n"
        "    signal.signal(signal.SIGTERM, lambda *_: os._exit(99))\n"
        "ending.is_up = True\nprint('up', flush=True)\nending.wait()\n"
        "time.sleep(0.5)\nprint(child.poll(), flush=True)\nchild.kill()\nchild.wait()\n"
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        process = started(program)
        os.killpg(process.pid, number)
        assert process.communicate(timeout=60) == ("None\n", "") and process.returncode == 0


def test_a_signal_while_they_are_started_ends_it_afterwards() -> None:
    program = START + (
        "with ending.kept_from_children():\n    print('starting', flush=True)\n    time.sleep(1)\n    print('started', flush=True)\n"
        "print('not here')\n"
    )
    process = started(program)
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=60) == ("started\n", "") and process.returncode == 143


def test_what_is_ignored_by_nohup_stays_so() -> None:
    process = started(WAITS, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.kill(process.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "ending\n" and process.returncode == 0


def test_a_reader_that_is_gone_changes_no_status(tmp_path: Path) -> None:
    """Of a pipe, as of a terminal that is closed."""
    process = started(UP + "ending.wait()\nfor _ in range(3): say('finishing', sys.stdout)\nsys.exit(5)\n")
    process.stdout.close()  # type: ignore[union-attr]
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(timeout=60) == 5 and process.stderr.read() == ""  # type: ignore[union-attr]
