"""What a worker does with failures: those that another try would only repeat are written down, and not tried again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train.torch
import torch

from pixelmodels.errors import UserError
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.runs.result import FAILURE
from pixelmodels.storage import Storage
from pixelmodels.training import trainer
from pixelmodels.training.plan import Hopeless
from tests.training.tiny_run import tiny_plan


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What each call of `train` raised; set `tries.append` first to say what the next ones raise."""
    raised: list[BaseException] = []

    def train(*_: Any, **__: Any) -> None:
        raised.append(raised[0])
        raise raised[0]

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(trainer, "sayer", lambda actor: print)
    monkeypatch.setattr(trainer, "Departure", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    return raised


@pytest.mark.parametrize("error", [UserError("a shard is damaged"), Hopeless("the training likelihood is nan")])
def test_a_hopeless_failure_is_tried_once(error: Exception, storage: Storage, tries: list[BaseException]) -> None:
    plan = tiny_plan(storage)
    tries.append(error)
    with pytest.raises(type(error)):
        trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0})
    trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0})  # what Ray starts anew
    assert len(tries) == 2
    assert trainer.failure_of(plan) == str(error)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_a_lack_of_memory_is_hopeless_too(error: Exception, storage: Storage, tries: list[BaseException]) -> None:
    plan = tiny_plan(storage)
    tries.append(error)
    with pytest.raises(type(error)):
        trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0})
    trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0})
    failure = trainer.failure_of(plan)
    assert len(tries) == 2 and failure is not None and failure.startswith("out of memory: give a smaller batch_size")


def test_another_failure_is_tried_again(storage: Storage, tries: list[BaseException]) -> None:
    plan = tiny_plan(storage)
    tries.append(RuntimeError("connection closed by peer"))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0})
    assert len(tries) == 3 and not storage.exists(f"{plan.folder}/{FAILURE}")


class Group:
    """A trainer whose workers do as `run_worker` would, and are started again once when they fail."""

    def __init__(self, worker: Any, *, train_loop_config: dict[str, Any], **_: Any) -> None:
        self.work = lambda: worker(train_loop_config)

    def fit(self) -> SimpleNamespace:
        try:
            return SimpleNamespace(return_value=self.work())
        except Exception:
            return SimpleNamespace(return_value=self.work())


def test_the_next_call_tries_a_hopeless_run_again(storage: Storage, tries: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Group)
    tries.append(Hopeless("the training likelihood is nan"))
    for call in (1, 2):
        with pytest.raises(trainer.RunFailed, match="the training likelihood is nan"):
            trainer.fit(tiny_plan(storage), WorkerNeeds(1), None)
        assert len(tries) == 1 + call
