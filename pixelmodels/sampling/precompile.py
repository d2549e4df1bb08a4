"""Passes compiled by a process of its own: whoever draws meanwhile is not disturbed, and finds the functions in their folder afterwards.

The process is told of a model without its weights, on which no function depends. It ends with the process that began it, and all that it
has begun itself does: it reads its input to the end, which comes in any case.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import torch

from pixelmodels.errors import one_line
from pixelmodels.models import PixelModel
from pixelmodels.models.registry import describe, from_description
from pixelmodels.sampling import compiled

NICENESS = 19  # of a process that gives way
MOST_BYTES_OF_ERRORS = 2000  # whose last line is told
# No module is looked for in the working directory (-P). The last argument is the niceness, from the import of torch on.
COMMAND = (
    sys.executable,
    "-P",
    "-c",
    "import os, sys; os.nice(int(sys.argv[1])); from pixelmodels.sampling import precompile as p; p.main()",
)


def order_of(model: PixelModel, num_threads: int, speculates: bool = False) -> str:
    """What is to be compiled, a line of JSON; the same for models that have the same functions. Args: as of `CompiledPasses`."""
    options = {"num_threads": num_threads, "speculates": speculates, "cache": str(compiled.CACHE)}
    return json.dumps({"model": describe(model), "dtype": str(model.dtype).removeprefix("torch."), **options})


class Compilation:
    """A process that compiles what was ordered, giving way to others or not; `why_not` tells, once it no longer `is_running`."""

    def __init__(self, order: str, *, gives_way: bool):
        self.order = order
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (for as long as this object)
        # In a group of its own, that it ends with the compilers it started, and that no ctrl-c of a terminal reaches.
        self._process = subprocess.Popen(
            [*COMMAND, str(NICENESS if gives_way else 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    @property
    def has_died(self) -> bool:
        """Whether it ended otherwise than by itself: another one may come to its end."""
        return bool(self._process.poll())

    def why_not(self) -> str:
        """What it said, in a line, where something could not be compiled; nothing where all was. To be asked once, when it has ended."""
        assert self._process.stdout is not None
        said = self._process.stdout.read().strip()
        if self._process.returncode and not said:
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - MOST_BYTES_OF_ERRORS))
            last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            why = ", perhaps for want of memory" if self._process.returncode == -signal.SIGKILL else f": {last}" if last else ""
            return f"the process that compiled them ended with status {self._process.returncode}{why}"
        return said


def main() -> None:
    """Compile what the first line of the input orders; the output is why something cannot be compiled, and nothing where all was."""
    outcome = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever somebody prints is no outcome
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    torch.set_num_threads(1)
    model = from_description(order["model"]).to(getattr(torch, order["dtype"])).eval()
    reasons = list[str]()
    for stage in model.stages():
        try:
            compiled.CompiledPasses(stage.model, Path(order["cache"]), order["num_threads"], speculates=order["speculates"])
        except compiled.CannotCompile as error:
            reasons.append(" ".join(str(error).split()))
        except Exception as error:
            reasons.append(one_line(error))
    print("; ".join(dict.fromkeys(reasons)), file=outcome, flush=True)


def _end_with_input() -> None:
    """Nobody waits for the functions any more: end, with all that was begun here."""
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)
