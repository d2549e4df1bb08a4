"""The report of a decision on a version: Markdown, JSON and pictures, kept with an MLflow run of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelmodels.evaluation.nats import Comparison
from pixelmodels.pictures import figure, figure_png, plain_axes
from pixelmodels.pictures import plain as plain_text
from pixelmodels.promotion.outcome import Decision
from pixelmodels.tables import markdown_table
from pixelmodels.tracking.runs import KIND_TAG, Tracker
from pixelmodels.tracking.versions import ROLLED_BACK, Version

MARKDOWN, JSON, HISTOGRAM, SAMPLES = "report.md", "decision.json", "differences.png", "samples.png"
KIND = "promotion"  # what such a run's tag says
_BETTER, _WORSE = "#2a6f97", "#b8b8b8"
_DPI = 130


def summary(decision: Decision, *, dry_run: bool = False) -> str:
    """The decision in a few lines for a terminal; of a dry run it says what would be."""
    version, champion = decision.challenger, decision.champion
    would = "would be " if dry_run else ""
    if decision.outcome == ROLLED_BACK:
        return f"{version.name}: {would}rolled back to {version}; {decision.reason}"
    lines = [f"{version.name}: {version} {would}{decision.outcome}: {decision.reason}"]
    if decision.comparison is not None and champion is not None:
        lines.append(f"  {figures(decision.comparison)}, against {champion}; to be promoted: below {-decision.required:+z.4f}")
    lines += [f"  passed: {check.name}, {check.says}" for check in decision.checks if check.passed]  # the reason tells the others
    return "\n".join(lines)


def figures(comparison: Comparison) -> str:
    """The difference with its interval, in one line."""
    interval = f"[{comparison.low:+z.4f}, {comparison.high:+z.4f}]"
    return f"{comparison.mean:+z.4f} bits/dim {interval} at {comparison.level:.4g}, paired over {len(comparison.bits_N)} test images"


def report_files(decision: Decision) -> dict[str, bytes]:
    """The report's files by name: those of the pictures that there are."""
    return {MARKDOWN: markdown(decision).encode(), JSON: json.dumps(plain(decision), indent=1).encode(), **decision.pictures}


def plain(decision: Decision) -> dict[str, Any]:
    """A decision as plain JSON values, without pictures; numbers that are not finite are null."""
    compared = decision.comparison
    return {
        "outcome": decision.outcome,
        "reason": decision.reason,
        "challenger": _plain_version(decision.challenger),
        "champion": None if decision.champion is None else _plain_version(decision.champion),
        "checks": [asdict(check) for check in decision.checks],
        "required_bits_per_dim": decision.required,
        "comparison": None
        if compared is None
        else {
            "mean_bits_per_dim": compared.mean,
            "low": compared.low,
            "high": compared.high,
            "level": compared.level,
            "num_images": len(compared.bits_N),
            "num_images_better": int((compared.bits_N < 0).sum()),
        },
    }


def markdown(decision: Decision) -> str:
    """A page that tells the decision, the figures, the checks and where the two versions come from."""
    version, champion, compared = decision.challenger, decision.champion, decision.comparison
    lines = [f"# {version.name} {version}: {decision.outcome}", "", decision.reason[:1].upper() + decision.reason[1:] + ".", ""]
    if compared is not None:
        better = int((compared.bits_N < 0).sum())
        lines += [
            f"- Difference to the champion: {figures(compared)} (below zero: better).",
            f"- Promoted when the interval lies below {-decision.required:+z.4f} bits/dim.",
            f"- {better} of {len(compared.bits_N)} test images are likelier under this version.",
            "",
        ]
    if decision.checks:
        rows = [(check.name, "passed" if check.passed else "failed", _cell(check.says)) for check in decision.checks]
        lines += [markdown_table(("check", "result", ""), rows, text_columns=3)]
    titles = ("", "this version", "champion then")[: 2 if champion is None else 3]
    values = [_plain_version(one) for one in (version, champion) if one is not None]
    cells = [(key, *(_cell(str(value[key])) for value in values)) for key in values[0]]
    lines += [markdown_table(titles, cells, text_columns=3)]
    lines += [f"![{name}]({name})" for name in (HISTOGRAM, SAMPLES) if name in decision.pictures]
    return "\n".join(lines).rstrip() + "\n"


def histogram_png(compared: Comparison, title: str) -> bytes:
    """Differences of the single images in bits/dim, their mean and its interval, as the bytes of a PNG file."""
    drawn = figure(7.5, 3.6, dpi=_DPI)
    axes = plain_axes(drawn, title)
    # A few odd images would squeeze all others into two bars: the outermost ones are counted in the last bars.
    low, high = np.quantile(compared.bits_N, (0.005, 0.995))
    low, high = min(float(low), compared.low, 0.0), max(float(high), compared.high, 0.0)
    num_bars = min(60, max(12, round(2 * math.sqrt(len(compared.bits_N)))))
    width = (high - low) / num_bars or 0.01
    edges = width * np.arange(math.floor(low / width), math.ceil(high / width) + 1.5)  # zero is one of them
    counts, _ = np.histogram(np.clip(compared.bits_N, edges[0], edges[-1]), edges)
    colours = [_BETTER if right <= 0 else _WORSE for right in edges[1:]]
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours, edgecolor="white", linewidth=0.4)
    axes.axvspan(compared.low, compared.high, color="#e07a5f", alpha=0.35, label=f"{_percent(compared)} interval of the mean")
    axes.axvline(compared.mean, color="#9b2915", linewidth=1.4, label=f"mean {compared.mean:+z.4f}")
    axes.axvline(0, color="#222222", linewidth=1, linestyle="--")
    axes.set_xlabel("bits/dim of a test image, challenger minus champion (below zero: better)", fontsize=9)
    axes.set_ylabel("images", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure_png(drawn)


def samples_png(grids: Mapping[str, npt.NDArray[np.uint8] | None]) -> bytes:
    """Sample grids (H, W, 3) beside each other under their titles, `None` where there are none, as the bytes of a PNG file."""
    drawn = figure(4.2 * len(grids), 4.6, dpi=_DPI)
    for column, (title, grid_HWC) in enumerate(grids.items()):
        axes = drawn.add_subplot(1, len(grids), column + 1)
        axes.set_axis_off()
        axes.set_title(plain_text(title), fontsize=10)
        if grid_HWC is None:
            axes.text(0.5, 0.5, "no samples could be drawn", ha="center", va="center", fontsize=10)
        else:
            axes.imshow(grid_HWC, interpolation="nearest")
    return figure_png(drawn)


def start_record(tracker: Tracker, decision: Decision, params: Mapping[str, Any]) -> str:
    """Start the MLflow run that tells of a decision; returns its id."""
    version = decision.challenger
    name = f"{'rollback' if decision.outcome == ROLLED_BACK else 'promote'} {version.name} {version.number}"
    return tracker.start_parent(name, params, {KIND_TAG: KIND, "registered_model": version.name, "model_version": version.number})


def finish_record(tracker: Tracker, decision: Decision) -> None:
    """Write the outcome, the figures and the report to the decision's run, and close it: as failed when that cannot be done."""
    try:
        _write_record(tracker, decision)
    except BaseException:
        with suppress(Exception):
            tracker.finish(str(decision.run_id), "FAILED")
        raise


def _write_record(tracker: Tracker, decision: Decision) -> None:
    run_id, compared = decision.run_id, decision.comparison
    assert run_id is not None
    champion = decision.champion.number if decision.champion is not None else ""
    tracker.set_tags(run_id, {"outcome": decision.outcome, "reason": decision.reason[:500], "champion_then": champion})
    if compared is not None:
        metrics = {"mean": compared.mean, "low": compared.low, "high": compared.high, "images": float(len(compared.bits_N))}
        tracker.log_metrics(run_id, {f"difference/{key}": value for key, value in metrics.items()})
    tracker.log_files(run_id, report_files(decision))
    tracker.finish(run_id)


def _plain_version(version: Version) -> dict[str, Any]:
    bits = version.test_bits_per_dim
    return {
        "version": version.number,
        "recipe": version.recipe,
        "architecture": version.architecture,
        "dataset": version.dataset,
        "condition_on": version.condition_on,
        "test_bits_per_dim": bits if math.isfinite(bits) else None,
        "git_commit": version.commit,
        "run_id": version.run_id,
    }


def _percent(compared: Comparison) -> str:
    return f"{100 * compared.level:.6g}%"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
