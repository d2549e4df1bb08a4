"""Whether every image has the label that a class-conditional model needs."""

from __future__ import annotations

from collections.abc import Iterable

from pixelmodels.data import Dataset
from pixelmodels.errors import UserError


def check_labels(dataset: Dataset, splits: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the number of images and the remedy, when images of these splits have no label."""
    unlabelled = {split: dataset.num_unlabelled(split) for split in splits}
    if any(unlabelled.values()):
        counts = ", ".join(f"{count} of {split}" for split, count in unlabelled.items() if count)
        raise UserError(
            f"data set '{dataset.name}' has images without a label ({counts}), and a class-conditional model needs one of each; "
            f"put them into their classes' folders, or {remedy}"
        )
