"""Take away each of the package's own `device=` and `.to(device)` in turn, and see whether the pretended device notices.

    python -m tests.devices.mutants              # some 20 minutes of two cores; the last lines are those that nobody noticed
    python -m tests.devices.mutants sampling compression     # of files whose path below the package has one of these in it
    python -m tests.devices.mutants loop gated_pixelcnn      # by some scenarios

In a copy of the package each place asks whether it is the one that is taken away (`Taken`). What a scenario does is done in a child
process first, to see which places it comes to, and once more in another for each of them that nobody has noticed yet. Places that are
come to while a scenario prepares, and those of runs, which go on from each other's files, are taken away for a whole scenario.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import Any

from pixelmodels.models import ARCHITECTURES
from tests.devices.test_devices import STEPS, faults

ROOT = Path(__file__).parents[2]
SCENARIOS = ("loop", *ARCHITECTURES)
FOLDER, NUMBER = "PIXELMODELS_NOTICED", "PIXELMODELS_TAKEN"  # of the environment: where it is told what was found; what is taken away
NOT_TWICE = (" run", " resumed")  # what cannot be done again beside itself
SEEN_LATER = " moments put back"  # what shows in what is done next
IN_CHILDREN = (*STEPS, " gradient")  # what cannot be done in a child process once it was done here: torch's autograd refuses
_HELPER = '''
"""Which place is taken away, and which ones were come to."""
import os
taken, come_to = int(os.environ.get("PIXELMODELS_TAKEN", "-1")), set()
def at(number, kept, without):
    come_to.add(number)
    return without() if number == taken else kept()
'''


@dataclass(frozen=True)
class Place:
    """An argument that says a device."""

    file: str  # below the root
    line: int
    text: str  # of the whole call

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.text.split())}"


class Rewriter(ast.NodeTransformer):
    """Has the places of a file ask whether they are taken away, and lists them; the first has the number `first`."""

    def __init__(self, file: str, first: int) -> None:
        self.file, self.first, self.found = file, first, list[Place]()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        place, without = Place(self.file, node.lineno, ast.unparse(node)), _without_device(node)
        self.generic_visit(node)
        if without is None:
            return node
        self.found.append(place)
        number = ast.Constant(self.first + len(self.found) - 1)
        at = ast.parse("__import__('pixelmodels._places')._places.at", mode="eval").body
        nothing = ast.arguments([], [], None, [], [], None, [])
        return ast.Call(at, [number, ast.Lambda(nothing, node), ast.Lambda(nothing, without)], [])


def _without_device(node: ast.Call) -> ast.expr | None:
    """A call without its device; None where it says none."""
    if any(keyword.arg == "device" for keyword in node.keywords):
        return ast.parse(
            ast.unparse(ast.Call(node.func, node.args, [keyword for keyword in node.keywords if keyword.arg != "device"])), mode="eval"
        ).body
    if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args and "device" in ast.unparse(node.args[0]):
        types = [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg == "dtype")]
        return ast.parse(ast.unparse(ast.Call(node.func, types, []) if types else node.func.value), mode="eval").body
    return None


def rewritten(folder: Path, only: Sequence[str]) -> list[Place]:
    """A copy of the package and its tests in a folder, in which the places of some files can be taken away; these places."""
    for name in ("pixelmodels", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
    (folder / "pixelmodels" / "_places.py").write_text(_HELPER)
    found: list[Place] = []
    for path in sorted((folder / "pixelmodels").rglob("*.py")):
        if any(part in str(path.relative_to(folder / "pixelmodels")) for part in only):
            rewriter = Rewriter(str(path.relative_to(folder)), len(found))
            tree = rewriter.visit(ast.parse(path.read_text()))
            if rewriter.found:
                path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
                found += rewriter.found
    return found


class Taken:
    """In a scenario of such a copy: tries the places that something comes to. Elsewhere it does nothing."""

    def __init__(self) -> None:
        self._folder = os.environ.get(FOLDER)
        self._is_whole = NUMBER in os.environ
        objects = gc.get_objects() if self._folder is not None else []
        self._kept = [one for one in objects if type(one) is _lru_cache_wrapper and str(one.__module__).startswith("pixelmodels")]

    @property
    def is_on(self) -> bool:
        """Whether this is a scenario of such a copy, and no place is taken away throughout."""
        return self._folder is not None and not self._is_whole

    def tried(self, what: str, do: Callable[[], dict[str, Any]]) -> None:
        """Do something in child processes, without each of the places that it comes to and that nobody noticed so far."""
        if not self.is_on or what.endswith(NOT_TWICE):
            return
        for number in self._in_child(what, do, None):
            if not (Path(self._folder) / f"noticed-{number}").exists():
                self._in_child(what, do, number)

    def between(self) -> None:
        """Note down what was come to since the last time that something was tried."""
        if self.is_on:
            self._write("between", self._places().come_to)
            self._places().come_to.clear()

    def done(self, what: str) -> None:
        """After it was done here: what could not be tried is noted down."""
        if self.is_on:
            if what.endswith(NOT_TWICE):
                self._write("whole", self._places().come_to)
            self._places().come_to.clear()

    def _in_child(self, what: str, do: Callable[[], dict[str, Any]], number: int | None) -> list[int]:
        """The places that it comes to; without one of them: whether that is noticed is told in the folder."""
        assert self._folder is not None
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for one in self._kept:  # with the place there, which would hide that it is gone
                    one.cache_clear()
                places = self._places()
                places.come_to.clear()
                places.taken = -1 if number is None else number
                row = do()
                if number is None:
                    assert not (fault := faults({what: row})), fault  # something differs in a child process
                    os.write(writing, json.dumps(sorted(places.come_to)).encode())
                    self._write("whole" if what.endswith(SEEN_LATER) else "come-to", places.come_to)
                elif fault := faults({what: row}):
                    (Path(self._folder) / f"noticed-{number}").write_text(fault)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            told = stream.read()
        _, status = os.waitpid(child, 0)
        if status and number is None:
            raise RuntimeError(f"{what} fails in a child process before anything is taken away")
        if status:  # it did not even come to an end
            (Path(self._folder) / f"noticed-{number}").write_text(f"{what}: status {status}")
        return [int(one) for one in json.loads(told)] if told else []

    def _write(self, kind: str, numbers: set[int]) -> None:
        assert self._folder is not None
        for number in numbers:
            (Path(self._folder) / f"{kind}-{number}-{sys.argv[1]}").touch()

    @staticmethod
    def _places() -> Any:
        return sys.modules.get("pixelmodels._places") or __import__("pixelmodels._places")._places


def run(root: Path, scenario: str, folder: Path, number: int | None = None) -> str:
    """What fails in a scenario of a copy of the package, with each place tried or with one taken away throughout; nothing: empty."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", FOLDER: str(folder)}
    environment |= {} if number is None else {NUMBER: str(number)}
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
    return failed


def main() -> None:
    """Run them all."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        root, folder = Path(scratch) / "copy", Path(scratch) / "told"
        folder.mkdir()
        scenarios = [one for one in SCENARIOS if one in sys.argv] or SCENARIOS
        found = rewritten(root, [one for one in sys.argv[1:] if one not in SCENARIOS] or [""])
        print(f"{len(found)} places", flush=True)

        def every(scenario: str) -> None:
            failed = run(root, scenario, folder)
            assert not failed, f"{scenario} fails before anything is taken away: {failed}"
            print(f"{scenario}: {len(list(folder.glob('noticed-*')))} noticed by now", flush=True)

        list(pool.map(every, scenarios))

        def notice(number: int) -> str:
            noticed = folder / f"noticed-{number}"
            coming = {
                kind: [one for one in SCENARIOS if (folder / f"{kind}-{number}-{one}").exists()] for kind in ("come-to", "between", "whole")
            }
            for scenario in (*coming["whole"], *coming["between"]):
                if not noticed.exists() and (fault := run(root, scenario, folder, number)):
                    noticed.write_text(fault)
            all_coming = sorted({one for some in coming.values() for one in some})
            told = f"NOT NOTICED by {', '.join(all_coming)}" if all_coming else "COME TO by no scenario"
            print(f"{found[number]}: {f'noticed, {noticed.read_text()}' if noticed.exists() else told}", flush=True)
            return "" if noticed.exists() else f"{found[number]}: {told}"

        left = [line for line in pool.map(notice, range(len(found))) if line]
    print(f"\n{len(left)} of {len(found)} are not noticed:", *left, sep="\n")


if __name__ == "__main__":
    main()
