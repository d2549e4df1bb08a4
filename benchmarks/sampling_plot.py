"""The plots of the sampling benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAST_PIXEL_CNN = {1: 2, 16: 18, 64: 61, 256: 183}  # speed-up over a sampler without caches by batch size, arXiv:1704.06001
LABEL = "fast-pixel-cnn, its own machine and net (arXiv:1704.06001)"


def plot(rows: list[dict[str, Any]], cores: int, path: Path) -> None:
    """Speed-up over the reference sampler, and forward passes of a batch, against the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, cost) = pyplot.subplots(1, 2, figsize=(11, 4.6))
    raster = [row for row in rows if row["mode"] == "raster"]
    for name in dict.fromkeys(_name(row) for row in raster):
        mine = sorted((row for row in raster if _name(row) == name), key=lambda row: int(row["batch"]))
        batches, style = [row["batch"] for row in mine], "o-" if name.startswith("gated_pixelcnn bernoulli") else "o:"
        speed.plot(batches, [row["speedup_over_reference"] for row in mine], style, label=name, markersize=4)
        cost.plot(batches, [row["forward_passes"] for row in mine], style, label=name, markersize=4)
    speed.plot(list(FAST_PIXEL_CNN), list(FAST_PIXEL_CNN.values()), "k--", label=LABEL)
    for axes, title in ((speed, "images/s over the reference sampler"), (cost, "forward passes of the same batch")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(list(FAST_PIXEL_CNN), [str(batch) for batch in FAST_PIXEL_CNN])
        axes.set_xlabel("images of a batch")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    figure.suptitle(f"exact sampling, {cores} CPU cores, float32", fontsize=11)
    figure.legend(*speed.get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, fontsize=7)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['likelihood']} {row['image_channels']}x{row['size']}x{row['size']}"
