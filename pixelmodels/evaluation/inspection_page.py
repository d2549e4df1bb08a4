"""What `inspect` has found as one HTML page with its pictures inside, and on the terminal.

The page needs nothing beside itself: no scripts, no other files, no network. Pictures are PNG files at one pixel for each of an image's,
which the browser enlarges by whole multiples; charts are drawings that take their colours from the page, light or dark.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.markup import escape as plain

from pixelmodels.data import SPLITS
from pixelmodels.data.copies import EXACT
from pixelmodels.data.sources import SHIPPED
from pixelmodels.evaluation.html_page import document, figure, image, section, table, text
from pixelmodels.evaluation.inspection import Inspection, Levels, Pair
from pixelmodels.pictures import grid, png_bytes
from pixelmodels.tables import plain_table, wide_console

MOST_ROWS = 500  # of a table of classes or of rejected inputs
MOST_TOLD = 40  # of these on the terminal
EXAMPLE_SIDE, PAIR_SIDE = 48, 120  # pixels on the screen, about: what small images are enlarged to
CHART_WIDTH, CHART_HEIGHT = 512, 120
_COLOURS = {1: ("var(--ink)",), 3: ("#d64541", "#2a9d4e", "#3b7dd8")}  # of channels: grey, or red, green and blue


def page(found: Inspection) -> bytes:
    """The whole page, UTF-8."""
    dataset = found.dataset
    title = f"{dataset.name}-{dataset.fingerprint}"
    parts = [
        f"<h1>{text(title)}</h1><p class=soft>{text(dataset.storage.uri(dataset.folder))}</p>",
        section("What it is", table(("", ""), _facts(found)), *_prepared(found)),
        section("Images", table(*_counts(found, MOST_ROWS), numbers=1), _more(len(found.class_counts), "classes")),
        section("Levels", *_levels(found)),
        section("Examples of train images", *_examples(found)),
        section("Copies of test and validation images in train", *_copies(found)),
        section("Rejected inputs", *_rejected(found)),
        section("What a model has to beat", *_baselines(found)),
    ]
    return document(title, parts)


def print_inspection(found: Inspection) -> None:
    """The same without pictures, on the terminal."""
    console = wide_console()
    tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = [("images", *_counts(found, MOST_TOLD))]
    tables.append(("levels", _LEVELS_HEADER, _level_rows(found)))
    if found.copies:
        tables.append(("copies", *_copy_counts(found)))
    if found.rejected:
        tables.append(("rejected", ("why", "inputs"), _kinds(found, MOST_TOLD)))
    tables.append(("what a model has to beat", ("baseline", "bits/dim"), _baseline_rows(found)))
    for title, names, cells in tables:
        table = plain_table(title)
        for place, name in enumerate(names):
            table.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
        for row in cells:
            table.add_row(*(plain(cell) for cell in row))
        console.print(table)


def _more(count: int, what: str) -> str:
    return f"<p class=soft>and {count - MOST_ROWS:,} more {what}</p>" if count > MOST_ROWS else ""


def _facts(found: Inspection) -> list[tuple[str, object]]:
    dataset, spec = found.dataset, found.dataset.spec
    manifest = dataset.manifest
    kinds = {1: "grey", 3: "RGB"}
    return [
        ("fingerprint", dataset.fingerprint),
        ("image", f"{spec.height} x {spec.width} (height x width), {kinds.get(spec.channels, f'{spec.channels} channels')}"),
        ("levels", f"{spec.levels}{'; drawn anew each epoch from grey train images' if dataset.train_images_are_grey else ''}"),
        ("classes", f"{dataset.num_classes:,}" if dataset.num_classes else "no labels"),
        ("vectors", f"of length {dataset.vector_size}" if dataset.vector_size else "none"),
        ("size on disk", f"{found.num_bytes / 2**20:,.1f} MiB in {sum(len(dataset.shards(split)) for split in SPLITS):,} shards"),
        ("prepared", manifest["created"]),
        ("content", f"sha256 {manifest['source_digest']['sha256']} of {manifest['source_digest']['of']}"),
    ]


def _prepared(found: Inspection) -> list[str]:
    note = "<p class=soft>Without the path, which is not kept: the same files elsewhere are the same data set.</p>"
    is_shipped = found.dataset.manifest["options"]["source"] in SHIPPED
    return ["<h3>Options it was prepared with</h3>", table(("", ""), _options(found)), "" if is_shipped else note]


def _options(found: Inspection) -> list[tuple[str, object]]:
    """The options as a command line has them."""
    options = found.dataset.manifest["options"]
    return [(f"--{name.replace('_', '-')}", " ".join(shlex.quote(str(one)) for one in _listed(value))) for name, value in options.items()]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _counts(found: Inspection, most: int) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Images by class, of at most so many classes, and of all; by split."""
    counts = [("all", {split: found.dataset.num_images(split) for split in SPLITS})]
    if found.dataset.num_classes:
        counts = [*list(found.class_counts.items())[:most], *counts]
    rows = [(name, *(f"{row[split]:,}" for split in SPLITS), f"{sum(row.values()):,}") for name, row in counts]
    return ("class", *SPLITS, "all"), list(rows)


_LEVELS_HEADER = ("split", "images counted", "mean level", "levels that occur", "share of level 0", "share of the last level")


def _level_rows(found: Inspection) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for levels in found.levels:
        share_L = levels.counts_CL.sum(0) / levels.counts_CL.sum()
        ends = (f"{share_L[0]:.1%}", f"{share_L[-1]:.1%}")
        rows.append((levels.split, f"{levels.num_images:,}", f"{levels.mean:.2f}", f"{levels.share_used:.0%} of {len(share_L)}", *ends))
    return rows


def _levels(found: Inspection) -> list[str]:
    charts = [figure(_chart(levels), f"{levels.split}: levels and the roots of their shares") for levels in found.levels]
    sampled = any(levels.num_images < found.dataset.num_images(levels.split) for levels in found.levels)
    note = "<p class=soft>Counted in some shards only, spread evenly over the split.</p>" if sampled else ""
    return [table(_LEVELS_HEADER, _level_rows(found), numbers=1), note, f"<div class=row>{''.join(charts)}</div>"]


def _chart(levels: Levels) -> str:
    """Share of each level, a step line for each channel; heights are roots, so that one frequent level does not hide the others."""
    shares_CL = levels.counts_CL / levels.counts_CL.sum(1, keepdims=True)
    num_channels, num_levels = shares_CL.shape
    top, step = shares_CL.max(), CHART_WIDTH / num_levels
    colours = _COLOURS.get(num_channels, ("var(--mark)",) * num_channels)
    lines = []
    for share_L, colour in zip(shares_CL, colours, strict=True):
        heights = CHART_HEIGHT * (1 - np.sqrt(share_L / top))
        points = "".join(f"L{place * step:.1f} {y:.1f}H{(place + 1) * step:.1f}" for place, y in enumerate(heights))
        path = f"M0 {CHART_HEIGHT}{points}V{CHART_HEIGHT}Z"
        lines.append(f'<path d="{path}" style="fill: {colour}; fill-opacity: .18; stroke: {colour}"/>')
    axis = f'<path class=axis d="M0 {CHART_HEIGHT + 0.5}H{CHART_WIDTH}"/>'
    marks = f'<text x="0" y="{CHART_HEIGHT + 14}">0</text>'
    marks += f'<text x="{CHART_WIDTH}" y="{CHART_HEIGHT + 14}" text-anchor="end">{num_levels - 1}</text>'
    marks += f'<text x="{CHART_WIDTH}" y="11" text-anchor="end">highest: {top:.1%}</text>'
    label = f"shares of the {num_levels} levels of split {levels.split}"
    size = f'viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT + 18}" width="{CHART_WIDTH}" height="{CHART_HEIGHT + 18}"'
    return f'<svg role="img" aria-label="{label}" {size}>{axis}{"".join(lines)}{marks}</svg>'


def _examples(found: Inspection) -> list[str]:
    shown = [
        figure(_picture(some.images_NCHW, some.levels, f"examples of {some.name}", EXAMPLE_SIDE), some.name) for some in found.examples
    ]
    num = found.dataset.num_classes
    note = f"<p class=soft>{len(shown)} of {num:,} classes, spread evenly.</p>" if num > len(shown) else ""
    return [note, f"<div class=row>{''.join(shown)}</div>"]


def _picture(images_NCHW: npt.NDArray[np.uint8], levels: int, alt: str, side: int) -> str:
    """Images beside and below each other, in rows of about the same length, enlarged by a whole number to about `side` pixels each."""
    height, width = images_NCHW.shape[2:]
    scale = max(1, round(side / max(height, width)))
    num, most = len(images_NCHW), max(2, CHART_WIDTH // (scale * (width + 1)))
    num_rows = -(-num // most)
    picture_HWC = grid(images_NCHW, levels, columns=-(-num // num_rows), scale=1)
    height, width = picture_HWC.shape[:2]
    return image(png_bytes(picture_HWC), (height * scale, width * scale), alt)


def _copy_counts(found: Inspection) -> tuple[Sequence[str], list[Sequence[str]]]:
    header = ("split", "train images: exact copies", "near copies", "the split's images: with exact copies", "with near ones only")
    rows: list[Sequence[str]] = []
    for one in found.copies:
        counts = one.counts()
        rows.append((one.split, *(f"{counts[name]:,}" for name in ("train_exact", "train_near", "exact", "near"))))
    return header, rows


def _copies(found: Inspection) -> list[str]:
    parts = []
    duplicates = found.dataset.manifest.get("duplicates", {})
    if duplicates.get("num_dropped"):
        parts.append(f"<p>{duplicates['num_dropped']:,} train images were left out (--drop-duplicates {text(duplicates['dropped'])}).</p>")
    if not found.copies:
        return [*parts, "<p>Not looked for: images that are drawn cannot be compared with the grey ones that they are drawn from.</p>"]
    parts.append(table(*_copy_counts(found), numbers=1))
    if not_compared := sum(one.counts()["not_compared"] for one in found.copies):
        parts.append(f"<p>Thousands of images look nearly the same: {not_compared:,} pairs of these were not compared.</p>")
    if found.pairs:
        shown = f"{len(found.pairs)} of the pairs, each with its train image on the left; distance: root mean square of the difference"
        remedy = "at 8 x 8, of 255. prepare_data.py --drop-duplicates exact (or near) leaves such images out of train."
        parts.append(f"<p class=soft>{shown} {remedy}</p><div class=row>{''.join(_pair(pair, found) for pair in found.pairs)}</div>")
    return parts


def _pair(pair: Pair, found: Inspection) -> str:
    kind = pair.kind if pair.kind == EXACT else f"{pair.kind}, distance {pair.distance:.1f}"
    picture = _picture(pair.images_2CHW, found.dataset.spec.levels, f"{pair.train_key} and {pair.key}", PAIR_SIDE)
    caption = f"{text(pair.train_key)}<br>{pair.split}: {text(pair.key)}<br>{kind}"
    return f"<figure class=pair>{picture}<figcaption>{caption}</figcaption></figure>"


def _kinds(found: Inspection, most: int) -> list[Sequence[str]]:
    return [(kind, f"{count:,}") for kind, count in list(found.rejected_by_kind.items())[:most]]


def _rejected(found: Inspection) -> list[str]:
    hidden = found.dataset.manifest["skipped"]["num_hidden"]
    note = f"<p class=soft>{hidden:,} hidden files (names that start with a dot) were left out.</p>" if hidden else ""
    if not found.rejected:
        return ["<p>None.</p>", note]
    names = [name for name in ("key", "reason", "stage") if name in found.rejected[0]]
    rows = [[entry[name] for name in names] for entry in found.rejected[:MOST_ROWS]]
    return [
        table(("why", "inputs"), _kinds(found, MOST_ROWS), numbers=1),
        "<h3>Each of them</h3>",
        table(names, rows),
        _more(len(found.rejected), "inputs"),
        note,
    ]


def _baseline_rows(found: Inspection) -> list[Sequence[str]]:
    return [(row.model, f"{row.test_bits_per_dim:z.4f}") for row in found.baselines]


def _baselines(found: Inspection) -> list[str]:
    num = found.dataset.num_images("test")
    some = f"{found.num_baseline_images:,} of {num:,}" if found.num_baseline_images < num else f"all {num:,}"
    note = f"<p class=soft>Bits for each sub-pixel of {some} test images; a model that compresses better has learned something.</p>"
    return [table(("baseline", "bits/dim"), _baseline_rows(found), numbers=1), note]
