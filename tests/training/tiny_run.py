"""A tiny data set and a tiny recipe, for tests of the loop that need neither Ray nor files."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.recipes import OptimizerConfig, Recipe, run_key

SPEC = ImageSpec(1, 4, 3, 4)
SIZES = {"train": 23, "validation": 11, "test": 7}


@dataclass(frozen=True)
class TinyDataset:
    """Images of 4x3 with 4 levels and two classes, drawn from a seed; what training asks of a data set and no more."""

    name: str = "tiny"
    fingerprint: str = "0123456789"
    folder: str = "datasets/tiny-0123456789"
    spec: ImageSpec = SPEC
    num_classes: int = 2
    train_images_are_grey: bool = False
    unlabelled: int = 0  # images of each split without a label, as a manifest would say

    def num_images(self, split: str) -> int:
        return SIZES[split]

    def num_unlabelled(self, split: str) -> int:
        return self.unlabelled

    def split_bytes(self, split: str) -> int:
        return SIZES[split] * self.spec.num_subpixels

    def read(self, split: str) -> Any:
        rng = np.random.default_rng(list(SIZES).index(split))
        images = rng.integers(0, self.spec.levels, (SIZES[split], *self.spec.shape)).astype(np.uint8)
        images[:, :, 1:] = images[:, :, :1]  # something to learn: all rows of an image are the same
        labels = rng.integers(0, 2, SIZES[split]).astype(np.int32)
        return SimpleNamespace(images_NCHW=images, labels_N=labels, keys=[f"{split}/{i}" for i in range(SIZES[split])])

    def read_labels(self, split: str) -> Any:
        whole = self.read(split)
        return whole.labels_N, whole.keys


def tiny_recipe(**changes: Any) -> Recipe:
    """A recipe that trains in well under a second."""
    values: dict[str, Any] = {
        "name": "tiny",
        "dataset": DatasetConfig(),
        "model": PixelCNNConfig(num_layers=1, num_features=4, first_kernel_size=3, head_features=8, dropout=0.2),
        "likelihood": LikelihoodConfig("categorical"),
        "class_conditional": True,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2, average_decay=0.9),
        "batch_size": 5,
        "epochs": 3,
        "evaluation_batch_size": 4,
        "num_samples": 0,
    }
    return Recipe(**{**values, **changes})


def tiny_plan(storage: Storage, recipe: Recipe | None = None, **changes: Any) -> RunPlan:
    """A plan that tracks nothing."""
    recipe, dataset = recipe or tiny_recipe(), TinyDataset()
    return RunPlan(recipe=recipe, dataset=dataset, storage=storage, run_key=run_key(recipe, dataset.fingerprint), **changes)  # type: ignore[arg-type]
