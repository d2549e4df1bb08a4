"""Workers of Ray Train on a split that is streamed: each shard is read once for all of them, also by those that come after a failure."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pixelmodels.data import Dataset, feeds, prepare
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.recipe import run_key
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.result import finished
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import guarded, run_group, wrap
from tests.data.test_streaming import CountingStorage

EPOCHS = 2


@pytest.fixture
def plan(storage: Storage, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    """A small net on the digits in shards of 150, which are streamed."""
    monkeypatch.setattr(feeds, "RESIDENT_BYTES", 0)
    recipe = next(one for one in suite("digits") if one.name == "pixelcnn")
    model = PixelCNNConfig(num_layers=1, num_features=4, first_kernel_size=3, head_features=8, dropout=0.2)
    data = dataclasses.replace(recipe.dataset, rows_per_shard=150)
    recipe = dataclasses.replace(recipe, dataset=data, model=model, epochs=EPOCHS, batch_size=32, num_samples=0)
    dataset = prepare(data, storage, say=lambda _: None)
    large = Dataset(CountingStorage(storage.root, str(tmp_path / "read")), dataset.folder, dataset.manifest)
    return RunPlan(recipe, large, storage, run_key(recipe, dataset.fingerprint), num_threads=1, checkpoint_every_s=1e-9)


def times_read(plan: RunPlan) -> Counter[str]:
    """How often each shard of the train split was read."""
    assert isinstance(plan.dataset.storage, CountingStorage)
    return Counter({path: times for path, times in plan.dataset.storage.times_read().items() if "/train-" in path})


def expected(plan: RunPlan) -> Counter[str]:
    return Counter({f"{plan.dataset.folder}/{shard['file']}": EPOCHS for shard in plan.dataset.shards("train")})


def worker(config: dict[str, Any]) -> None:
    """What each worker runs: the first or the last one is killed once, after a step."""
    import torch.distributed as dist

    feeds.RESIDENT_BYTES = 0

    def after_step(step: int) -> None:
        if step == config.get("killed_after") and dist.get_rank() == config["killed"]:
            flag = Path(config["flag"])
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    guarded(config["plan"], lambda plan, device: train(plan, device=device, wrap=wrap, say=lambda _: None, after_step=after_step))


def test_two_workers_read_each_shard_once_and_train_what_one_trains(plan: RunPlan) -> None:
    run_group(worker, {"plan": plan}, WorkerNeeds(2))
    assert times_read(plan) == expected(plan)
    together = finished(plan.storage, plan.folder)
    alone = train(dataclasses.replace(plan, place="alone"), say=lambda _: None)
    assert times_read(plan) == expected(plan)
    assert together is not None and together.test_bits_per_dim == pytest.approx(alone.test_bits_per_dim, abs=1e-4)


@pytest.mark.faults
@pytest.mark.parametrize("killed", [0, 1])
def test_workers_go_on_in_the_middle_of_an_epoch_after_one_was_killed(plan: RunPlan, killed: int, tmp_path: Path) -> None:
    """The first one takes along what starts the tasks."""
    config = {"plan": plan, "killed": killed, "killed_after": 30, "flag": str(tmp_path / "killed")}
    run_group(worker, config, WorkerNeeds(2), max_failures=1)
    assert (tmp_path / "killed").exists()
    again = times_read(plan) - expected(plan)
    assert again.total() <= 12  # the windows of the epoch that had been read before: three of four shards at most
    found = finished(plan.storage, plan.folder)
    steady = dataclasses.replace(plan, place="steady")
    run_group(worker, {"plan": steady}, WorkerNeeds(2))
    calm = finished(steady.storage, steady.folder)
    assert found is not None and calm is not None and found.test_bits_per_dim == pytest.approx(calm.test_bits_per_dim, abs=1e-6)
