"""What workers tell each other in a training step: their gradients, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pixelmodels.storage import Storage
from pixelmodels.training.loop import Loop
from tests.training.tiny_run import TinyDataset, in_workers, tiny_plan, tiny_recipe

STEPS = 3


def worker(rank: int, count: int, folder: str) -> None:
    loop = Loop(tiny_plan(Storage(f"{folder}/run"), tiny_recipe(condition_on=(), accumulate=2), TinyDataset()), torch.device("cpu"))
    inputs = next(loop.inputs(0, 0, 0))
    loop._gradient(inputs)  # after the first one torch sorts its buckets anew, and tells the others
    loop._gradient(inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        for _ in range(STEPS):
            loop._step(inputs)
    events = [event for event in profile.events() if event.name.startswith("gloo:")]
    told = [(event.name, sum(torch.Size(shape).numel() for shape in event.input_shapes)) for event in events]
    found = {"told": told, "parameters": loop.model.num_parameters, "buffers": sum(one.numel() for one in loop.model.buffers())}
    Path(f"{folder}/{rank}.json").write_text(json.dumps(found))


def test_a_step_sends_the_gradients_and_no_more(tmp_path: Path) -> None:
    """Two parts a step: once, all of them; masks and other buffers are constants."""
    in_workers(worker, 2, tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["buffers"] > 0
        assert {name for name, _ in found["told"]} == {"gloo:all_reduce"}
        assert sum(size for _, size in found["told"]) == STEPS * found["parameters"]
