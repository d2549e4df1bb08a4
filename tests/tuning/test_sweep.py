"""A whole sweep on a real Ray: killed and called again, each trial counts once; a diverging one fails alone; the best is a file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import ray
import yaml

from pipelines import train_all
from pixelmodels.recipes.files import read_recipe
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import KIND_TAG, PARENT_TAG
from pixelmodels.tuning.record import Records, TrialRecord
from pixelmodels.tuning.report import BEST, IMPORTANCES, PARALLEL_COORDINATES, SUMMARY
from tests.tuning import small_sweep

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, TRIALS, NAME = 3, 3, "tiny"
PATIENCE_S = 390  # for one step of a sweep on a loaded machine: below pytest's own limit for one test
COMMAND = [
    "--space",
    "small",
    "--suite",
    "small",
    "--name",
    NAME,
    "--num-samples",
    str(TRIALS),
    "--epochs",
    str(EPOCHS),
    "--no-asha",
    "--max-concurrent",
    "2",
]


def records_of(storage: Storage) -> Records:
    return Records(storage, NAME)


class Begun(NamedTuple):
    """A sweep in a process of its own."""

    storage: Storage
    process: subprocess.Popen[str]
    log: Path  # what it prints

    def wait_for(self, what: Callable[[TrialRecord], bool]) -> list[TrialRecord]:
        """The trials on record, once one is as asked for; raises `AssertionError` where the process ends before, or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(what(trial) for trial in records_of(self.storage).trials()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return records_of(self.storage).trials()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """A sweep that begins."""
    folder = tmp_path_factory.mktemp("swept")
    command = [sys.executable, str(ROOT / "tests" / "tuning" / "small_sweep.py"), *COMMAND, "--storage", str(folder / "storage")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment)
    yield Begun(Storage(str(folder / "storage")), process, folder / "log")
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def killed(begun: Begun) -> tuple[Storage, set[int]]:
    """The storage of a sweep whose driver was killed when some trials had ended, and which these were."""
    begun.wait_for(lambda trial: trial.has_ended)  # the second one, which diverges
    begun.wait_for(lambda trial: 0 < len(trial.curve) < EPOCHS and not trial.has_ended)
    begun.process.kill()  # SIGKILL
    assert begun.process.wait() == -signal.SIGKILL
    return begun.storage, {trial.number for trial in records_of(begun.storage).trials() if trial.has_ended}


@pytest.fixture(scope="module")
def half_way(killed: tuple[Storage, set[int]]) -> dict[int, dict[int, float]]:
    """Curves of the trials that were in the middle of training, by number."""
    return {trial.number: trial.curve for trial in records_of(killed[0]).trials() if trial.curve and not trial.has_ended}


@pytest.fixture(scope="module", params=["undisturbed", pytest.param("killed", marks=pytest.mark.faults)])
def swept(request: pytest.FixtureRequest, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, str, set[int]]:
    """The storage of a sweep, what it printed, and which trials had ended before.

    Of one whose driver was killed: after it was called again, and what the second call printed.
    """
    if request.param == "killed":
        request.getfixturevalue("half_way")  # as it was before
        storage, before = request.getfixturevalue("killed")
    else:
        storage, before = Storage(str(tmp_path_factory.mktemp("swept") / "storage")), set()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert small_sweep.main([*COMMAND, "--storage", storage.root]) == 0
    return storage, printed.getvalue(), before


ONCE = pytest.mark.parametrize("swept", ["undisturbed"], indirect=True)


# The first tests each wait for one step of the sweep, so that none of them takes as long as all do on a loaded machine.
@pytest.mark.faults
def test_a_trial_is_written_down_before_it_begins(begun: Begun) -> None:
    first = begun.wait_for(lambda trial: True)[0]
    assert first.is_default and first.number == 0 and first.values == {"kind": "fine"}


@pytest.mark.faults
def test_a_killed_driver_leaves_some_trials_to_do(killed: tuple[Storage, set[int]]) -> None:
    _, before = killed
    assert 0 < len(before) < TRIALS


@pytest.mark.faults
@pytest.mark.parametrize("swept", ["killed"], indirect=True)
def test_a_trial_that_was_not_finished_goes_on_from_its_last_epoch(
    half_way: dict[int, dict[int, float]], swept: tuple[Storage, str, set[int]]
) -> None:
    storage, printed, _ = swept
    assert half_way
    for number, curve in half_way.items():
        assert f"trial {number} (pixelcnn) goes on" in printed
        assert not any(f"trial {number} (pixelcnn): epoch {epoch}/" in printed for epoch in curve), "what was known is told again"
        assert curve.items() <= records_of(storage).trial(number).curve.items()


def test_every_trial_counts_once(swept: tuple[Storage, str, set[int]]) -> None:
    storage, printed, before = swept
    trials = records_of(storage).trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.values["kind"] for trial in trials} == set(small_sweep.KINDS)
    for number in before:
        assert f"trial {number} (pixelcnn) begins" not in printed and f"trial {number} (pixelcnn) goes on" not in printed
    for trial in trials:
        broken = trial.values["kind"] == "broken"
        assert trial.state == ("failed" if broken else "finished")
        assert broken or list(trial.curve) == list(range(1, EPOCHS + 1))
    assert trials[0].is_default and trials[0].values == {"kind": "fine"}
    assert not storage.list(f"{records_of(storage).folder}/runs") or not any(
        storage.exists(f"{records_of(storage).folder}/runs/{run}/checkpoints") for run in storage.list(f"{records_of(storage).folder}/runs")
    )


def test_mlflow_has_one_parent_and_each_trial_once(swept: tuple[Storage, str, set[int]]) -> None:
    storage, _, _ = swept
    tracker, head = Tracker(storage), records_of(storage).head()
    assert head is not None
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=100)
    parents = [run for run in runs if run.data.tags[KIND_TAG] == "call"]
    children = [run for run in runs if run.data.tags[KIND_TAG] == "trial"]
    assert [run.info.run_id for run in parents] == [head.mlflow_run_id] and parents[0].info.status == "FINISHED"
    assert len(children) == TRIALS and {run.data.tags[PARENT_TAG] for run in children} == {head.mlflow_run_id}
    trials = {trial.mlflow_run_id: trial for trial in records_of(storage).trials()}
    for run in children:
        trial = trials[run.info.run_id]
        assert run.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
        assert run.data.params["model.config.num_layers"] == str(trial.recipe["model"]["config"]["num_layers"])
        if trial.curve:
            history = tracker.client.get_metric_history(run.info.run_id, "val/bits_per_dim")
            assert {point.step: point.value for point in history} == pytest.approx(trial.curve)
            assert len(history) == len(trial.curve)
    artifacts = {entry.path for entry in tracker.client.list_artifacts(head.mlflow_run_id)}
    assert {BEST, SUMMARY, IMPORTANCES, PARALLEL_COORDINATES} <= artifacts


def test_a_diverging_trial_is_a_failed_trial(swept: tuple[Storage, str, set[int]]) -> None:
    storage, printed, _ = swept
    (broken,) = [trial for trial in records_of(storage).trials() if trial.state == "failed"]
    assert broken.reason is not None and "likelihood is nan" in broken.reason
    assert "2 finished, 1 failed in" in printed


@ONCE
def test_the_best_recipe_is_a_file_that_train_all_trains(swept: tuple[Storage, str, set[int]], capsys: pytest.CaptureFixture[str]) -> None:
    storage, printed, _ = swept
    best_file = printed.strip().splitlines()[-1]
    assert best_file == storage.uri(f"sweeps/{NAME}/{BEST}") and Path(best_file).is_file()
    summary = json.loads(storage.read_bytes(f"sweeps/{NAME}/{SUMMARY}"))
    trials = records_of(storage).trials()
    scores = [trial.best_bits_per_dim for trial in trials if trial.best_bits_per_dim is not None]
    assert summary["best_bits_per_dim"] == min(scores) <= summary["default_bits_per_dim"] == trials[0].best_bits_per_dim
    assert summary["epochs_spent"] == summary["epochs_without_asha"] == 2 * EPOCHS
    recipe = read_recipe(best_file, storage)
    best = next(trial for trial in trials if trial.number == summary["best"]["number"])
    assert recipe.to_dict()["model"] == best.recipe["model"] and recipe.epochs == 3  # the suite's own
    assert read_recipe(f"sweeps/{NAME}/{BEST}", storage) == recipe
    assert train_all.main(["--recipe-file", best_file, "--epochs", "1", "--storage", storage.root]) == 0
    shown = capsys.readouterr().out
    assert "1 trained in" in shown and recipe.name in shown
    (version,) = Tracker(storage).client.search_model_versions("name='digits'")
    assert version.tags["recipe"] == recipe.name


@ONCE
def test_the_same_command_on_a_finished_sweep_only_shows_it(
    swept: tuple[Storage, str, set[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _, _ = swept
    before = yaml.safe_load(storage.read_bytes(f"sweeps/{NAME}/{BEST}"))
    assert small_sweep.main([*COMMAND, "--storage", storage.root]) == 0
    printed = capsys.readouterr().out
    assert f"all {TRIALS} trials have ended" in printed and "begins" not in printed
    assert yaml.safe_load(storage.read_bytes(f"sweeps/{NAME}/{BEST}")) == before
    tracker = Tracker(storage)
    assert sum(run.data.tags[KIND_TAG] == "trial" for run in tracker.client.search_runs([tracker.experiment_id])) == TRIALS


@ONCE
def test_an_mlflow_run_that_was_removed_is_made_again_from_the_record(swept: tuple[Storage, str, set[int]]) -> None:
    storage, _, _ = swept
    tracker, trial = Tracker(storage), records_of(storage).trial(0)
    assert trial.mlflow_run_id is not None
    tracker.client.delete_run(trial.mlflow_run_id)
    assert small_sweep.main([*COMMAND, "--storage", storage.root]) == 0
    again = records_of(storage).trial(0).mlflow_run_id
    assert again is not None and again != trial.mlflow_run_id
    history = tracker.client.get_metric_history(again, "val/bits_per_dim")
    assert {point.step: point.value for point in history} == pytest.approx(trial.curve) and len(history) == len(trial.curve)
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert sum(run.data.tags[KIND_TAG] == "trial" for run in runs) == TRIALS
    assert tracker.client.get_run(again).info.status == "FINISHED"


def test_a_trial_that_asha_stops_gives_back_all_that_it_had(
    ray_cluster: None, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray Train keeps a stopped run's CPUs reserved where its process is killed: the next trials would wait for ever."""
    options = [
        "--suite",
        "small",
        "--num-samples",
        "2",
        "--epochs",
        "3",
        "--grace-epochs",
        "1",
        "--max-concurrent",
        "1",
        "--num-workers",
        "2",
    ]
    before = free_cpus()
    assert small_sweep.main(["--space", "idle", *options, "--name", NAME, "--storage", storage.root]) == 0
    default, idle = records_of(storage).trials()
    assert (default.state, list(default.curve)) == ("finished", [1, 2, 3])
    assert (idle.values, idle.state, list(idle.curve)) == ({"learns": False}, "stopped", [1])
    assert "trial 1 (pixelcnn) stopped after 1 of 3 epochs" in capsys.readouterr().out
    deadline = time.monotonic() + PATIENCE_S
    while free_cpus() < before or watchmen():  # Ray tells of them with some delay
        assert time.monotonic() < deadline, (free_cpus(), watchmen())
        time.sleep(0.1)


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def watchmen() -> int:
    """Actors of Ray Train's that wait for the end of a run; they outlive whoever started them."""
    actors = ray._private.state.actors().values()
    return sum(actor["ActorClassName"] == "PlacementGroupCleaner" and actor["State"] != "DEAD" for actor in actors)
