"""The fenced blocks of a page, with what its comments say of them.

    <!-- not run: it needs a bucket -->     the next block is not run, and why
    <!-- shown -->                          the next block is what the one before it prints: written by `make test-docs ARGS=--write`
    <!-- before: bash ... -->               is run, and not seen: what a reader has already

A block with `title="FILE"` is written to that file; a `diff` with a title adds its `+` lines to the file, after the line before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"( *)(`{3,})(\w*)(.*)")
_COMMENT = re.compile(r"<!-- *(not run|shown|before)(?:: *(.*?))? *(?:-->)?$")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    page: Path
    line: int  # of its fence, from 1
    language: str  # bash, python, diff, text; empty where it says none
    text: str
    title: str | None = None  # the file that it is
    not_run: str | None = None  # why it is not run
    is_shown: bool = False  # whether it is what the block before it prints

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page in order; raises `ValueError` for a comment that nothing follows, or a fence that does not end."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number, said, reason = 0, "", ""
    while number < len(lines):
        line = lines[number]
        number += 1
        if comment := _COMMENT.match(line):
            said, reason = comment[1], comment[2] or ""
            if said == "before":
                start = number
                while number < len(lines) and lines[number].strip() != "-->":
                    number += 1
                yield Block(page, start, reason, "\n".join(lines[start:number]))
                number, said = number + 1, ""
            elif said == "not run" and not reason:
                raise ValueError(f"{page.name}:{number}: 'not run' without a reason")
            continue
        fence = _FENCE.match(line)
        if fence is None:
            if said and line.strip():
                raise ValueError(f"{page.name}:{number}: no block follows '{said}'")
            continue
        indent, ticks, language, rest = fence.groups()
        start = number
        while number < len(lines) and lines[number].strip() != ticks:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page.name}:{start}: the block does not end")
        text = "\n".join(one.removeprefix(indent) for one in lines[start:number])
        number += 1
        title = _TITLE.search(rest)
        yield Block(page, start, language, text, title[1] if title else None, reason if said == "not run" else None, said == "shown")
        said, reason = "", ""


def masked(text: str) -> str:
    """A text without what differs from one run, or machine, to the next: numbers, hashes, lengths of time."""
    text = re.sub(r"\b(?=[a-f]*\d)[0-9a-f]{8,}\b", "#", text)
    text = re.sub(r"\d+(?:,\d{3})*(?:\.\d+)?(?: h \d+ min| min \d+ s| s\b)?", "#", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
