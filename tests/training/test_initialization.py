"""Data-dependent initialization in the loop: once, from the images of the first step, the same in all workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.data.feeds import StreamedFeed, epoch_order
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, PixelModel
from pixelmodels.models.files import AVERAGE, WEIGHTS
from pixelmodels.models.pixelcnn_pp import PixelCNNPP, PixelCNNPPConfig
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.storage import Storage
from pixelmodels.training.loop import Loop, train
from pixelmodels.training.plan import build_model
from pixelmodels.training.workers import Workers
from tests.training.tiny_run import (
    SIZES,
    TinyDataset,
    assert_same,
    final_weights,
    in_workers,
    last_checkpoint,
    tiny_plan,
    tiny_recipe,
    train_until,
)

CPU = torch.device("cpu")


def recipe(**changes: Any) -> Recipe:
    mixture = LikelihoodConfig("discretized_logistic_mixture", num_mixtures=2)
    return tiny_recipe(model=PixelCNNPPConfig(num_layers=1, num_features=4, dropout=0.2), likelihood=mixture, epochs=2, **changes)


def weights(model: PixelModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("class_conditional", [True, False])
def test_a_fresh_run_begins_with_the_images_of_its_first_step(storage: Storage, class_conditional: bool) -> None:
    plan = tiny_plan(storage, recipe(condition_on=("label",) if class_conditional else ()))
    loop = Loop(plan, CPU, say=lambda _: None)
    expected = build_model(plan)
    first = epoch_order(0, 0, SIZES["train"])[:5]
    train_split = TinyDataset().read("train")
    label_B = torch.from_numpy(train_split.labels_N[first]).long() if class_conditional else None
    assert not torch.equal(expected.output.bias, loop.model.output.bias)  # type: ignore[operator]
    expected.initialize(torch.from_numpy(train_split.images_NCHW[first]), Context(label_B))
    assert_same(weights(loop.model), weights(expected))
    assert_same(weights(loop.average.model), weights(expected))


def test_a_run_is_initialized_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    initialize = PixelCNNPP.initialize

    def counted(self: PixelCNNPP, x_BCHW: torch.Tensor, context: Context | None = None) -> None:
        calls.append(len(x_BCHW))
        initialize(self, x_BCHW, context)

    monkeypatch.setattr(PixelCNNPP, "initialize", counted)
    plan = tiny_plan(storage, recipe(), checkpoint_every_s=1e-9)
    train_until(plan, 3)
    assert calls == [5]
    last = last_checkpoint(plan)
    loop = Loop(plan, CPU, say=lambda _: None)
    assert_same(weights(loop.model), last.tensors(WEIGHTS))
    assert_same(weights(loop.average.model), last.tensors(AVERAGE))
    assert calls == [5]


@pytest.mark.parametrize("steps", [(1,), (2, 6)])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path, steps: tuple[int, ...]) -> None:
    whole = tiny_plan(Storage(str(tmp_path / "whole")), recipe())
    # the first checkpoint is written after step 2: a run that was stopped before begins again
    stopped = tiny_plan(Storage(str(tmp_path / "stopped")), recipe(), checkpoint_every_s=1e-9)
    expected = train(whole, say=lambda _: None)
    for step in steps:
        train_until(stopped, step)
    found = train(stopped, say=lambda _: None)
    assert found.test_nll_nats == expected.test_nll_nats
    assert_same(final_weights(stopped), final_weights(whole))


def test_images_are_left_unread_for_models_that_take_nothing_of_them(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(storage)
    monkeypatch.setattr(TinyDataset, "read", lambda *_: pytest.fail("images were read"))
    loop = Loop(plan, CPU, say=lambda _: None)
    assert_same(weights(loop.model), weights(build_model(plan)))


# ---- several workers


def begin(rank: int, count: int, folder: str) -> None:
    torch.manual_seed(rank)
    mine = torch.full((3,), float(rank))
    Workers(CPU).copy_from_first([mine])
    loop = Loop(tiny_plan(Storage(f"{folder}/begin"), recipe()), CPU, say=lambda _: None)
    found = {**weights(loop.model), **{f"average/{name}": value for name, value in weights(loop.average.model).items()}}
    save_file({**found, "copied": mine}, f"{folder}/{count}-{rank}.safetensors")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [2, 3])
def test_all_workers_begin_with_the_weights_that_one_alone_has(count: int, tmp_path: Path, one_thread: None) -> None:
    loop = Loop(tiny_plan(Storage(str(tmp_path / "alone")), recipe()), CPU, say=lambda _: None)
    expected = weights(loop.model)
    in_workers(begin, count, tmp_path)
    for rank in range(count):
        found = load_file(tmp_path / f"{count}-{rank}.safetensors")
        assert found.pop("copied").tolist() == [0.0] * 3
        assert_same(found, {**expected, **{f"average/{name}": value for name, value in expected.items()}})


# ---- streamed


@pytest.fixture(scope="module")
def digits(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    storage = Storage(str(tmp_path_factory.mktemp("initialization")))
    return prepare(DatasetConfig(source="digits", rows_per_shard=150), storage)


def test_a_split_that_is_streamed_gives_the_images_of_its_own_first_step(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "split_bytes", lambda self, split: 1 << 40)
    plan = dataclasses.replace(tiny_plan(Storage(str(tmp_path)), recipe(batch_size=16)), dataset=digits)
    found = Loop(plan, CPU, say=lambda _: None)
    rows, _ = next(StreamedFeed(digits, Workers(CPU), seed=0, batch_size=16).training_rows(0, 0))
    assert not np.array_equal(rows.images_NCHW, digits.read("train").images_NCHW[epoch_order(0, 0, digits.num_images("train"))[:16]])
    expected = build_model(plan)
    assert rows.labels_N is not None
    expected.initialize(torch.from_numpy(rows.images_NCHW), Context(torch.from_numpy(rows.labels_N).long()))
    assert_same(weights(found.model), weights(expected))
