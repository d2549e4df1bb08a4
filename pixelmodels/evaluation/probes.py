"""Linear probes: how well a linear classifier reads the labels off a model's activations (arXiv:1610.01644), beside baselines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pixelmodels.pictures import figure, figure_png, plain_axes
from pixelmodels.tables import csv_text, plain_table, wide_console

CELLS = 2  # maps are averaged over at most CELLS x CELLS cells: quarters of the image keep where things are, and give 4 numbers a feature
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression, the most regularized first
MAX_ITERATIONS = 500  # of its solver
BASELINE, UNTRAINED, LAYER = "baseline", "untrained", "layer"  # kinds of rows; untrained: the same network with fresh weights
MAJORITY, POOLED_PIXELS, PIXELS = "majority class", "pixels, pooled", "pixels"  # baselines
CSV, PICTURE = "probe.csv", "probe.png"

Name = tuple[str, str]  # kind, and the layer or baseline
Labelled = tuple[np.ndarray, np.ndarray]  # inputs, float32 (N, D), and classes, integers (N,)


@dataclass(frozen=True)
class Examples:
    """Images of one split as probes see them."""

    inputs: Mapping[Name, np.ndarray]  # float32, (N, D) each; layers in order of depth
    labels_N: np.ndarray  # classes, integers from 0


@dataclass(frozen=True)
class ProbeRow:
    """How well the labels are read off one representation; the fields are the columns of `probe.csv`."""

    layer: str  # name of the layer, or of the baseline
    kind: str  # baseline, untrained or layer
    features: int  # numbers of an image that the probe reads: 0 for the majority class
    strength: float | None  # C, chosen on the validation split; None where nothing is fitted
    accuracy: float  # share of test images whose class is right
    accuracy_stderr: float  # standard error of that share: binomial

    @property
    def text(self) -> str:
        """The accuracy with its error."""
        return f"{self.accuracy:.4f} ± {self.accuracy_stderr:.4f}"


def pool(h_BFHW: torch.Tensor) -> torch.Tensor:
    """Means of each map over at most `CELLS` x `CELLS` cells (where a size is odd they share its middle): B D, float32."""
    height, width = h_BFHW.shape[2:]
    return F.adaptive_avg_pool2d(h_BFHW.float(), (min(CELLS, height), min(CELLS, width))).flatten(1)


def probe(train: Examples, validation: Examples, test: Examples, each: Callable[..., Iterable[Any]] = map) -> list[ProbeRow]:
    """A row for the majority class, then one for each of `train.inputs` in its order; a function of the examples alone.

    Args: `each`, what calls `fit` on every representation, as `map` does (and may do so elsewhere).
    """
    rows = [_row((BASELINE, MAJORITY), 0, None, test.labels_N == np.bincount(train.labels_N).argmax())]
    splits = [[(split.inputs[name], split.labels_N) for name in train.inputs] for split in (train, validation, test)]
    for (name, inputs_ND), (strength, right_N) in zip(train.inputs.items(), each(fit, *splits), strict=True):
        rows.append(_row(name, inputs_ND.shape[1], strength, right_N))
    return rows


def fit(train: Labelled, validation: Labelled, test: Labelled) -> tuple[float, np.ndarray]:
    """The strength that gets most validation images right (the smallest of equals), and which test images it gets right: booleans."""
    # Brought in here: whoever only scores does without.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for strength in STRENGTHS:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that ends early is judged like any other
            classifier.fit(*train)
        found.append((classifier.score(*validation), strength, classifier))
    _, strength, classifier = max(found, key=lambda entry: entry[0])  # the first of equals
    return strength, classifier.predict(test[0]) == test[1]


def _row(name: Name, features: int, strength: float | None, right_N: np.ndarray) -> ProbeRow:
    kind, layer = name
    accuracy = float(right_N.mean())
    return ProbeRow(layer, kind, features, strength, accuracy, math.sqrt(accuracy * (1 - accuracy) / len(right_N)))


def print_probes(rows: Sequence[ProbeRow], title: str) -> None:
    """Print a table of baselines, then layers beside themselves untrained; the best layer is bold."""
    table = plain_table()
    for heading in ("layer", "features", "test accuracy", "untrained"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    baselines, untrained, layers = (_of_kind(rows, kind) for kind in (BASELINE, UNTRAINED, LAYER))
    for row in baselines:
        table.add_row(row.layer, f"{row.features:,}", row.text, "", style="dim", end_section=row is baselines[-1])
    best = max(layers, key=lambda row: row.accuracy)
    for row, fresh in zip(layers, untrained, strict=True):
        table.add_row(row.layer, f"{row.features:,}", row.text, fresh.text, style="bold" if row is best else None)
    print(title)
    wide_console().print(table)


def probe_files(rows: Sequence[ProbeRow], title: str) -> dict[str, bytes]:
    """`probe.csv`, one column for each field of `ProbeRow`, and `probe.png` by name."""
    table = csv_text([field.name for field in fields(ProbeRow)], map(astuple, rows))
    return {CSV: table.encode(), PICTURE: picture_png(rows, title)}


def picture_png(rows: Sequence[ProbeRow], title: str) -> bytes:
    """Test accuracy by layer, trained and untrained, with standard errors; the baselines as lines across. The bytes of a PNG file."""
    layers = _of_kind(rows, LAYER)
    drawn = figure(max(6.0, 2.5 + 0.5 * len(layers)), 4.2)
    axes = plain_axes(drawn, title, "y")
    for kind, colour, label in ((UNTRAINED, "#c98a4b", "untrained"), (LAYER, "#2a6f97", "trained")):
        lines = _of_kind(rows, kind)
        values, errors = [row.accuracy for row in lines], [row.accuracy_stderr for row in lines]
        axes.errorbar(range(len(lines)), values, yerr=errors, marker="o", markersize=4, capsize=3, color=colour, label=label)
    for row, style in zip(_of_kind(rows, BASELINE), (":", "--", "-."), strict=True):
        axes.axhline(row.accuracy, linestyle=style, color="#888888", linewidth=1.2, label=row.layer)
    axes.set_xticks(range(len(layers)), [row.layer for row in layers], rotation=45, ha="right", fontsize=9)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("test accuracy of a linear probe", fontsize=9)
    axes.title.set_fontsize(9)
    drawn.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure_png(drawn)


def _of_kind(rows: Sequence[ProbeRow], kind: str) -> list[ProbeRow]:
    return [row for row in rows if row.kind == kind]
