"""Explained images as pictures with colour scales and units, and as one HTML page with these inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pixelmodels.evaluation.explanation import Explanation, Float
from pixelmodels.pages import document, figure, image, section, text
from pixelmodels.pictures import figure as empty_figure
from pixelmodels.pictures import figure_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = "explanations.html"
PANEL = 1.75  # inches of a panel's width
MOST_HIGH = 3.0  # of a panel, for images that are higher than wide
DPI = 110
SHOWN = 8  # images at most in a picture of several
COST, DEPENDENCE = "magma", "viridis"  # colours of bits that are paid, and of what a prediction depends on
UNSEEN = "#8a8f94"  # where it was not looked at
TITLES = ("image", "expected", "likeliest", "surprise", "entropy", "dependence\n(gradient)", "dependence\n(occlusion)")
MEANINGS = (
    ("expected", "the mean of each pixel's distribution given the true pixels before it, in levels"),
    ("likeliest", "the likeliest level of that distribution"),
    ("surprise", "what the pixel costs: -log2 of its probability given the pixels before it; they sum to the bits of the image"),
    ("entropy", "what it costs on average over that distribution: how much could be known. Above it a pixel was a surprise"),
    ("dependence (gradient)", "how steeply the surprise of the marked pixel changes with each pixel before it, bits a level"),
    ("dependence (occlusion)", "how many bits more the marked pixel would cost on average if that pixel were not known"),
)


def maps_png(explained: Sequence[Explanation], levels: int, most_bits: float) -> bytes:
    """A PNG file of images and their maps, one below the other: a panel for each of `TITLES`, a colour bar with its unit for each map.

    Args: `most_bits`, where the scale of surprise and entropy ends, the same for all, so that they compare.
    """
    height, width = explained[0].surprise_bits_HW.shape
    high = min(MOST_HIGH, PANEL * height / width * 0.8) + 0.62
    drawn = empty_figure(len(TITLES) * PANEL, len(explained) * high, dpi=DPI)
    axes_NK = drawn.subplots(len(explained), len(TITLES), squeeze=False)
    for number, (one, axes_K) in enumerate(zip(explained, axes_NK, strict=True)):
        for place, axes in enumerate(axes_K):
            axes.set_xticks([])
            axes.set_yticks([])
            if number == 0:
                axes.set_title(TITLES[place], fontsize=9)
        of_levels: tuple[np.ndarray, ...] = (one.image_CHW, one.expected_CHW, one.likeliest_CHW)
        for axes, levels_CHW in zip(axes_K, of_levels, strict=False):
            axes.imshow(_shades(levels_CHW, levels), cmap="gray", vmin=0, vmax=1)
        axes_K[0].set_xlabel(f"{one.bits:.1f} bits", fontsize=8)
        _map(axes_K[3], one.surprise_bits_HW, COST, "bits", most_bits)
        _map(axes_K[4], one.entropy_bits_HW, COST, "bits", most_bits)
        for axes, of_channels_CHW, unit in ((axes_K[5], one.gradient_CHW, "bits a level"), (axes_K[6], one.occlusion_CHW, "bits")):
            _map(axes, of_channels_CHW.max(0), DEPENDENCE, unit)  # of the channel that counts most
        for axes in (axes_K[0], *axes_K[5:]):
            _mark(axes, one.pixel)
    return figure_png(drawn)


def _shades(levels_CHW: np.ndarray, levels: int) -> Float:
    """Levels as H W or H W 3 on [0, 1]; of a number of channels other than 1 and 3 their mean."""
    shades_CHW = levels_CHW.astype(np.float64) / (levels - 1)
    shades: Float = shades_CHW.transpose(1, 2, 0) if len(shades_CHW) == 3 else shades_CHW.mean(0)
    return shades


def _map(axes: Axes, values_HW: Float, colours: str, unit: str, most: float | None = None) -> None:
    """A map in colours from 0 to its greatest value (or `most`), and its scale below it."""
    import matplotlib

    finite = values_HW[np.isfinite(values_HW)]
    top = most if most is not None else float(finite.max(initial=0.0))
    shown = axes.imshow(values_HW, cmap=matplotlib.colormaps[colours].with_extremes(bad=UNSEEN), vmin=0, vmax=top or 1.0)
    bar = axes.figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.04, aspect=14)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.ax.locator_params(nbins=4)
    bar.set_label(unit, fontsize=7, labelpad=1)


def _mark(axes: Axes, pixel: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    row, column = pixel
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#ff3b30", linewidth=1.2))


def scale_of(explained: Sequence[Explanation]) -> float:
    """Where the scale of surprise and entropy ends: at the greatest finite value, bits."""
    values = np.concatenate([np.stack([one.surprise_bits_HW, one.entropy_bits_HW]).ravel() for one in explained])
    return float(values[np.isfinite(values)].max(initial=0.0)) or 1.0


def explanation_files(groups: dict[str, list[Explanation]], levels: int, facts: Sequence[str]) -> dict[str, bytes]:
    """The page (`PAGE`), and a picture of the first images of each group, by the group's name.

    Args: `groups`, explained images by what they have in common, such as "least likely"; `facts`, sentences that the page begins with.
    """
    most_bits = scale_of([one for group in groups.values() for one in group])
    files = {f"{name.replace(' ', '_')}.png": maps_png(group[:SHOWN], levels, most_bits) for name, group in groups.items() if group}
    meanings = "".join(f"<dt>{text(name)}</dt><dd>{text(what)}</dd>" for name, what in MEANINGS)
    parts = ["<h1>What the model expects</h1>", *(f"<p class=soft>{text(fact)}</p>" for fact in facts), f"<dl>{meanings}</dl>"]
    for name, group in groups.items():
        parts.append(section(f"The {text(name)}", *(_explained(one, levels, most_bits) for one in group)))
    return {PAGE: document("What the model expects", parts), **files}


def _explained(one: Explanation, levels: int, most_bits: float) -> str:
    png = maps_png([one], levels, most_bits)
    size = _size_of(png)
    row, column = one.pixel
    told = f"{one.key}: {one.bits:.2f} bits; dependence of the marked pixel, row {row}, column {column} (from 0)"
    if np.isnan(one.occlusion_CHW).any():
        told += "; grey: not looked at, too far away for the passes that were allowed"
    alt = f"{one.key}: image, expected image, likeliest levels, maps of surprise, entropy and dependence"
    return figure(image(png, size[1], size[0], alt), told)


def _size_of(png: bytes) -> tuple[int, int]:
    """Rows and columns of a PNG file, as its header has them."""
    return int.from_bytes(png[20:24], "big"), int.from_bytes(png[16:20], "big")
