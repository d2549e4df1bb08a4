"""Take away each of the package's own `device=` and `.to(device)` in turn, and see whether the pretended device notices.

    python -m tests.devices.mutants              # an hour of two cores; the last lines are those that nobody noticed
    python -m tests.devices.mutants sampling compression     # of files whose path has one of these in it

What comes to a place is found first: each scenario is run once with all places written down as they are come to. Then each place is
taken away in a copy of the package, and of the scenarios what comes to it is run, the quickest first, until something fails.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pixelmodels.models import ARCHITECTURES
from tests.devices.test_devices import STEPS, faults

ROOT = Path(__file__).parents[2]
SCENARIOS = ("loop", *ARCHITECTURES)
_PLACES = "PIXELMODELS_PLACES"  # of the environment: the file in which places are written down


@dataclass(frozen=True)
class Place:
    """An argument that says a device."""

    file: str  # below the root
    line: int
    text: str  # of the whole call
    start: int  # in the file, of the call
    end: int
    without: str  # the call without it

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.text.split())}"


def places(path: Path) -> list[Place]:
    """Those of a file."""
    source, found = path.read_text(), list[Place]()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    content = source.encode()

    def at(line: int | None, column: int | None) -> int:
        assert line is not None and column is not None
        return starts[line - 1] + column

    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
        text = content[start:end].decode()
        without = None
        if any(keyword.arg == "device" for keyword in node.keywords):
            left = ast.Call(node.func, node.args, [keyword for keyword in node.keywords if keyword.arg != "device"])
            without = ast.unparse(left)
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args and "device" in ast.unparse(node.args[0]):
            types = [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg == "dtype")]
            without = ast.unparse(ast.Call(node.func, types, []) if types else node.func.value)
        if without is not None:
            found.append(Place(str(path.relative_to(ROOT)), node.lineno, text, start, end, f"({without})"))
    return found


def run(root: Path, scenario: str, written: Path | None = None, only: Sequence[str] = ()) -> tuple[str, float]:
    """What fails in a scenario of the package in a folder (nothing: empty), and its seconds; of some of what it does, or of all."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **({_PLACES: str(written)} if written else {})}
    environment["PIXELMODELS_ONLY"] = json.dumps(only)
    started = time.monotonic()
    command, failed = [sys.executable, "-P", "-m", "tests.devices.scenarios", scenario], ""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line) if line.startswith("{") else {}
            if row and (failed := faults({row.pop("what"): row})):  # what follows need not be looked at
                process.kill()
                break
        if process.wait() and not failed:
            said.seek(0)
            failed = said.read()[-300:] or f"status {process.returncode}"
    return failed, time.monotonic() - started


def copy(folder: Path) -> Path:
    """The package and its tests in a folder of their own."""
    for name in ("pixelmodels", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
    return folder


def write_down(root: Path, found: list[Place]) -> None:
    """Have each place of a copy write its number down when it is come to."""
    by_file: dict[str, list[tuple[int, Place]]] = {}
    for number, place in enumerate(found):
        by_file.setdefault(place.file, []).append((number, place))
    for file, own in by_file.items():
        content = (ROOT / file).read_bytes()
        edits = sorted(((place.start, number) for number, place in own), reverse=True)
        for start, number in edits:
            end = next(place.end for other, place in own if other == number)
            # from the back: what is inside of a call was changed before, so that its end has moved
            moved = sum(len(_begin(n)) + 1 for s, n in edits if start < s < end)
            content = content[:start] + _begin(number) + content[start : end + moved] + b")" + content[end + moved :]
        (root / file).write_bytes(content)
    (root / "pixelmodels" / "_places.py").write_text(
        "import os\nseen, doing = set(), ['']\n"
        "def begin(what):\n"
        "    seen.clear()\n"
        "    doing[0] = what\n"
        "def at(number, value):\n"
        "    if number not in seen:\n"
        "        seen.add(number)\n"
        f"        with open(os.environ['{_PLACES}'], 'a') as file:\n"
        "            file.write(f'{number} {doing[0]}\\n')\n"
        "    return value\n"
    )


def _begin(number: int) -> bytes:
    return f"__import__('pixelmodels._places')._places.at({number}, ".encode()


def asked_for(scenario: str, what: Sequence[str]) -> list[str]:
    """What of a scenario is run, where some of it comes to a place: everything where it comes to it in between, or goes on from itself."""
    if scenario == "loop" or "" in what:
        return []
    steps = [one.removesuffix(end) + other for one in what for end in STEPS if one.endswith(end) for other in STEPS]
    return [*what, *steps]


def main() -> None:
    """Run them all."""
    only = sys.argv[1:] or [""]
    found = [
        place
        for path in sorted((ROOT / "pixelmodels").rglob("*.py"))
        if any(part in str(path.relative_to(ROOT / "pixelmodels")) for part in only)
        for place in places(path)
    ]
    print(f"{len(found)} places", flush=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        watched = copy(Path(scratch) / "watched")
        write_down(watched, found)

        def visit(scenario: str) -> tuple[str, float, dict[int, list[str]]]:
            written = Path(scratch) / f"{scenario}.places"
            written.touch()
            failed, seconds = run(watched, scenario, written)
            assert not failed, f"{scenario} fails before anything is taken away: {failed}"
            came: dict[int, list[str]] = {}
            for line in written.read_text().splitlines():
                number, _, what = line.partition(" ")
                came.setdefault(int(number), []).append(what)
            return scenario, seconds, came

        visits = sorted(pool.map(visit, SCENARIOS), key=lambda one: one[1])

        def notice(number: int) -> str:
            place, coming = found[number], {scenario: came[number] for scenario, _, came in visits if number in came}
            root = copy(Path(scratch) / f"{number}")
            content = (ROOT / place.file).read_bytes()
            (root / place.file).write_bytes(content[: place.start] + place.without.encode() + content[place.end :])
            noticed = next((one for one, what in coming.items() if run(root, one, only=asked_for(one, what))[0]), None)
            shutil.rmtree(root)
            told = f"noticed by {noticed}" if noticed else f"NOT NOTICED by {', '.join(coming)}" if coming else "COME TO by no scenario"
            print(f"{place}: {told}", flush=True)
            return "" if noticed else f"{place}: {told}"

        left = [line for line in pool.map(notice, range(len(found))) if line]
    print(f"\n{len(left)} of {len(found)} are not noticed:", *left, sep="\n")


if __name__ == "__main__":
    main()
