"""Several workers (gloo, in processes of their own) do together exactly what one does alone."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training import checkpoints
from pixelmodels.training.loop import Loop, train
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.workers import Workers
from tests.training.tiny_run import SIZES, TinyDataset, tiny_plan, tiny_recipe

CPU = torch.device("cpu")
DATASET = TinyDataset(spec=ImageSpec(1, 4, 4, 4))


def recipe_without_dropout() -> Any:
    recipe = conditional_recipe(accumulate=2, context_drop_rate=0.0)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dropout=0.0))


def conditional_recipe(**changes: Any) -> Any:
    return tiny_recipe(**{"condition_on": ("label", "vector", "small"), "context_drop_rate": 0.4, **changes})


def gradient(loop: Loop, rows: Any, step_images: int) -> torch.Tensor:
    loop.model.zero_grad()
    parts = loop.recipe.accumulate
    for part in range(parts):
        chunk = rows.part(part * len(rows) // parts, (part + 1) * len(rows) // parts)
        loop._backward(chunk, step_images, is_last=part == parts - 1)
    return torch.cat([parameter.grad.flatten() for parameter in loop.model.parameters()])


def look(plan: RunPlan) -> dict[str, list[float]]:
    """Gradients of the last two batches of an epoch (5 images, and 3 of them), and the nats of the splits."""
    loop = Loop(plan, CPU, say=lambda _: None)
    batches = list(loop.feed.training_rows(0, 3))
    found = {f"gradient {size}": gradient(loop, rows, size).tolist() for rows, size in batches}
    one = next(iter(loop.feed.training_rows(1, 4)))[0].part(0, 1 if loop.workers.is_first else 0)
    found["gradient of one image"] = gradient(loop, one, 1).tolist()  # all workers but one have none
    found |= {split: loop._score(split).tolist() for split in ("validation", "test")}
    return found


def stopped_after(step: int) -> Any:
    def hook(done: int) -> None:
        if done == step:
            raise InterruptedError

    return hook


def resumed_at(plan: RunPlan) -> int:
    """Where a worker goes on when all but the first find no checkpoint whole."""
    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank():
            patch.setattr(checkpoints, "latest", lambda *_: None)
        return Loop(plan, CPU, say=lambda _: None).position.step


def worker(rank: int, count: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    found: dict[str, Any] = look(tiny_plan(Storage(f"{folder}/look"), recipe_without_dropout(), DATASET))
    found["share"] = Workers(CPU).share(0, SIZES["test"])
    if count == 2:  # with dropout and context left out, stopped in the middle of an epoch, and again
        whole, stopped = (
            tiny_plan(Storage(f"{folder}/{name}"), conditional_recipe(), DATASET, checkpoint_every_s=1e-9) for name in ("whole", "stopped")
        )
        train(whole, say=lambda _: None)
        for step in (4, 9):
            try:
                train(stopped, say=lambda _: None, after_step=stopped_after(step))
            except InterruptedError:
                dist.barrier()
        found["resumed"] = resumed_at(stopped)
        train(stopped, say=lambda _: None)
    Path(f"{folder}/{count}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def run_workers(count: int, folder: Path) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, (count, port, str(folder)), nprocs=count)
    return [json.loads((folder / f"{count}-{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return look(tiny_plan(Storage(str(tmp_path_factory.mktemp("alone"))), recipe_without_dropout(), DATASET))


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_and_likelihoods_do_not_depend_on_the_number_of_workers(
    count: int, alone: dict[str, list[float]], tmp_path: Path
) -> None:
    found = run_workers(count, tmp_path)
    for name, expected in alone.items():
        for of_one_worker in found:
            np.testing.assert_allclose(of_one_worker[name], expected, rtol=1e-5 if "gradient" in name else 1e-6, atol=1e-7, err_msg=name)
    assert [tuple(one["share"]) for one in found] == {2: [(0, 3), (3, 7)], 3: [(0, 2), (2, 4), (4, 7)]}[count]
    if count == 2:
        assert [one["resumed"] for one in found] == [8, 8]  # stopped after step 9, before its checkpoint
        plans = [tiny_plan(Storage(str(tmp_path / name)), conditional_recipe(), DATASET) for name in ("whole", "stopped")]
        ends = [checkpoints.latest(plan.storage, plan.folder, print) for plan in plans]
        assert ends[0] is not None and ends[1] is not None
        for name, value in ends[0].tensors(checkpoints.AVERAGE).items():
            torch.testing.assert_close(ends[1].tensors(checkpoints.AVERAGE)[name], value, rtol=1e-5, atol=1e-8)
