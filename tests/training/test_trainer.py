"""What a worker does with failures: those that another try would only repeat are written down, and not tried again."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train.torch
import torch

from pixelmodels.errors import UserError
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.runs import checkpoints
from pixelmodels.runs.lock import RUNNING, Hold, Lost
from pixelmodels.runs.result import FAILURE
from pixelmodels.storage import Storage
from pixelmodels.training import trainer
from pixelmodels.training.plan import Hopeless, RunPlan
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
        trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0, "is_live": False})
    trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0, "is_live": False})  # what Ray starts anew
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
        trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0, "is_live": False})
    trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0, "is_live": False})
    failure = trainer.failure_of(plan)
    assert len(tries) == 2 and failure is not None and failure.startswith("out of memory: give a smaller batch_size")


def test_another_failure_is_tried_again(storage: Storage, tries: list[BaseException]) -> None:
    plan = tiny_plan(storage)
    tries.append(RuntimeError("connection closed by peer"))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0, "is_live": False})
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


def held_by_another(plan: RunPlan) -> RunPlan:
    """A plan whose folder another process has taken over, which has a failure of its own there."""
    hold = Hold(f"{plan.folder}/{RUNNING}", "mine")
    plan.storage.write_bytes(hold.path, json.dumps({"host": "there", "process": 17, "id": "theirs"}).encode())
    return dataclasses.replace(plan, hold=hold)


@pytest.mark.parametrize("error", [Lost("process 17 trains it now"), UserError("a shard is damaged"), MemoryError()])
def test_who_has_lost_a_run_writes_nothing_down(error: Exception, storage: Storage, tries: list[BaseException]) -> None:
    plan = held_by_another(tiny_plan(storage))
    tries.append(error)
    with pytest.raises(Lost, match="process 17"):
        trainer.run_worker({"plan": plan, "progress": None, "needs": WorkerNeeds(1), "settle_s": 0.0, "is_live": False})
    assert storage.list(plan.folder) == [RUNNING]


def test_who_has_lost_a_run_neither_tries_again_nor_clears_away(
    storage: Storage, tries: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(storage)
    asked: list[int] = []

    class Losing:
        """A group that fails when its run is another's already."""

        def __init__(self, *_: Any, **__: Any) -> None:
            asked.append(1)

        def fit(self) -> None:
            held_by_another(plan)
            storage.write_bytes(f"{plan.folder}/{FAILURE}", b'{"reason": "of the other"}')
            raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Losing)
    plan = dataclasses.replace(plan, hold=Hold(f"{plan.folder}/{RUNNING}", "mine"))
    storage.write_bytes(f"{plan.folder}/{RUNNING}", b'{"id": "mine"}')
    for _ in range(2):  # of which the second has lost it before it begins
        with pytest.raises(Lost, match="process 17 on host 'there' trains it now"):
            trainer.fit(plan, WorkerNeeds(1), None, say=lambda _: None)
    assert asked == [1] and trainer.failure_of(plan) == "of the other"


def test_a_checkpoint_counts_as_progress_when_it_is_whole(
    storage: Storage, tries: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, lines = tiny_plan(storage), list[str]()
    steps = iter([100, 105, 110, 115])  # a whole one, and others that are begun only

    class Dying:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def fit(self) -> None:
            folder = checkpoints.folder_of(plan.folder, step := next(steps))
            storage.write_bytes(f"{folder}/{checkpoints.CHECKPOINT if step == 100 else 'model.json'}", b"{}")
            raise RuntimeError("a worker died")

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Dying)
    with pytest.raises(trainer.RunFailed):
        trainer.fit(plan, WorkerNeeds(1), None, max_failures=2, say=lines.append)
    assert lines == ["tiny: a worker died; goes on from step 100"] * 2
    assert checkpoints.newest(storage, plan.folder) == 100


def test_the_next_call_tries_a_hopeless_run_again(storage: Storage, tries: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Group)
    tries.append(Hopeless("the training likelihood is nan"))
    for call in (1, 2):
        with pytest.raises(trainer.RunFailed, match="the training likelihood is nan"):
            trainer.fit(tiny_plan(storage), WorkerNeeds(1), None)
        assert len(tries) == 1 + call
