"""What is in a prepared data set: counts, levels, examples, copies, what was rejected, and what a model has to beat.

Of a large data set parts are looked at, and it is said which: whole shards spread evenly for the levels, images spread evenly for the
examples of a class, a share of the test images for the baselines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pixelmodels.data import FIXED_EPOCH, SPLITS, Dataset, Split, binarize_dynamic
from pixelmodels.data.copies import EXACT, NEAR, OTHERS, SplitCopies, copies_in
from pixelmodels.data.duplicates import Int64
from pixelmodels.evaluation.baselines import baseline_rows
from pixelmodels.evaluation.leaderboard import LeaderboardRow, ordered

MOST_SHARDS = 16  # of a split whose levels are counted
SAMPLE_BYTES = 128 << 20  # of these, decoded
MOST_CLASSES = 40  # of which examples are shown
MOST_EXAMPLES = 12  # of a class
MOST_PAIRS = 24  # of copies that are shown, exact ones and near ones of each split
EXAMPLE_PIXELS = 1_200_000  # of all examples
PAIR_PIXELS = 500_000  # of all pairs
BASELINE_PIXELS = 500_000  # of the test images that are coded: at most some 20 s
NO_CLASS = "no class"


@dataclass(frozen=True)
class Levels:
    """How often each level occurs in some images of a split."""

    split: str
    num_images: int  # that were counted
    counts_CL: npt.NDArray[np.int64]  # by channel and level

    @property
    def stored_levels(self) -> int:
        """Values that a stored sub-pixel can take: 256 of train images that are drawn anew each epoch."""
        return self.counts_CL.shape[1]

    @property
    def mean(self) -> float:
        """Mean level."""
        return float((self.counts_CL.sum(0) * np.arange(self.stored_levels)).sum() / self.counts_CL.sum())

    @property
    def share_used(self) -> float:
        """Share of the levels that occur."""
        return float((self.counts_CL.sum(0) > 0).mean())


@dataclass(frozen=True)
class Examples:
    """Some train images of one class, or of all where there are none."""

    name: str
    images_NCHW: npt.NDArray[np.uint8]
    levels: int  # of these: grey 0..255 where they are drawn anew each epoch


@dataclass(frozen=True)
class Pair:
    """A train image and its nearest copy in another split."""

    train_key: str
    split: str
    key: str
    kind: str  # exact or near
    distance: float  # root mean square of their difference at 8x8, of 255
    images_2CHW: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Inspection:
    """All that is told of a data set."""

    dataset: Dataset
    num_bytes: int  # of all its files
    class_counts: dict[str, dict[str, int]]  # by class name, in the order of labels, then by split; of images without a label too
    levels: list[Levels]  # of each split
    examples: list[Examples]
    copies: list[SplitCopies]  # of each split but train; empty where train images are drawn anew each epoch, which cannot be compared
    pairs: list[Pair]
    rejected: list[dict[str, str]]  # key and reason of each, and more where it is known
    baselines: list[LeaderboardRow]  # the best first
    num_baseline_images: int  # test images that were coded

    @property
    def rejected_by_kind(self) -> dict[str, int]:
        """How many inputs were put aside for each kind of reason, the most frequent first."""
        return dict(Counter(entry.get("kind") or entry["reason"] for entry in self.rejected).most_common())


def inspect(dataset: Dataset) -> Inspection:
    """Look at a prepared data set. Raises `UserError` when a shard is damaged."""
    labels = {split: dataset.labels(split) for split in SPLITS}
    parts = {split: _some_shards(dataset, split) for split in SPLITS}
    copies = [] if dataset.train_images_are_grey else copies_in(dataset)
    rows, num_coded = _baselines(dataset, *parts["train"])
    return Inspection(
        dataset=dataset,
        num_bytes=sum(entry.size for entry in dataset.storage.files(dataset.folder)),
        class_counts=_class_counts(dataset, labels),
        levels=[_levels(dataset, split, parts[split][1]) for split in SPLITS],
        examples=_examples(dataset, labels["train"]),
        copies=copies,
        pairs=_pairs(dataset, copies),
        rejected=dataset.skipped() if dataset.num_skipped else [],
        baselines=ordered(rows),
        num_baseline_images=num_coded,
    )


def _class_counts(dataset: Dataset, labels: dict[str, npt.NDArray[np.int32]]) -> dict[str, dict[str, int]]:
    counts = {split: np.bincount(labels[split] + 1, minlength=dataset.num_classes + 1) for split in SPLITS}
    names = (NO_CLASS, *dataset.label_names)
    rows = {names[row]: {split: int(counts[split][row]) for split in SPLITS} for row in (*range(1, len(names)), 0)}
    if dataset.num_classes and not any(rows[NO_CLASS].values()):
        del rows[NO_CLASS]
    return rows


def _spread(places_M: Int64, most: int) -> Int64:
    """At most so many of some places, spread evenly over them."""
    num = min(most, len(places_M))
    return places_M[np.arange(num) * len(places_M) // max(1, num)]


def _some_shards(dataset: Dataset, split: str) -> tuple[Int64, Split]:
    """The images of a few shards, spread evenly over a split, and their places in it."""
    counts = [shard["num_images"] for shard in dataset.shards(split)]
    starts = np.concatenate([[0], np.cumsum(counts)])
    most = min(MOST_SHARDS, max(1, SAMPLE_BYTES // (max(counts) * dataset.spec.num_subpixels)))
    chosen = _spread(np.arange(len(counts)), most)
    places_M = np.concatenate([np.arange(starts[number], starts[number + 1]) for number in chosen])
    return places_M, dataset.at(split, places_M)


def _stored_levels(dataset: Dataset, split: str) -> int:
    """Values of a split's images as they are stored."""
    return int(dataset.manifest["splits"][split]["stored_levels"])


def _levels(dataset: Dataset, split: str, part: Split) -> Levels:
    num_levels = _stored_levels(dataset, split)
    counts = [np.bincount(part.images_NCHW[:, channel].ravel(), minlength=num_levels) for channel in range(dataset.spec.channels)]
    return Levels(split, len(part), np.stack(counts))


def _examples(dataset: Dataset, labels_N: npt.NDArray[np.int32]) -> list[Examples]:
    """As many examples of as many classes as there are pixels for."""
    most = max(1, EXAMPLE_PIXELS // (dataset.spec.height * dataset.spec.width))
    present = np.unique(labels_N).astype(np.int64)
    shown = _spread(present[present >= 0] if (present >= 0).any() else present, min(MOST_CLASSES, most))
    each = min(MOST_EXAMPLES if dataset.num_classes else MOST_CLASSES * 2, most // len(shown))
    places = [_spread(np.flatnonzero(labels_N == label), each) for label in shown]
    wanted = np.unique(np.concatenate(places))
    images_MCHW = dataset.at("train", wanted).images_NCHW
    names = (*dataset.label_names, NO_CLASS) if dataset.num_classes else ("train images",)
    levels = _stored_levels(dataset, "train")
    return [
        Examples(names[label], images_MCHW[np.searchsorted(wanted, rows)], levels)
        for label, rows in zip(shown.tolist(), places, strict=True)
    ]


def _pairs(dataset: Dataset, copies: list[SplitCopies]) -> list[Pair]:
    """Some of the pairs to look at: of near ones those at every distance."""
    most = max(1, PAIR_PIXELS // (2 * dataset.spec.height * dataset.spec.width))
    each = min(MOST_PAIRS, max(1, most // (2 * len(OTHERS))))
    pairs = []
    for one in copies:
        found = one.copies
        for kind, chosen_M in ((EXACT, found.is_exact_M), (NEAR, ~found.is_exact_M)):
            places_M = np.flatnonzero(chosen_M)
            shown_M = _spread(places_M[np.argsort(found.distance_M[places_M], kind="stable")], each)
            train, other = (_in_order(dataset, *which) for which in (("train", found.row_M[shown_M]), (one.split, found.other_M[shown_M])))
            for row, distance in enumerate(found.distance_M[shown_M].tolist()):
                both = np.stack([train.images_NCHW[row], other.images_NCHW[row]])
                pairs.append(Pair(train.keys[row], one.split, other.keys[row], kind, distance, both))
    return pairs


def _in_order(dataset: Dataset, split: str, places_M: Int64) -> Split:
    """Images at places in any order, some perhaps twice."""
    wanted, rows_M = np.unique(places_M, return_inverse=True)
    return dataset.at(split, wanted).take(rows_M)


def _baselines(dataset: Dataset, places_M: Int64, train: Split) -> tuple[list[LeaderboardRow], int]:
    """The baselines on some test images, of histograms of some train images; and how many test images these are."""
    images_MCHW = train.images_NCHW
    if dataset.train_images_are_grey:
        images_MCHW = binarize_dynamic(images_MCHW, seed=0, epoch=FIXED_EPOCH, indices_N=places_M)
    test = dataset.some("test", max(1, BASELINE_PIXELS // (dataset.spec.height * dataset.spec.width)))
    return baseline_rows(images_MCHW, test.images_NCHW, dataset.spec), len(test)
