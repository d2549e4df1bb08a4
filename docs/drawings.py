"""Makes the drawings of `docs/how_it_works.md` in `docs/drawings/`: what models see, and in which order they draw, they are asked.

python docs/drawings.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import build, config_class
from pixelmodels.shapes import ImageSpec

HERE = Path(__file__).parent / "drawings"
SEEN, UNSEEN, LATER, NOW = "#7986cb", "#e0a3a3", "#eceff1", "#283593"
REQUESTS = ("#7986cb", "#80cbc4", "#ffcc80", "#ce93d8")
_SIDE = 13


def reach() -> Figure:
    """Which earlier pixels an output sees: four architectures, the same size of kernels."""
    names = ("pixelcnn", "gated_pixelcnn", "pixelrnn_row_lstm", "pixelrnn_diagonal_bilstm")
    figure = Figure(figsize=(9, 2.7))
    for place, name in enumerate(names):
        kind = config_class(name)
        config = kind(num_layers=2, first_kernel_size=3) if name.endswith("pixelcnn") else kind(num_layers=1, first_kernel_size=3)
        model = build(config, ImageSpec(1, _SIDE, _SIDE, 2), LikelihoodConfig("bernoulli"))
        centre = _SIDE // 2
        seen_HW = model.reach()[centre, centre, 0].numpy()
        axes = _blank(figure.add_subplot(1, len(names), place + 1), _SIDE, _SIDE)
        for row, column in np.ndindex(_SIDE, _SIDE):
            is_earlier = (row, column) < (centre, centre)
            colour = NOW if (row, column) == (centre, centre) else SEEN if seen_HW[row, column] else UNSEEN if is_earlier else LATER
            _cell(axes, row, column, colour)
        axes.set_title(name, fontsize=9)
    return figure


def passes() -> Figure:
    """What a row pass takes, and what a pixel pass takes."""
    figure = Figure(figsize=(9, 3.2))
    rows, columns, now = 7, 9, (4, 4)
    for place, title in enumerate(("row pass: once for each row", "pixel pass: once for each pixel")):
        axes = _blank(figure.add_subplot(1, 2, place + 1), rows, columns)
        for row, column in np.ndindex(rows, columns):
            above, left = row < now[0], row == now[0] and column < now[1]
            taken = above if place == 0 else left
            colour = SEEN if taken else "#c5cae9" if above or left else LATER
            if (place == 0 and row == now[0]) or (place == 1 and (row, column) == now):
                colour = NOW
            _cell(axes, row, column, colour)
        axes.set_title(title, fontsize=10)
        if place == 0:
            for column in range(0, columns, 2):
                _arrow(axes, (column + 0.5, now[0] - 0.6), (column + 0.5, now[0] + 0.4))
        else:
            _arrow(axes, (0.3, now[0] + 0.5), (now[1] + 0.3, now[0] + 0.5))
            _arrow(axes, (now[1] + 0.5, now[0] - 0.9), (now[1] + 0.5, now[0] + 0.3), style="dashed")
    return figure


def engine() -> Figure:
    """Slots of the engine over time: images leave when they are finished, others join at the next row."""
    figure = Figure(figsize=(9, 2.8))
    axes = figure.add_subplot()
    rows, slots = 28, 5
    begins = {0: (0, 28, 56), 1: (0, 28, 56), 2: (6, 34, 62), 3: (11, 39), 4: (28, 56)}
    of_request = {(0, 0): 0, (1, 0): 0, (2, 6): 1, (3, 11): 2}
    for slot, starts in begins.items():
        for start in starts:
            colour = REQUESTS[of_request.get((slot, start), 3 if start >= 28 and slot != 3 else 2)]
            axes.add_patch(Rectangle((start, slot + 0.1), rows, 0.8, facecolor=colour, edgecolor="white"))
            for row in range(1, rows):
                axes.plot([start + row] * 2, [slot + 0.1, slot + 0.9], color="white", linewidth=0.4)
    axes.set_xlim(0, 84)
    axes.set_ylim(slots, 0)
    axes.set_yticks([slot + 0.5 for slot in range(slots)], [f"slot {slot}" for slot in range(slots)])
    axes.set_xlabel("rows drawn (one column is one step of the engine; a colour is a request)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def ranks() -> Figure:
    """In which order pixels are drawn: raster, and the multi-scale model's."""
    figure = Figure(figsize=(7, 3.4))
    for place, name in enumerate(("gated_pixelcnn", "multiscale_pixelrnn")):
        model = build(config_class(name)(), ImageSpec(1, 6, 6, 2), LikelihoodConfig("bernoulli"))
        ranks_HW = model.pixel_ranks().numpy()
        axes = _blank(figure.add_subplot(1, 2, place + 1), 6, 6)
        for row, column in np.ndindex(6, 6):
            rank = int(ranks_HW[row, column])
            _cell(axes, row, column, mpl.colormaps["Blues"](0.1 + 0.7 * (1 - rank / 35)))
            axes.text(column + 0.5, row + 0.5, str(rank + 1), ha="center", va="center", fontsize=9)
        axes.set_title(name, fontsize=10)
    return figure


def draw() -> Figure:
    """How a uniform number becomes a level: the exact table, added up."""
    figure = Figure(figsize=(9, 2.4))
    axes = figure.add_subplot()
    table_L = np.array([0.02, 0.05, 0.13, 0.3, 0.27, 0.14, 0.06, 0.03])
    ends_L, u = table_L.cumsum(), 0.62
    for level, (end, share) in enumerate(zip(ends_L, table_L, strict=True)):
        chosen = end - share <= u < end
        axes.add_patch(Rectangle((end - share, 0), share, 1, facecolor=NOW if chosen else SEEN, edgecolor="white"))
        if share > 0.04:
            colour = "white"
            axes.text(
                end - share / 2, 0.5, f"level {level}" if share > 0.1 else str(level), ha="center", va="center", color=colour, fontsize=9
            )
    axes.annotate("u = 0.62, from the image's own seed", (u, 1), (u, 1.7), ha="center", fontsize=9, arrowprops={"arrowstyle": "->"})
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 2)
    axes.set_yticks([])
    axes.set_xlabel("cumulative probability of one sub-pixel, given all before it")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def _blank(axes: Axes, rows: int, columns: int) -> Axes:
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_aspect("equal")
    axes.axis("off")
    return axes


def _cell(axes: Axes, row: int, column: int, colour: object) -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))  # type: ignore[arg-type]


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "solid") -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="#ff8f00", linestyle=style))


def main() -> None:
    """Write all of them; the same drawing is the same file."""
    HERE.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "pixelmodels", "font.size": 9}):
        for make in (reach, passes, engine, ranks, draw):
            make().savefig(HERE / f"{make.__name__}.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
