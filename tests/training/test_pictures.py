"""Pictures of a run's samples: of the weights as they were after an epoch, and on a GPU drawn while the training goes on."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pixelmodels.evaluation.sample_grids import sample_grid
from pixelmodels.storage import Storage
from pixelmodels.training import loop as loop_module
from pixelmodels.training.loop import Loop
from pixelmodels.training.outbox import Epoch
from tests.training.tiny_run import tiny_plan, tiny_recipe

EPOCHS = 4


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    plan = tiny_plan(Storage(str(tmp_path)), tiny_recipe(condition_on=(), epochs=EPOCHS, num_samples=4))
    made = Loop(dataclasses.replace(plan, tracker=object()), torch.device("cpu"), say=lambda _: None)
    monkeypatch.setattr(made, "outbox", SimpleNamespace(tell=lambda epoch: made.told.append(epoch)))
    made.told = []  # type: ignore[attr-defined]
    return made


def told(loop: Any) -> list[Epoch]:
    loop._wait_for_writers()
    return loop.told


def expected(loop: Loop) -> np.ndarray:
    return sample_grid(loop.plan.dataset, loop.average.model, 4, seed=loop.recipe.seed)


def change_weights(loop: Loop) -> None:
    with torch.no_grad():
        for parameter in loop.average.model.parameters():
            parameter.add_(0.3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_picture_is_of_the_weights_after_its_epoch(loop: Loop, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, may_draw = expected(loop), threading.Event()

    def drawn(*arguments: Any, **options: Any) -> np.ndarray:
        assert device == "cpu" or may_draw.wait(60)
        return sample_grid(*arguments, **options)

    monkeypatch.setattr(loop_module, "sample_grid", drawn)
    loop.device = torch.device(device)
    loop._track({"a": 1.0}, 1)
    change_weights(loop)
    may_draw.set()
    (epoch,) = told(loop)
    assert epoch.number == 1 and epoch.metrics == {"a": 1.0}
    np.testing.assert_array_equal(epoch.picture_HWC, picture)
    assert (expected(loop) != picture).any()


def test_no_picture_is_waited_for_but_the_last_one(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    may_draw = threading.Event()
    monkeypatch.setattr(loop_module, "sample_grid", lambda *_, **__: may_draw.wait(60) and np.zeros((1, 1, 3), np.uint8))
    loop.device = torch.device("cuda")
    for epoch in (1, 2):
        loop._track({}, epoch)
    may_draw.set()
    for epoch in (3, EPOCHS):
        loop._track({}, epoch)
    found = told(loop)
    assert [one.number for one in found] == [1, 2, 3, EPOCHS]
    assert found[1].picture_HWC is None and found[0].picture_HWC is not None and found[3].picture_HWC is not None
