"""What came of a search for anomalies, as files: a table, a page, a picture, a summary."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pixelmodels.anomalies.comparison import Separation, roc_picture
from pixelmodels.anomalies.measuring import CODEC, LEVELS, Measured, bit_maps
from pixelmodels.anomalies.options import FindAnomalies
from pixelmodels.anomalies.page import Cells, Shown, page
from pixelmodels.anomalies.scores import RECOMMENDED, SAME_ORDER, Calibration, Float64
from pixelmodels.anomalies.sources import ImageFiles, PreparedSplit
from pixelmodels.models import PixelModel
from pixelmodels.pages import shortened
from pixelmodels.tables import csv_text

PAGE, SUMMARY = "anomalies.html", "anomalies.json"
CALIBRATION_SPLIT = "validation"  # of the data set of normal images


@dataclass(frozen=True)
class ScoredSet:
    """A set that was looked at."""

    source: PreparedSplit | ImageFiles
    measured: Measured
    scores: dict[str, Float64]  # by name, of each image
    p_values: dict[str, Float64]

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self.source.name

    def told(self, rate: float, score: str = RECOMMENDED) -> int:
        """Images that are told at a false-alarm rate."""
        return int((self.p_values[score] <= rate).sum())

    def most_anomalous(self, num: int) -> npt.NDArray[np.int64]:
        """Places of the most anomalous images by the recommended score, the most anomalous first."""
        return np.argsort(-self.scores[RECOMMENDED], kind="stable")[:num]


@dataclass(frozen=True)
class Anomalies:
    """What came of it."""

    sets: list[ScoredSet]
    calibration: Calibration
    thresholds: dict[float, dict[str, float | None]]  # by false-alarm rate, then by score; None: too few normal images
    separations: dict[str, Separation]  # by score, where there are two sets; else empty
    folder: str  # path or URI: scores.parquet, anomalies.html, anomalies.json; of two sets roc.png; rejected.csv where inputs are no images


def files_of(found: Anomalies, model: PixelModel, options: FindAnomalies) -> Iterator[tuple[str, bytes]]:
    """The files that tell of it, by name: first the table, which took the time."""
    yield "scores.parquet", _parquet(found, options.rate)
    if any(one.measured.rejected for one in found.sets):
        rows = [(one.name, key, reason) for one in found.sets for key, reason in one.measured.rejected.items()]
        yield "rejected.csv", csv_text(("set", "key", "reason"), rows).encode(errors="backslashreplace")
    roc = None
    if found.separations:
        first, second = found.sets
        curves = {name: (first.scores[name], second.scores[name]) for name in found.separations if name != SAME_ORDER}
        roc = roc_picture(curves, f"{first.name} against {second.name}", (RECOMMENDED,))
        yield "roc.png", roc
    sets = [_shown(one, model, options) for one in found.sets]
    separations = separation_rows(found.separations) if found.separations else None
    title = f"Images unlike those of {options.model}"
    yield PAGE, page(title, facts(found, options), sets, threshold_rows(found), notes(found, options), separations, roc)
    yield SUMMARY, json.dumps(summary(found, options), indent=1).encode()


def _parquet(found: Anomalies, rate: float) -> bytes:
    """A row for each image: set, key, label, what was measured, every score with its p-value, and whether it is told at the rate."""
    tables = []
    for one in found.sets:
        columns: dict[str, Any] = {
            "set": pa.array([one.name] * len(one.measured)),
            "key": pa.array(one.measured.keys, pa.string()),
            "label": pa.array(one.measured.labels, pa.int32()),
            CODEC: one.measured.codec_bits_N,
            LEVELS: one.measured.level_bits_N,
            **one.scores,
            **{f"p_{name}": values_N for name, values_N in one.p_values.items()},
            "is_anomalous": one.p_values[RECOMMENDED] <= rate,
        }
        tables.append(pa.table(columns))
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), sink)
    return sink.getvalue()


def _shown(one: ScoredSet, model: PixelModel, options: FindAnomalies) -> Shown:
    """The most anomalous images of a set, with their maps."""
    places = one.most_anomalous(options.num_images)
    rows = one.source.rows_at([one.measured.keys[place] for place in places])
    with_context = not options.without_context
    maps_NHW = bit_maps(model, rows, torch.device("cpu"), with_context=with_context, batch_size=options.batch_size)
    captions = []
    for place in places:
        told = (f"p {one.p_values[RECOMMENDED][place]:.2g}", f"{one.scores['bits_per_dim'][place]:.2f} bits/dim")
        captions.append(f"{shortened(one.measured.keys[place])}: {', '.join(told)}")
    return Shown(one.name, len(one.measured), rows.images_NCHW, model.spec.levels, maps_NHW, captions)


def facts(found: Anomalies, options: FindAnomalies) -> Cells:
    """What was scored by what."""
    rows = [("model", options.model), ("background model", options.background or "none")]
    rows += [("held against", f"{options.normal}/{CALIBRATION_SPLIT}, {found.calibration.num:,} images")]
    rows += [("codecs", ", ".join(options.codecs)), ("recommended score", RECOMMENDED)]
    return Cells(("", ""), [*rows, *((one.name, told_of(one, options.rate)) for one in found.sets)])


def told_of(one: ScoredSet, rate: float) -> str:
    """How many images of a set there are and how many of them are told, in words."""
    num, count = len(one.measured), one.told(rate)
    parts = [f"{num:,} images", f"{count:,} told at a false-alarm rate of {rate:g} (of normal images about {rate * num:.1f} would be)"]
    if one.measured.num_fitted:
        parts.append(f"{one.measured.num_fitted:,} were of another size and were resized and cropped, which changes how likely they are")
    if one.measured.rejected:
        parts.append(f"{len(one.measured.rejected):,} inputs are no images and were put aside (rejected.csv)")
    if isinstance(one.source, ImageFiles) and one.source.num_hidden:
        parts.append(f"{one.source.num_hidden:,} hidden files were left out")
    return "; ".join(parts)


def threshold_rows(found: Anomalies) -> Cells:
    """Of each score the thresholds by false-alarm rate, and the share of the images of each set that are above."""
    rows = []
    for name in found.calibration.normal:
        cells = [name]
        for rate, by_score in found.thresholds.items():
            least = by_score[name]
            shares = ", ".join(f"{one.told(rate, name) / len(one.measured):.1%}" for one in found.sets)
            cells.append("too few images" if least is None else f"{least:.4g} ({shares})")
        rows.append(cells)
    return Cells(("score", *(f"rate {rate:g}" for rate in found.thresholds)), rows)


def notes(found: Anomalies, options: FindAnomalies) -> list[str]:
    """What has to be known of thresholds."""
    told = " and ".join(one.name for one in found.sets)
    said = [f"Images above a threshold are told. In brackets: their shares of {told}. Of normal images it is the rate at most, on average."]
    least = 1 / (found.calibration.num + 1)
    if min(found.thresholds) < least:
        held = f"{found.calibration.num:,} images of {options.normal}/{CALIBRATION_SPLIT}"
        said.append(f"No p-value is below {least:.2g}: scores are held against {held}. Lower rates need more of them.")
    return said


def separation_rows(separations: Mapping[str, Separation]) -> Cells:
    """Of each score how well it tells the two sets apart."""
    header = ("score", "AUROC", "95% interval", "AUPRC", "95% interval", "FPR at 95% TPR", "95% interval")
    rows = []
    for name, one in separations.items():
        pairs = [(f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}") for each in (one.auroc, one.auprc, one.fpr_at_95_tpr)]
        rows.append((name, *(cell for pair in pairs for cell in pair)))
    return Cells(header, rows)


def summary(found: Anomalies, options: FindAnomalies) -> dict[str, Any]:
    """What is not in the table, for programs."""
    return {
        "model": options.model,
        "background": options.background,
        "held_against": f"{options.normal}/{CALIBRATION_SPLIT}",
        "num_normal": found.calibration.num,
        "with_context": not options.without_context,
        "codecs": list(options.codecs),
        "recommended": RECOMMENDED,
        "mean_nats": found.calibration.mean_nats,
        "rate": options.rate,
        "thresholds": {f"{rate:g}": by_score for rate, by_score in found.thresholds.items()},
        "sets": [
            {
                "name": one.name,
                "num_images": len(one.measured),
                "num_told": one.told(options.rate),
                "num_rejected": len(one.measured.rejected),
                "num_fitted": one.measured.num_fitted,
            }
            for one in found.sets
        ],
        "separations": {name: dataclasses.asdict(one) for name, one in found.separations.items()},
    }
