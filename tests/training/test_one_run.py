"""What a run that is finished leaves behind."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

from pixelmodels.runs.result import RESULT, RunResult
from pixelmodels.storage import Storage
from pixelmodels.training.one_run import train_one
from pixelmodels.training.options import TrainAll
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import RAY_FILES, ray_files
from tests.training.tiny_run import TinyDataset, tiny_recipe


def test_ray_files_of_a_run_that_is_finished_are_removed_and_no_others(storage: Storage) -> None:
    plan = RunPlan(tiny_recipe(), TinyDataset(), storage, "0123456789")  # type: ignore[arg-type]
    kinds = {"str": "x", "int": 1, "float": 1.0, "str | None": None}
    values = {spec.name: kinds[str(spec.type)] for spec in dataclasses.fields(RunResult)}
    storage.write_bytes(f"{plan.folder}/{RESULT}", json.dumps(values).encode())
    for name in (ray_files(plan), f"{ray_files(plan)}-of-another"):
        storage.write_bytes(f"{name}/state.json", b"{}")
    lines: list[str] = []
    progress = SimpleNamespace(show=lines.append, drain=lambda: None)
    result, was_there = train_one(plan, TrainAll(), progress, "")  # type: ignore[arg-type]
    assert was_there and result == RunResult(**values) and "finished before" in lines[0]
    assert [f"{RAY_FILES}/{name}" for name in storage.list(RAY_FILES)] == [f"{ray_files(plan)}-of-another"]
