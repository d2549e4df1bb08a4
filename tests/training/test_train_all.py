"""The driver's side of a call: what is said when, what counts as trained, and what a recipe says of its data."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from pixelmodels.data import DatasetConfig, find_prepared, prepare
from pixelmodels.data.dataset import config_of
from pixelmodels.runs import lock as running
from pixelmodels.runs.result import RESULT, RunResult, finished
from pixelmodels.storage import Storage
from pixelmodels.training import one_run
from pixelmodels.training import train_all as module
from pixelmodels.training.finish import close_run
from pixelmodels.training.loop import train
from pixelmodels.training.options import TrainAll
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.train_all import Outcome
from pixelmodels.training.trainer import RunFailed
from tests.training.tiny_run import tiny_plan, tiny_recipe


def call(plans: list[RunPlan], say: Any, **options: Any) -> Outcome:
    outcome = Outcome("runs/call", "leaderboard.md")
    module._train(plans, len(plans), "parent", TrainAll(**options), outcome, say)
    return outcome


def bare(plan: RunPlan, *_: Any, **__: Any) -> RunResult:
    return train(plan, say=lambda _: None)


@pytest.fixture
def plans(storage: Storage) -> list[RunPlan]:
    return [tiny_plan(storage, tiny_recipe(name=name, epochs=1)) for name in ("good", "bad")]


def test_a_failure_is_said_before_the_other_models_end(plans: list[RunPlan], ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()

    def fit(plan: RunPlan, *_: Any, **__: Any) -> RunResult:
        if plan.recipe.name == "bad":
            raise RunFailed("the training likelihood is nan")
        assert heard.wait(20)
        return bare(plan)

    def say(line: str) -> None:
        lines.append(line)
        if line == "bad failed: the training likelihood is nan":
            heard.set()

    lines: list[str] = []
    monkeypatch.setattr(one_run, "fit", fit)
    outcome = call(plans, say)
    assert [result.name for result in outcome.results] == ["good"] and outcome.failed == {"bad": "the training likelihood is nan"}
    assert outcome.counts() == "1 trained, 1 failed"
    assert sum("bad failed" in line for line in lines) == 1


def test_what_was_finished_before_is_not_counted_as_trained(
    plans: list[RunPlan], ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_run, "fit", bare)
    bare(plans[0])
    assert call(plans, print).counts() == "1 trained, 1 finished before"


def test_a_run_that_another_process_trains_is_left_to_it(plans: list[RunPlan], ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "fit", bare)
    monkeypatch.setattr(running, "BEAT_S", 0.05)
    with running.holding(plans[0].storage, plans[0].folder, "good", print):
        outcome = call(plans, print)
    assert "trains it already" in outcome.failed["good"]
    assert [result.name for result in outcome.results] == ["bad"]


def test_fresh_removes_the_result_before_all_else(plans: list[RunPlan], ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans[0]
    bare(plan)
    removed: list[str] = []
    delete = Storage.delete
    monkeypatch.setattr(Storage, "delete", lambda self, path: (removed.append(path), delete(self, path)))
    monkeypatch.setattr(one_run, "fit", bare)
    assert call([plan], print, fresh=True).counts() == "1 trained"
    assert removed[0] == f"{plan.folder}/{RESULT}"
    assert finished(plan.storage, plan.folder) is not None


def test_a_recipe_says_what_a_data_set_named_by_the_user_was_made_with(storage: Storage, ray_cluster: None) -> None:
    made = DatasetConfig(source="digits", name="small", size=(6, 5), binarize="dynamic", seed=3)
    dataset = prepare(made, storage)
    config = config_of(dataset)
    assert (config.size, config.binarize, config.seed) == ((6, 5), "dynamic", 3)
    found = find_prepared(config, storage)
    assert found is not None and found.folder == dataset.folder
    assert tiny_recipe(dataset=config) == type(tiny_recipe()).from_dict(tiny_recipe(dataset=config).to_dict())


def test_a_data_set_is_told_through_the_callers_own_voice(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Exception):
        pass

    def prepared(config: DatasetConfig, storage: Storage, say: Any = print) -> None:
        say("data set digits")
        raise Told

    monkeypatch.setattr(module, "prepare", prepared)
    monkeypatch.setattr(module, "runs_at_once", lambda *_, wanted: 1)
    monkeypatch.setattr(module, "say_what_it_waits_for", lambda *_: None)
    monkeypatch.setattr(module, "cluster_nodes", lambda *_: [])
    monkeypatch.setattr(module.Preflight, "check", lambda _: {"1": None})
    monkeypatch.setattr(module, "Tracker", lambda storage: type("Fake", (), {"check": lambda self: None, "uri": "", "storage": storage})())
    monkeypatch.setattr(module.ray_cluster, "connect", lambda: None)
    lines: list[str] = []
    with pytest.raises(Told):
        module.train_all(TrainAll(storage=storage.root), lines.append)
    assert lines == ["data set digits"]


def test_a_result_whose_mlflow_run_is_lost_still_stands() -> None:
    class Lost:
        @property
        def client(self) -> Any:
            raise ConnectionError

    close_run(Lost(), "run")  # type: ignore[arg-type]


def test_dataclass_of_counts_says_nothing_of_what_did_not_happen() -> None:
    assert dataclasses.replace(Outcome("", ""), failed={"a": "b"}).counts() == "1 failed"
