"""Command lines from dataclasses, with mistakes told in one line as everywhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from pixelmodels.errors import UserError, check_finite

Options = TypeVar("Options")


class _Terminal(io.StringIO):
    """Text that is written to it, in boxes of the same characters wherever this runs."""

    encoding = "utf-8"


_FRAME = re.compile("[│╭╮╰╯]")
_RULE = re.compile("─{3,}")


def parse(kind: type[Options], argv: Sequence[str] | None = None) -> Options:
    """The options of a command line (the process's own unless given); `--help` prints and exits.

    Raises `UserError` for what does not parse, and for numbers that are none or are infinite.
    """
    said = _Terminal()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = tyro.cli(kind, args=argv)
    except SystemExit as end:
        if not end.code:
            print(said.getvalue(), end="")
            raise
        raise UserError(_one_line(said.getvalue())) from None
    _check_finite(options)
    return options


def _check_finite(options: object, prefix: str = "--") -> None:
    """Raise `UserError` for a flag of a dataclass, or of one inside it, that is no finite number."""
    for spec in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        flag, value = prefix + spec.name.replace("_", "-"), getattr(options, spec.name)
        for one in value if isinstance(value, (list, tuple)) else (value,):
            check_finite(flag, one)
        _check_finite(value, f"{flag}.")


def _one_line(box: str) -> str:
    """What a box of several lines says: its first part, and the option that it thinks was meant."""
    lines = [_FRAME.sub("", line).strip() for line in box.splitlines()]
    parts = [" ".join(part.split()) for part in "\n".join("\n\n" if _RULE.search(line) else line for line in lines).split("\n\n")]
    parts = [part for part in parts if part]
    if not parts:
        return "the command line cannot be read; see --help"
    meant = next((part for part in parts if part.startswith("Perhaps you meant:")), "")
    option = re.search(r"--[\w-]+", meant)
    hint = f"; did you mean {option.group()}?" if option else ""
    return f"{parts[0].rstrip('.')}{hint}; --help lists the options"
