"""What reports of one file are made of: HTML pages that need nothing beside themselves: no scripts, no other files, no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

LONGEST_NAME = 200  # letters of a key or a name
MOST_UNBROKEN = 30  # letters of a word, and of a cell, that stay on one line

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5d6873; --line: #d5dade; --page: #fbfbfa; --mark: #2a6f97 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --soft: #98a3ad; --line: #3a4249; --page: #16191c; --mark: #74b3d8 } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem } h3 { font-size: .95rem; margin: 1rem 0 .2rem }
p { margin: .3rem 0; max-width: 50rem } .soft, figcaption { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid var(--line); font-weight: 600 } .number { font-variant-numeric: tabular-nums; text-align: right }
td.number, .short { white-space: nowrap } .long { overflow-wrap: anywhere } code { font-size: .9em }
img { display: block; height: auto; image-rendering: pixelated; max-width: 100% }
figure { margin: 0 } figcaption { font-size: .8rem; overflow-wrap: anywhere }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem } .row figure { max-width: 34rem } .pair { max-width: 17rem !important }
svg { display: block; height: auto; max-width: 100% } .axis { stroke: var(--line) }
text { fill: var(--soft); font: 11px system-ui, sans-serif }
"""


def document(title: str, parts: Iterable[str]) -> bytes:
    """A whole page of HTML, UTF-8."""
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    whole = f"{head}<title>{text(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    return whole.encode(errors="backslashreplace")


def text(value: object) -> str:
    """Text of a data set's or a user's, safe inside a page, and not too long."""
    return escape(_shortened(str(value)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."


def section(title: str, *parts: str) -> str:
    """Parts below a heading, which is HTML."""
    return f"<h2>{title}</h2>{''.join(parts)}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: int | None = None) -> str:
    """A table; the columns from `numbers` on are numbers."""

    def cells(tag: str, row: Sequence[object]) -> str:
        kinds = ["number" if numbers is not None and place >= numbers else _kind(str(cell)) for place, cell in enumerate(row)]
        classes = [f" class={kind}" if kind else "" for kind in kinds]
        return f"<tr>{''.join(f'<{tag}{kind}>{text(cell)}</{tag}>' for kind, cell in zip(classes, row, strict=True))}</tr>"

    head = cells("th", header) if any(header) else ""
    return f"<div class=wide><table>{head}{''.join(cells('td', row) for row in rows)}</table></div>"


def _kind(text: str) -> str:
    """How a cell of text is broken into lines: not at all, also in words that are too long, or between words only."""
    if max(map(len, text.split()), default=0) > MOST_UNBROKEN:
        return "long"
    return "short" if len(text) <= MOST_UNBROKEN else ""


def figure(drawn: str, caption: str) -> str:
    """A drawing or a picture with words below it."""
    return f"<figure>{drawn}<figcaption>{text(caption)}</figcaption></figure>"


def image(png: bytes, size: tuple[int, int], alt: str) -> str:
    """A PNG file inside the page, shown at so many rows and columns of pixels."""
    data = base64.b64encode(png).decode()
    return f'<img width="{size[1]}" height="{size[0]}" alt="{text(alt)}" src="data:image/png;base64,{data}">'
