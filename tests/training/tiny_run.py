"""A tiny data set and a tiny recipe, for tests of the loop that need neither Ray nor files; and runs of it that are stopped or shared."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pixelmodels.data import DatasetConfig, Split
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models.files import AVERAGE, WEIGHTS
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe, run_key
from pixelmodels.runs import checkpoints
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan

SPEC = ImageSpec(1, 4, 3, 4)
SIZES = {"train": 23, "validation": 11, "test": 7}


@dataclass(frozen=True)
class TinyDataset:
    """Images of 4x3 with 4 levels, two classes and vectors of 3, drawn from a seed; what training asks of a data set and no more."""

    name: str = "tiny"
    fingerprint: str = "0123456789"
    folder: str = "datasets/tiny-0123456789"
    spec: ImageSpec = SPEC
    num_classes: int = 2
    vector_size: int = 3
    train_images_are_grey: bool = False
    storage: Storage | None = None
    unlabelled: int = 0  # images of each split without a label, as a manifest would say
    names: tuple[str, ...] = ()  # of the classes; a, b, ... unless given

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        return self.spec.shape

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.names or tuple("abcdefgh"[: self.num_classes])

    def num_images(self, split: str) -> int:
        return SIZES[split]

    @property
    def num_skipped(self) -> int:
        return 0

    def num_unlabelled(self, split: str) -> int:
        return self.unlabelled

    def split_bytes(self, split: str) -> int:
        return SIZES[split] * self.spec.num_subpixels

    def read(self, split: str) -> Split:
        rng = np.random.default_rng(list(SIZES).index(split))
        images = rng.integers(0, self.spec.levels, (SIZES[split], *self.spec.shape)).astype(np.uint8)
        images[:, :, 1:] = images[:, :, :1]  # something to learn: all rows of an image are the same
        labels = rng.integers(0, 2, SIZES[split]).astype(np.int32)
        vectors = images[:, 0, 0, :1] + rng.normal(0, 0.1, (SIZES[split], self.vector_size)).astype(np.float32)  # tell the image
        return Split(images, labels, [f"{split}/{i}" for i in range(SIZES[split])], vectors)

    def some(self, split: str, num_images: int) -> Split:
        whole = self.read(split)
        return whole.take(np.arange(min(num_images, len(whole))))

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
        "condition_on": ("label",),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2, average_decay=0.9),
        "batch_size": 5,
        "epochs": 3,
        "evaluation_batch_size": 4,
        "num_samples": 0,
    }
    return Recipe(**{**values, **changes})


def tiny_plan(storage: Storage, recipe: Recipe | None = None, dataset: TinyDataset = TinyDataset(), **changes: Any) -> RunPlan:
    """A plan that tracks nothing."""
    recipe = recipe or tiny_recipe()
    return RunPlan(recipe=recipe, dataset=dataset, storage=storage, run_key=run_key(recipe, dataset.fingerprint), **changes)  # type: ignore[arg-type]


class Stop(Exception):
    """Raised inside a run to stop it."""


def stop_after(step: int) -> Callable[[int], None]:
    """A hook that stops a run after a step, before its checkpoint."""

    def hook(done: int) -> None:
        if done == step:
            raise Stop

    return hook


def train_until(plan: RunPlan, step: int) -> None:
    """Train from wherever the run is until after a step."""
    with pytest.raises(Stop):
        train(plan, say=lambda _: None, after_step=stop_after(step))


def last_checkpoint(plan: RunPlan) -> checkpoints.Checkpoint:
    """The newest whole checkpoint of a run."""
    last = checkpoints.latest(plan.storage, plan.folder, print)
    assert last is not None
    return last


def final_weights(plan: RunPlan) -> dict[str, torch.Tensor]:
    """The newest weights of a run, and their averages."""
    last = last_checkpoint(plan)
    return {**last.tensors(WEIGHTS), **{f"average/{name}": value for name, value in last.tensors(AVERAGE).items()}}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """That tensors are equal bit by bit, and have the same names."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def in_workers(work: Callable[[int, int, str], None], count: int, folder: Path) -> None:
    """Call `work(rank, count, folder)` in processes of their own that make a group (gloo)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_in_group, (work, count, port, str(folder)), nprocs=count)


def _in_group(rank: int, work: Callable[[int, int, str], None], count: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    work(rank, count, folder)
    dist.destroy_process_group()
