"""What a run that is finished leaves behind."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest

from pixelmodels.runs import lock
from pixelmodels.runs.lock import RUNNING, Lost
from pixelmodels.runs.result import RESULT, RunResult
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, source
from pixelmodels.training import one_run
from pixelmodels.training.one_run import train_one
from pixelmodels.training.options import TrainAll
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import RAY_FILES, RunFailed, ray_files
from tests.training.tiny_run import TinyDataset, tiny_recipe


def test_ray_files_of_a_run_that_is_finished_are_removed_and_no_others(storage: Storage) -> None:
    plan = RunPlan(tiny_recipe(), TinyDataset(), storage, "0123456789")  # type: ignore[arg-type]
    kinds = {"str": "x", "int": 1, "float": 1.0, "str | None": None, "float | None": None}
    values = {spec.name: kinds[str(spec.type)] for spec in dataclasses.fields(RunResult)}
    storage.write_bytes(f"{plan.folder}/{RESULT}", json.dumps(values).encode())
    for name in (ray_files(plan), f"{ray_files(plan)}-of-another"):
        storage.write_bytes(f"{name}/state.json", b"{}")
    lines: list[str] = []
    progress = SimpleNamespace(show=lines.append, drain=lambda: None, end=lambda *_: None)
    result, was_there = train_one(plan, TrainAll(), progress, "")  # type: ignore[arg-type]
    assert was_there and result == RunResult(**values) and "finished before" in lines[0]
    assert [f"{RAY_FILES}/{name}" for name in storage.list(RAY_FILES)] == [f"{ray_files(plan)}-of-another"]


@pytest.mark.parametrize(
    ("error", "is_lost", "statuses"),
    [
        (RunFailed("no room"), False, ["FAILED"]),
        (OSError("the bucket does not answer"), False, ["FAILED"]),
        (Lost("another trains it now"), False, []),  # and has ended meanwhile
        (RunFailed("a worker died"), True, []),
        (OSError("the bucket did not answer"), True, []),
    ],
)
def test_the_run_in_mlflow_is_closed_unless_another_process_goes_on_with_it(
    error: Exception, is_lost: bool, statuses: list[str], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    tracker = SimpleNamespace(uri="", start_or_resume_child=lambda *_, **__: "run", finish=lambda run_id, status: closed.append(status))
    plan = RunPlan(tiny_recipe(), TinyDataset(), storage, "0123456789", tracker)  # type: ignore[arg-type]

    def fit(plan: RunPlan, *_: Any, **__: Any) -> None:
        if is_lost:
            storage.write_bytes(f"{plan.folder}/{RUNNING}", json.dumps({"host": "there", "process": 17, "id": "theirs"}).encode())
        raise error

    monkeypatch.setattr(one_run, "fit", fit)
    progress = SimpleNamespace(show=lambda _: None, drain=lambda: None, end=lambda *_: None, actor=None, is_live=False)
    with pytest.raises(type(error)):
        train_one(plan, TrainAll(), progress, "")  # type: ignore[arg-type]
    assert closed == statuses and storage.exists(f"{plan.folder}/{RUNNING}") is is_lost


def test_what_a_machine_that_is_gone_left_open_in_mlflow_is_closed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but who takes its run over can tell that it is gone. Runs of other machines stay open, and what has ended stays as it is."""
    monkeypatch.setattr(lock, "WATCH_S", 0.3)
    tracker = Tracker(storage)
    plan = RunPlan(tiny_recipe(), TinyDataset(), storage, "0123456789", tracker)  # type: ignore[arg-type]
    gone, other = "17@there/boot/pid:[1]@5", "17@elsewhere/boot/pid:[1]@5"
    left = {
        name: tracker.start_parent(name, {}, {source.IDENTITY_TAG: identity}) for name, identity in (("a", gone), ("b", gone), ("c", other))
    }
    tracker.finish(left["b"])
    held = {"host": "there", "process": 17, "identity": gone, "id": "x", "count": 3}
    storage.write_bytes(f"{plan.folder}/{RUNNING}", json.dumps(held).encode())

    def refuse(*_: Any, **__: Any) -> None:
        raise RunFailed("no room")

    monkeypatch.setattr(one_run, "_fit", refuse)
    with pytest.raises(RunFailed):
        train_one(plan, TrainAll(), SimpleNamespace(show=lambda _: None, drain=lambda: None, end=lambda *_: None), "")  # type: ignore[arg-type]
    statuses = {name: tracker.client.get_run(run_id).info.status for name, run_id in left.items()}
    assert statuses == {"a": "KILLED", "b": "FINISHED", "c": "RUNNING"}


def test_a_storage_that_does_not_clear_away_does_not_undo_a_finished_run(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = RunPlan(tiny_recipe(), TinyDataset(), storage, "0123456789")  # type: ignore[arg-type]
    kinds = {"str": "x", "int": 1, "float": 1.0, "str | None": None, "float | None": None}
    RunResult(**{spec.name: kinds[str(spec.type)] for spec in dataclasses.fields(RunResult)}).write(storage, plan.folder)  # type: ignore[arg-type]

    def refuse(*_: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(Storage, "delete", refuse)
    _, was_there = train_one(plan, TrainAll(), SimpleNamespace(show=lambda _: None, drain=lambda: None, end=lambda *_: None), "")  # type: ignore[arg-type]
    assert was_there
