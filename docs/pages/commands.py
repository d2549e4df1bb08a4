"""A page of every command: what it is for, and its flags, as `--help` tells them; and the targets of the Makefile."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
_WIDTH = "110"  # columns of the text


def page() -> str:
    """The page as Markdown; every file of `pipelines/` that has a `main` is a command."""
    parts = [
        "# Commands",
        "What each command tells with `--help`. A mistake is answered in one line, with status 2; what failed has status 1.",
        "## make",
        'Each target passes `ARGS` on: `make train ARGS="--epochs 2"`.',
        "| target | does |\n|:---|:---|\n" + "\n".join(f"| `make {name}` | {text} |" for name, text in targets()),
    ]
    for name in names():
        parts.append(f"## {name}.py")
        parts += [f"```text\n$ python pipelines/{name}.py {' '.join(words)}\n{text}\n```" for words, text in helps(name)]
    return "\n\n".join(parts) + "\n"


def names() -> list[str]:
    """The commands, by the order in which one needs them; those that this order does not know come last."""
    order = ["prepare_data", "inspect_data", "train_all", "evaluate", "sample", "compress", "tune", "promote", "serve"]
    found = sorted(file.stem for file in (ROOT / "pipelines").glob("*.py") if "def main" in file.read_text())
    return [name for name in order if name in found] + [name for name in found if name not in order]


def helps(name: str) -> Iterator[tuple[list[str], str]]:
    """Of a command, and of each of its own commands where it has some: the words, and what they print."""
    module = importlib.import_module(f"pipelines.{name}")
    for words in ([], *([one] for one in getattr(module, "COMMANDS", ()))):
        words = [*words, "--help"]
        said = io.StringIO()
        with (
            patch.object(sys, "argv", [f"{name}.py", *words]),
            patch.dict(os.environ, {"COLUMNS": _WIDTH}),
            contextlib.redirect_stdout(said),
            contextlib.suppress(SystemExit),
        ):
            module.main()
        yield words, said.getvalue().strip()


def targets() -> list[tuple[str, str]]:
    """Of the Makefile: each target's name, and what it does."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    return [(found[1], found[2]) for line in lines if (found := re.match(r"([a-z-]+):.*?## (.*)", line))]
