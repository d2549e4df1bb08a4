"""A run with a range of workers: takes what there is, grows when there is more, and ends as a run of one worker does."""

from __future__ import annotations

import dataclasses
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pixelmodels.data import prepare
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.progress import Progress
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.recipe import run_key
from pixelmodels.recipes.suites import suite
from pixelmodels.storage import Storage
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import fit


@pytest.fixture
def plan(storage: Storage, ray_cluster: None) -> RunPlan:
    """A small net with dropout on the digits: long enough to see that there is room for more, on a fast machine too."""
    recipe = next(one for one in suite("digits") if one.name == "pixelcnn")
    model = PixelCNNConfig(num_layers=1, num_features=4, first_kernel_size=3, head_features=8, dropout=0.2)
    recipe = dataclasses.replace(recipe, name="elastic", model=model, epochs=40, batch_size=8, num_samples=0)
    dataset = prepare(recipe.dataset, storage, say=lambda _: None)
    return RunPlan(recipe, dataset, storage, run_key(recipe, dataset.fingerprint), num_threads=1)


class Holding:
    """An actor that does nothing but hold CPUs."""

    def ready(self) -> bool:
        return True


@pytest.mark.faults
def test_a_run_takes_what_there_is_and_then_more(plan: RunPlan) -> None:
    import ray

    lines: list[str] = []
    here = threading.Event()

    def show(line: str) -> None:
        lines.append(line)
        if "epoch 1/" in line:
            here.set()

    progress = Progress(show)
    holder: Any = ray.remote(num_cpus=3)(Holding).remote()  # of 5 CPUs: leaves one for a worker, and one for Ray Data
    assert ray.get(holder.ready.remote())
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fit, plan, WorkerNeeds.asked("1..2"), progress.actor, say=show, settle_s=0.0)
        while not here.wait(0.2):
            progress.drain()
            assert not future.done()
        ray.kill(holder)
        result = future.result()
    progress.drain()
    grown = [match for line in lines if (match := re.fullmatch(r"elastic: grows from 1 to 2 worker\(s\) at step (\d+)", line))]
    assert len(grown) == 1
    step = int(grown[0][1])
    assert step > 0 and any(line.startswith(f"elastic: going on from step {step} (") for line in lines)  # no step is repeated
    assert result.num_workers == 2 and result.epochs == 40
    alone = dataclasses.replace(plan, place="alone")
    assert fit(alone, WorkerNeeds(1), progress.actor, say=show).test_bits_per_dim == pytest.approx(result.test_bits_per_dim, abs=1e-4)
