"""The picture of a report of `benchmarks/serving.py`: throughput, latencies at a load, and what becomes of requests under overload."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pixelmodels.errors import UserError, exit_with

SIZES = {"single": "1", "four": "4", "sixteen": "16"}  # images of a request
WAYS = {"continuous": "the service", "static": "static batches"}


def plot(report: dict[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (throughput, latency, overload) = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    saturated, engine = report["saturated_images_per_s"], report["engine"]
    throughput.bar(range(len(SIZES)), [saturated[name] for name in SIZES], 0.6)
    throughput.set_xticks(range(len(SIZES)), list(SIZES.values()))
    for name, style, label in (
        ("images_per_s", "-", "one engine, all cores"),
        ("images_per_s_of_one_on_each_core", "--", "one on each core"),
    ):
        throughput.axhline(engine[name], color="black", linestyle=style, linewidth=1, label=label)
    throughput.set(title="saturated", xlabel="images of a request", ylabel="images a second")
    throughput.legend(loc="lower right")

    for index, (way, label) in enumerate(WAYS.items()):
        found = report["at_load"][way]
        places = [mix + 0.35 * index for mix in range(len(found))]
        latency.bar(places, [one["p95_s"] for one in found.values()], 0.33, label=f"{label}: 95%", alpha=0.5, color=f"C{index}")
        latency.bar(places, [one["median_s"] for one in found.values()], 0.33, label=f"{label}: median", color=f"C{index}")
    latency.set_xticks([0.175, 1.175], ["all single", "one in ten of 64"])
    latency.set(title="single images at 70% load", ylabel="seconds", ylim=(0, 1.4 * latency.get_ylim()[1]))
    latency.legend(ncols=2, loc="upper center", fontsize=8)

    statuses = report["overload"]["statuses"]
    overload.bar(list(statuses), list(statuses.values()), 0.6, color="C2")
    overload.set(
        title=f"three times too much asked for, {report['overload']['seconds']:g} s",
        xlabel=f"status (a refusal takes {report['overload']['refusal_median_ms']:.0f} ms)",
        ylabel="requests",
    )
    figure.suptitle(f"{report['cores']} cores, {report['date']}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """`python -m benchmarks.serving_plot REPORT.json`: the picture beside it."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        raise UserError("give the report to draw: python -m benchmarks.serving_plot benchmarks/results/serving-DATE.json")
    path = Path(sys.argv[1])
    plot(json.loads(path.read_text()), path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    exit_with(main)
