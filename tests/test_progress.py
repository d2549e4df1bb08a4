"""Lines from workers to the terminal, and what a terminal shows of them."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from pixelmodels.progress import LiveTable, Progress, Standing, beside_the_driver, duration, sayer, teller


def test_lines_come_in_order_and_once(ray_cluster: None) -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    say = sayer(progress.actor)
    say("one")
    say("two")
    progress.drain()
    progress.drain()
    assert lines == ["one", "two"]
    say("three")
    progress.close()
    progress.drain()
    progress.show("four")
    assert lines == ["one", "two"]  # what is torn down has no news


def test_lines_that_were_lost_with_their_machine_stop_nothing(ray_cluster: None) -> None:
    import ray

    progress = Progress(print)
    ray.kill(progress.actor)
    progress.drain()


def test_what_serves_the_driver_needs_the_drivers_own_node(ray_cluster: None) -> None:
    """One that needs nothing is started anywhere."""
    import ray

    (here,) = ray.nodes()
    ((name, amount),) = beside_the_driver()["resources"].items()
    assert name == f"node:{here['NodeManagerAddress']}" and name in here["Resources"] and 0 < amount < 0.1


@pytest.mark.parametrize(("seconds", "text"), [(41.7, "42 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_lengths_of_time_are_said_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


TABLE = """
from pixelmodels.progress import Standing, live_table

with live_table(["gated", "pixelcnn"]) as table:
    if table is None:
        print("lines")
    else:
        table.say("note: [bold] 1/2")
        table.stand(Standing("gated", 0.5, 1, 2, 1.23456, 357.2, 65.0))
        print("printed")
        table.end("pixelcnn", None)
"""


def on_a_terminal(command: list[str], columns: int = 120, **variables: str) -> str:
    """What a program shows on a terminal, without the terminal's own commands."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, columns))
    environment = {**os.environ, "TERM": "xterm", **variables}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    lines = re.sub(r"\x1b\[[0-9;]*[AK]", "\n", shown.decode())  # a line that is drawn again is another one here
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", lines).replace("\r", "")
    return "".join(f"{line.rstrip()}\n" for line in lines.split("\n") if line.strip())


def test_a_terminal_shows_a_line_for_each_run_below_the_notes() -> None:
    shown = on_a_terminal([sys.executable, "-c", TABLE])
    last = shown.splitlines()[-2:]
    assert re.fullmatch(r"gated +\S+[ ━╸╺]* +epoch 1/2 +1\.2346 bits/dim +357 images/s +1 min 5 s left", last[0])
    assert re.fullmatch(r"pixelcnn +\S+[ ━╸╺]* +failed", last[1])
    assert shown.index("note: [bold] 1/2\n") < shown.rindex("gated") and "printed\n" in shown


@pytest.mark.parametrize("how", ["a pipe", "a terminal that cannot"])
def test_elsewhere_lines_stay_lines(how: str) -> None:
    command = [sys.executable, "-c", TABLE]
    if how == "a pipe":
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "lines\n"
    else:
        assert on_a_terminal(command, TERM="dumb") == "lines\n"


def table_at(width: int, *names: str) -> list[str]:
    """The lines of a table of such runs at its end; the first run is at work, the others have ended, the last one has failed."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with LiveTable(names, console) as table:
        table.stand(Standing(names[0], 0.5, 10, 20, 1.23456, 357.2, 6500.0))
        for name in names[1:]:
            table.end(name, 2.3 if name != names[-1] else None)
        table.stand(Standing(names[-1], 1.0, 20, 20, 1.5, 10.0, 0.0))  # heard late: another thread asked before it ended
    shown = re.split(r"\x1b\[[0-9;?]*[A-Za-z]", console.file.getvalue())  # type: ignore[attr-defined]
    return [line.rstrip() for line in "".join(shown[-len(names) - 1 :]).splitlines() if line.strip()][-len(names) :]


def test_names_are_shown_as_they_are_and_a_run_that_ended_stays_so() -> None:
    lines = table_at(120, "gated[old]", "naïve:smile:", "[red]")
    assert [line.split()[0] for line in lines] == ["gated[old]", "naïve:smile:", "[red]"]
    assert re.search(r"2\.3000 bits/dim +tested$", lines[1]) and lines[2].endswith(" failed")


@pytest.mark.parametrize(
    ("width", "told"),
    [
        (100, "epoch 10/20 1.2346 bits/dim 357 images/s 1 h 48 min left"),
        (80, "epoch 10/20 1.2346 bits/dim 1 h 48 min left"),
        (62, "epoch 10/20 1.2346 bits/dim 1 h 48 min left"),
        (50, "1.2346 bits/dim 1 h 48 min left"),
        (40, "1 h 48 min left"),
    ],
)
def test_a_narrow_terminal_shows_less_and_cuts_nothing(width: int, told: str) -> None:
    lines = table_at(width, "gated_pixelcnn", "pixelcnn")
    assert re.sub(r"\s+", " ", re.sub("[━╸╺]", "", lines[0])) == f"gated_pixelcnn {told}"
    assert lines[1].split()[0] == "pixelcnn" and lines[1].endswith("failed") and "…" not in "".join(lines)
    assert ("━" in lines[0]) == (width >= 80)


class Table:
    """What a table is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def say(self, line: str) -> None:
        self.told.append(line)

    def stand(self, standing: Standing) -> None:
        self.told.append(standing)

    def end(self, name: str, bits_per_dim: float | None) -> None:
        self.told.append((name, bits_per_dim))


def test_a_table_is_told_all_notes_and_how_far_each_run_is_last(ray_cluster: None) -> None:
    table = Table()
    progress = Progress(print, table)
    tell = teller(progress.actor)
    first, last, other = (Standing(name, share, 0, 2, None, None, None) for name, share in (("a", 0.1), ("a", 0.2), ("b", 0.3)))
    for standing in (first, other, last):
        tell(standing)
    sayer(progress.actor)("note")
    progress.drain()
    progress.end("a", 1.5)
    assert table.told == ["note", last, other, ("a", 1.5)] and progress.is_live
    progress.close()
    progress.end("b", 1.0)
    assert len(table.told) == 4


BAR = """
import sys, time
from pixelmodels.progress import counted, counting

with counting("decoding", 3, "parts") as advance:
    for item in counted(range(3), advance):
        print("line", item)
        time.sleep(0.15)  # the bar is drawn ten times a second
"""


def test_a_bar_stands_below_what_is_printed_and_goes_away() -> None:
    shown = on_a_terminal([sys.executable, "-c", BAR])
    assert "decoding" in shown and "/3 parts" in shown and all(f"line {item}\n" in shown for item in range(3))
    piped = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True)
    assert piped.stdout == "line 0\nline 1\nline 2\n" and piped.stderr == ""
