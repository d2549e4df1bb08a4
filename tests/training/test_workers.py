"""Several workers (gloo, in processes of their own) do together exactly what one does alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pixelmodels.runs import checkpoints
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training import workers as workers_module
from pixelmodels.training.loop import Loop, train
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.workers import Workers
from tests.training.tiny_run import SIZES, TinyDataset, final_weights, in_workers, tiny_plan, tiny_recipe, train_until

CPU = torch.device("cpu")
DATASET = TinyDataset(spec=ImageSpec(1, 4, 4, 4))


def conditional_recipe(**changes: Any) -> Any:
    values = {"condition_on": ("label", "vector", "small"), "context_drop_rate": 0.4, "shift": 1, "mirror": True}
    return tiny_recipe(**{**values, **changes})


def gradient(loop: Loop, rows: Any, step_images: int) -> torch.Tensor:
    loop._gradient(loop._make_inputs(rows, step_images, loop.workers.share(0, step_images)[0], loop.position.step))
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


def resumed_at(plan: RunPlan) -> int:
    """Where a worker goes on when all but the first read nothing: they are told."""
    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank():
            for name in ("latest", "load", "read"):
                patch.setattr(checkpoints, name, lambda *_: pytest.fail("this worker reads, too"))
        return Loop(plan, CPU, say=lambda _: None).position.step


def worker(rank: int, count: int, folder: str) -> None:
    found: dict[str, Any] = look(tiny_plan(Storage(f"{folder}/look"), conditional_recipe(accumulate=2), DATASET))
    train(tiny_plan(Storage(f"{folder}/trained"), conditional_recipe(), DATASET), say=lambda _: None)
    found["share"] = Workers(CPU).share(0, SIZES["test"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers_module, "_BYTES_AT_ONCE", 3)
        found["told"] = [
            list(Workers(CPU).bytes_of_first(mine)) for mine in (bytes([rank, 1, 2, 255, 0, 7, 8]), b"" if rank == 0 else b"x")
        ]
    if count == 2:  # with dropout and context left out, stopped in the middle of an epoch, and again
        whole, stopped = (
            tiny_plan(Storage(f"{folder}/{name}"), conditional_recipe(), DATASET, checkpoint_every_s=1e-9) for name in ("whole", "stopped")
        )
        train(whole, say=lambda _: None)
        for step in (4, 9):
            train_until(stopped, step)
            dist.barrier()
        found["resumed"] = resumed_at(stopped)
        train(stopped, say=lambda _: None)
    Path(f"{folder}/{count}-{rank}.json").write_text(json.dumps(found))


def run_workers(count: int, folder: Path) -> list[dict[str, Any]]:
    in_workers(worker, count, folder)
    return [json.loads((folder / f"{count}-{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return look(tiny_plan(Storage(str(tmp_path_factory.mktemp("alone"))), conditional_recipe(accumulate=2), DATASET))


@pytest.fixture(scope="module")
def trained_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    plan = tiny_plan(Storage(str(tmp_path_factory.mktemp("trained"))), conditional_recipe(), DATASET)
    train(plan, say=lambda _: None)
    return final_weights(plan)


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_and_likelihoods_do_not_depend_on_the_number_of_workers(
    count: int, alone: dict[str, list[float]], trained_alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """With dropout, and with context left out by chance."""
    found = run_workers(count, tmp_path)
    for name, expected in alone.items():
        for of_one_worker in found:
            np.testing.assert_allclose(of_one_worker[name], expected, rtol=1e-5 if "gradient" in name else 1e-6, atol=1e-7, err_msg=name)
    assert [one["told"] for one in found] == [[[0, 1, 2, 255, 0, 7, 8], []]] * count
    assert [tuple(one["share"]) for one in found] == {2: [(0, 3), (3, 7)], 3: [(0, 2), (2, 4), (4, 7)]}[count]
    together = final_weights(tiny_plan(Storage(str(tmp_path / "trained")), conditional_recipe(), DATASET))
    for name, value in trained_alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5)  # Adam divides by small gradients
    if count == 2:
        assert [one["resumed"] for one in found] == [8, 8]  # stopped after step 9, before its checkpoint
        plans = [tiny_plan(Storage(str(tmp_path / name)), conditional_recipe(), DATASET) for name in ("whole", "stopped")]
        whole, stopped = map(final_weights, plans)
        for name, value in whole.items():
            torch.testing.assert_close(stopped[name], value, rtol=1e-5, atol=1e-8)
