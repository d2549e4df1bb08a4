"""An MLflow server that goes away in the middle of a training costs nothing but patience: it has everything in the end, and once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixelmodels.errors import UserError
from pixelmodels.evaluation.nats import TEST_NATS
from pixelmodels.models.files import AVERAGE
from pixelmodels.runs import checkpoints
from pixelmodels.runs.result import finished
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.training import outbox
from pixelmodels.training.finish import lacks
from pixelmodels.training.loop import train
from pixelmodels.training.one_run import catch_up
from pixelmodels.training.options import TrainAll
from pixelmodels.training.outbox import UNSENT, Epoch, Outbox, attempt
from pixelmodels.training.plan import RunPlan
from tests.training.mlflow_server import Server
from tests.training.tiny_run import Stop, tiny_plan, tiny_recipe

EPOCHS, STEPS = 4, 5  # steps of an epoch
OPTIONS = TrainAll()

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setattr(outbox, "RETRY_S", 0.0)  # it is asked at the end of every epoch
    monkeypatch.setattr(outbox, "_RETRY_SHARE", float("inf"))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def tracked(storage: Storage, name: str) -> RunPlan:
    """A plan whose MLflow run has begun."""
    recipe = tiny_recipe(name=name, epochs=EPOCHS, num_samples=4, condition_on=())
    tracker = Tracker(storage, experiment=name)
    plan = tiny_plan(storage, recipe, tracker=tracker, registered_name=name)
    run_id = tracker.start_or_resume_child(name, parent_run_id=None, run_key=plan.run_key, params=recipe.to_dict())
    return dataclasses.replace(plan, mlflow_run_id=run_id)


def at(**calls: Callable[[], object]) -> Callable[[int], None]:
    """A hook that makes calls after steps: `at(after_6=server.stop)`."""
    steps = {int(name.removeprefix("after_")): call for name, call in calls.items()}

    def hook(step: int) -> None:
        if step in steps:
            steps[step]()

    return hook


def stop_training() -> None:
    raise Stop


def assert_all_there(plan: RunPlan) -> None:
    """That MLflow has every epoch once, its pictures, the test and the model, and that nothing waits."""
    tracker, result = Tracker(plan.storage, experiment=plan.recipe.name), finished(plan.storage, plan.folder)
    assert result is not None and result.model_version == "1" and result.mlflow_run_id is not None
    assert not lacks(plan, result) and plan.storage.list(f"{plan.folder}/{UNSENT}") == []
    client = tracker.client
    run = client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/bits_per_dim"] == pytest.approx(result.test_bits_per_dim)
    state = checkpoints.load(plan.storage, plan.folder, EPOCHS * STEPS).json(checkpoints.STATE)
    history = client.get_metric_history(result.mlflow_run_id, "val/bits_per_dim")
    assert [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)] == list(
        enumerate(state["position"]["val_bits_per_dim"], 1)
    )
    assert sorted(history, key=lambda point: point.timestamp) == sorted(history, key=lambda point: point.step)
    pictures = [entry.path for entry in client.list_artifacts(result.mlflow_run_id, "images") if entry.path.endswith(".png")]
    assert len(pictures) == EPOCHS
    model = registry.model_folder(tracker, f"models:/{plan.recipe.name}/1")
    best = checkpoints.load(plan.storage, plan.folder, result.best_step)
    assert (model / "model.safetensors").is_file() and best.tensors(AVERAGE)


@pytest.mark.faults
def test_a_server_that_comes_back_gets_what_it_missed(
    server: Server, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan, lines = tracked(storage, "back"), list[str]()
    train(plan, say=lines.append, after_step=at(after_6=server.stop, after_17=server.start))
    assert sum("MLflow cannot be told" in line for line in lines) == 1
    assert sum("MLflow can be told again, and has all 4 epochs" in line for line in lines) == 1
    assert_all_there(plan)


@pytest.mark.faults
def test_a_run_that_is_killed_while_the_server_is_away_tells_it_when_both_are_back(
    server: Server, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = tracked(storage, "killed")
    with pytest.raises(Stop):
        train(plan, say=lambda _: None, after_step=at(after_6=server.stop, after_17=stop_training))
    assert [name for name in storage.list(f"{plan.folder}/{UNSENT}") if name.endswith("json")] == ["000002.json", "000003.json"]
    server.start()
    train(plan, say=lambda _: None)
    assert_all_there(plan)


@pytest.mark.faults
def test_a_server_that_stays_away_is_told_by_the_next_call(
    server: Server, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan, lines = tracked(storage, "away"), list[str]()
    result = train(plan, say=lines.append, after_step=at(after_6=server.stop))
    assert result.model_version is None and finished(storage, plan.folder) == result and lacks(plan, result)
    assert sum("MLflow" in line for line in lines) == 1
    again, why = catch_up(plan, result, OPTIONS, "")
    assert again == result and why is not None and "\n" not in why
    server.start()
    again, why = catch_up(plan, result, OPTIONS, "")
    assert why is None and again == dataclasses.replace(result, model_version="1")
    assert_all_there(plan)
    assert catch_up(plan, again, OPTIONS, "") == (again, None)


def test_a_run_without_an_mlflow_run_keeps_every_epoch(storage: Storage) -> None:
    """As one does that began while the server was away; nobody listens at its tracker's address."""
    plan = tiny_plan(storage, tiny_recipe(num_samples=2), tracker=Tracker(storage), registered_name="tiny")
    result = train(plan, say=lambda _: None)
    assert result.model_version is None and result.mlflow_run_id is None and lacks(plan, result)
    names = storage.list(f"{plan.folder}/{UNSENT}")
    assert names == [f"{epoch:06d}.{ending}" for epoch in (1, 2, 3) for ending in ("json", "png")]


@pytest.mark.parametrize("what", ["model.safetensors", "test_nats.parquet"])
def test_damaged_files_of_a_finished_run_are_no_fault_of_mlflow(what: str, storage: Storage) -> None:
    plan = tiny_plan(storage, tracker=Tracker(storage), registered_name="tiny")
    result = train(plan, say=lambda _: None)
    found = list(Path(storage.root, plan.folder).rglob(what))
    assert found
    for path in found:
        if what == TEST_NATS:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"what it trained cannot be read .*--fresh trains it anew"):
        catch_up(plan, result, OPTIONS, "")


def test_an_epoch_that_is_done_again_waits_once(storage: Storage) -> None:
    plan = tiny_plan(storage, tracker=Tracker(storage))
    waiting = Outbox(plan)
    for bits in (2.0, 1.0):
        waiting.tell(Epoch(3, 17, {"val/bits_per_dim": bits}))
    waiting.tell(Epoch(1, 5, {"val/bits_per_dim": 3.0}))
    assert waiting.num_waiting == Outbox(plan).num_waiting == 2
    assert [Outbox(plan)._read(name).metrics["val/bits_per_dim"] for name in ("000001", "000003")] == [3.0, 1.0]


@pytest.mark.parametrize("error", [OSError("disk full\nat /x"), KeyError("a"), ValueError()])
def test_whatever_mlflow_raises_is_one_line(error: Exception, storage: Storage) -> None:
    def call() -> None:
        raise error

    said = attempt(Tracker(storage), call)
    assert said and "\n" not in said
    assert attempt(Tracker(storage), lambda: None) is None
