"""Command lines from dataclasses, with mistakes told in one line as everywhere else."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast, get_type_hints

import tyro

from pixelmodels.errors import UserError, check_finite, unknown

Options = TypeVar("Options")


class _Terminal(io.StringIO):
    """Text that is written to it, in boxes of the same characters wherever this runs."""

    encoding = "utf-8"


_FRAME = re.compile("[│╭╮╰╯]")
_RULE = re.compile("─{3,}")
_SEVERAL_TYPES = re.compile(r"Error parsing (--\S+): no type matching (\S.*) could be instantiated from (\[.*\])")


def parse(kind: type[Options], argv: Sequence[str] | None = None) -> Options:
    """The options of a command line (the process's own unless given); `--help` prints and exits.

    Raises `UserError` for what does not parse, for numbers that are none or are infinite, and for a flag of several values without any.
    """
    said, words = _Terminal(), _placed(kind, sys.argv[1:] if argv is None else argv)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = tyro.cli(kind, args=words)
    except SystemExit as end:
        if not end.code:
            print(said.getvalue(), end="")
            raise
        raise UserError(_one_line(said.getvalue(), _bare_path(kind, words, said.getvalue()))) from None
    _check_finite(options)
    _check_given(options, words)
    return options


def parse_one(kinds: Mapping[str, type], argv: Sequence[str] | None = None) -> object:
    """The options of one of several commands, whose name is the first word; `--help` in its place lists them.

    Raises `UserError` for a word that is none of them, and what `parse` raises.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        raise UserError(f"no command given; give one of {', '.join(kinds)}; --help lists what they do")
    name, *rest = words
    if name in ("-h", "--help"):
        print("\n".join(f"{one:<10}{(inspect.getdoc(kind) or '').splitlines()[0]}" for one, kind in kinds.items()))
        print("\nEach lists its flags with --help.")
        raise SystemExit(0)
    if name not in kinds:
        raise unknown("command", name, kinds)
    return parse(kinds[name], rest)


def _placed(kind: type[Options], argv: Sequence[str]) -> list[str]:
    """The words of a command line, with what has no flag first: some give it one, as the same option has it in other commands."""
    words, hints = list(argv), get_type_hints(kind, include_extras=True)
    for name in (name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())):
        for at, word in enumerate(words):
            flag, has_value, value = word.partition("=")
            if flag == f"--{name}" and (has_value or at + 1 < len(words)):
                return [value, *words[:at], *words[at + 1 :]] if has_value else [words[at + 1], *words[:at], *words[at + 2 :]]
    return words


def _check_finite(options: object, prefix: str = "--") -> None:
    """Raise `UserError` for a flag of a dataclass, or of one inside it, that is no finite number."""
    for spec in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        flag, value = prefix + spec.name.replace("_", "-"), getattr(options, spec.name)
        for one in value if isinstance(value, (list, tuple)) else (value,):
            check_finite(flag, one)
        _check_finite(value, f"{flag}.")


def _check_given(options: object, words: Sequence[str], prefix: str = "--") -> None:
    """Raise `UserError` for a flag that takes several values and is given without any: it would stand for nothing."""
    given = [word.partition("=")[0].replace("_", "-") for word in words]
    for spec in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        flag, value = prefix + spec.name.replace("_", "-"), getattr(options, spec.name)
        _check_given(value, words, f"{flag}.")
        if value in ((), ("",)) and flag in given:
            raise UserError(f"{flag} is given without a value; give one or more, or leave it out; --help lists the options")


def _bare_path(kind: type, words: Sequence[str], said: str) -> str:
    """What to do with a file, folder or bucket that is not recognized, where the command has an option for it that is not given."""
    flag = _flag_of_paths(kind)
    if "Unrecognized options" not in said or flag is None or any(word.partition("=")[0] == flag for word in words):
        return ""
    unrecognized = _RULE.split(_FRAME.sub("", said).partition("Unrecognized options:")[2])[0]
    if any(word.startswith("-") for word in unrecognized.split()):  # a mistyped flag, and its values
        return ""
    text = "".join(unrecognized.split())  # a long path is on several lines
    bare = [word for word in words if not word.startswith("-") and "".join(word.split()) in text]
    found = next((word for word in bare if "://" in word or os.path.exists(word)), None)
    return "" if found is None else f"; give it with {flag}: {flag} {shlex.quote(found)}"


def _flag_of_paths(kind: type) -> str | None:
    """The option of a command that takes the path of images; none where it has none."""
    for name, hint in get_type_hints(kind).items():
        if name in ("path", "data_path"):
            return f"--{name.replace('_', '-')}"
        if dataclasses.is_dataclass(hint) and (flag := _flag_of_paths(cast(type, hint))) is not None:
            return flag
    return None


def _one_line(box: str, remedy: str) -> str:
    """What a box of several lines says: its first part, and the remedy, or the option that it thinks was meant."""
    lines = [_FRAME.sub("", line).strip() for line in box.splitlines()]
    parts = [" ".join(part.split()) for part in "\n".join("\n\n" if _RULE.search(line) else line for line in lines).split("\n\n")]
    parts = [part for part in parts if part]
    if not parts:
        return "the command line cannot be read; see --help"
    meant = next((part for part in parts if part.startswith("Perhaps you meant:")), "")
    option = re.search(r"--[\w-]+", meant)
    hint = remedy or (f"; did you mean {option.group()}?" if option else "")
    if values := _SEVERAL_TYPES.fullmatch(parts[0].rstrip(".")):
        flag, types, given = values.groups()
        choices = " or ".join(one.strip("{}") for one in types.split("|"))
        return f"{flag} {' '.join(ast.literal_eval(given))} cannot be taken; give {choices}; --help lists the options"
    return f"{parts[0].rstrip('.')}{hint}; --help lists the options"
