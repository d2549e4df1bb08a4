"""Writes tables of committed results into README, between `<!-- table: NAME -->` and `<!-- end -->`.

python docs/tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md",)
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main_job() -> str:
    """The leaderboard of the newest `make train` that was measured."""
    newest = max((ROOT / "benchmarks" / "results").glob("main_job-*.json"))
    found = json.loads(newest.read_text())
    head = "| model | likelihood | parameters | test bits/dim | nats/image | train img/s | samples/s | time |"
    lines = [head, "|:---|:---|---:|---:|---:|---:|---:|---:|", *(_row(row) for row in found["leaderboard"])]
    minutes = round(found["seconds"] / 60)
    return "\n".join(lines) + f"\n\n(On {found['cores']} CPU cores, {minutes} minutes in all: `benchmarks/main_job.py`, {found['date']}.)\n"


TABLES = {"main_job": main_job}


def with_tables(text: str) -> str:
    """A page's text with its tables as the results have them."""
    return _PLACE.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def _row(row: dict[str, Any]) -> str:
    return f"| {' | '.join(_cells(row))} |"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield row["model"]
    yield row["likelihood"]
    yield f"{int(row['parameters']):,}" if row["parameters"] else ""
    error = f" ± {float(row['test_bits_per_dim_stderr']):.4f}" if float(row["test_bits_per_dim_stderr"] or 0) else ""
    yield f"{float(row['test_bits_per_dim']):.4f}{error}"
    yield f"{float(row['test_nll_nats']):.2f}"
    for speed in ("train_images_per_second", "samples_per_second"):
        yield f"{float(row[speed]):.0f}" if row[speed] else ""
    seconds = float(row["seconds"])
    yield f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
