"""Processes of this machine that make calls for another one."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixelmodels.data.processes import _Process, end_processes, map_here
from pixelmodels.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end_processes()


def test_outcomes_come_in_order_of_few_arguments_at_a_time() -> None:
    taken = 0

    def arguments() -> Iterator[str]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield str(number)

    outcomes = map_here(int, arguments(), 2)
    assert [next(outcomes) for _ in range(3)] == [0, 1, 2] and taken <= 3 + 2 * 4
    assert list(outcomes) == list(range(3, 50)) and list(map_here(int, [], 2)) == []


def test_processes_are_used_again_until_they_are_ended() -> None:
    call = functools.partial(eval, "__import__('os').getpid()")
    first = set(map_here(call, [{}] * 9, 2))
    assert os.getpid() not in first and len(first) <= 2 and set(map_here(call, [{}] * 9, 2)) <= first
    end_processes()
    assert not set(map_here(call, [{}] * 9, 2)) & first


def test_one_that_was_ended_at_its_call_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another call has failed: whoever prepares the next data set would lose a process that is gone already."""
    with monkeypatch.context() as patch:
        call = _Process.call
        patch.setattr(_Process, "call", lambda *arguments: (call(*arguments), end_processes())[0])
        assert list(map_here(len, ["ab"], 1)) == [2]
    assert list(map_here(len, ["abc"], 1)) == [3]


def test_errors_are_told() -> None:
    with pytest.raises(UserError, match=r"^unknown 'x'$"):
        list(map_here(functools.partial(exec, "from pixelmodels.errors import UserError\nraise UserError(\"unknown 'x'\")"), [{}], 1))
    with pytest.raises(RuntimeError, match=r"(?s)in another process:.*Traceback.*ValueError: invalid literal"):
        list(map_here(int, ["1", "x", "2"], 1))
    with pytest.raises(UserError, match=r"a process was lost \(status -9\), perhaps for want of memory; give the same command again"):
        list(map_here(functools.partial(eval, "__import__('os').kill(__import__('os').getpid(), 9)"), [{}], 1))
    assert list(map_here(functools.partial(eval, "print('no outcome') or 3"), [{}], 1)) == [3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_they_end_with_the_process_that_began_them(number: signal.Signals) -> None:
    script = "import os, sys\nfrom pixelmodels.data.processes import map_here\n"
    script += "print(*set(map_here(eval, ['__import__(\"os\").getpid()'] * 9, 2)), flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert pids
        run.send_signal(number)
    deadline = time.monotonic() + 30
    while any(map(_is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_files_of_the_working_directory_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that somebody sent may lie there."""
    for name in ("base64.py", "pixelmodels.py", "pickle.py"):
        (tmp_path / name).write_text("import pathlib; pathlib.Path('ran').touch(); raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert list(map_here(len, ["ab"], 1)) == [2]
    assert not (tmp_path / "ran").exists()
