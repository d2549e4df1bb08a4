from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pixelmodels.data import Dataset
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, runs, source
from pixelmodels.tracking.entities import flatten


def child(tracker: Tracker, parent: str | None, key: str, **more: object) -> str:
    return tracker.start_or_resume_child("gated_pixelcnn", parent_run_id=parent, run_key=key, params={}, **more)  # type: ignore[arg-type]


def test_a_run_tells_what_it_is(tracker: Tracker, dataset: Dataset) -> None:
    parent = tracker.start_parent("train_all digits", {"suite": "digits", "only": ["a", "b"]}, {"suite": "digits"})
    recipe = {"optimizer": {"learning_rate": 0.001, "betas": (0.9, 0.99)}, "patience": None}
    run_id = tracker.start_or_resume_child(
        "pixelcnn", parent_run_id=parent, run_key="a1", params=recipe, tags={"suite": "digits"}, dataset=dataset
    )
    run, call = tracker.client.get_run(run_id), tracker.client.get_run(parent)
    assert (call.info.run_name, call.data.params) == ("train_all digits", {"suite": "digits", "only": '["a", "b"]'})
    assert (run.info.run_name, run.info.status) == ("pixelcnn", "RUNNING")
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["suite"] == "digits"
    assert run.data.tags["dataset_fingerprint"] == dataset.fingerprint
    assert run.data.params == {"optimizer.learning_rate": "0.001", "optimizer.betas": "[0.9, 0.99]", "patience": "None"}
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("tiny", "0123456789ab")
    assert json.loads(data.dataset.source) == {"uri": tracker.storage.uri(dataset.folder)}
    assert json.loads(data.dataset.profile)["train_images"] == 90
    tracker.finish(run_id)
    tracker.finish(parent, "FAILED")
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert tracker.client.get_run(parent).info.status == "FAILED"


def test_same_key_goes_on_in_the_same_run_until_it_is_finished(tracker: Tracker, dataset: Dataset) -> None:
    first_call, second_call = tracker.start_parent("one", {}), tracker.start_parent("two", {})
    run_id = child(tracker, first_call, "k1", dataset=dataset)
    tracker.log_metrics(run_id, {"val/bits_per_dim": 2.0}, 1)
    tracker.finish(run_id, "KILLED")
    other_process = pickle.loads(pickle.dumps(tracker))
    assert child(other_process, second_call, "k1", dataset=dataset) == run_id
    run = tracker.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.parentRunId"] == second_call
    assert run.data.tags[runs.RESUMED_TAG] == "1"
    assert len(run.inputs.dataset_inputs) == 1
    assert child(tracker, second_call, "k2") != run_id
    tracker.finish(run_id)
    finished_then_anew = child(tracker, second_call, "k1")
    assert finished_then_anew != run_id
    assert child(tracker, second_call, "k1", fresh=True) not in (run_id, finished_then_anew)


class Killed(BaseException):
    """Stands for a SIGKILL: no handler of the program's own runs."""


@pytest.mark.parametrize("killed_in", ["_log_params", "_log_dataset"])
def test_a_run_whose_maker_was_killed_gets_what_is_missing(
    killed_in: str, tracker: Tracker, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise Killed

    def start(params: dict[str, int]) -> str:
        return tracker.start_or_resume_child("m", parent_run_id=None, run_key=f"killed {killed_in}", params=params, dataset=dataset)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, killed_in, killed)
        with pytest.raises(Killed):
            start({"a": 1})
    run_id = start({"a": 1})
    assert start({"a": 2, "b": 3}) == run_id, "the key decides; a parameter beside it does not stop the training"
    run = tracker.client.get_run(run_id)
    assert run.data.tags[runs.RESUMED_TAG] == "2"
    assert run.data.params == {"a": "1", "b": "3"}
    assert [given.dataset.digest for given in run.inputs.dataset_inputs] == [dataset.fingerprint]
    assert run.data.tags["dataset_fingerprint"] == dataset.fingerprint


def test_storage_roots_that_share_a_tracking_address_keep_apart(tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)

    def start(folder: str) -> tuple[Tracker, str]:
        there = Tracker(Storage(str(tmp_path / folder)), experiment="shared")
        return there, child(there, None, "everybodys")

    first, run_of_first = start("first")
    second, run_of_second = start("second")
    assert run_of_second != run_of_first
    assert start("first")[1] == run_of_first and start("second")[1] == run_of_second
    for there, run_id in ((first, run_of_first), (second, run_of_second)):
        run = tracker.client.get_run(run_id)
        assert Path(run.info.artifact_uri).is_relative_to(there.storage.root)
        assert run.data.tags["pixelmodels.storage"] == there.storage.root
    names = [tracker.client.get_experiment(there.experiment_id).name for there in (first, second)]
    assert names[0] == "shared" and re.fullmatch("shared-[0-9a-f]{8}", names[1])
    # The same path on another machine, say: the root is another one.
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert start("first")[1] != run_of_first


def test_metrics_by_step(tracker: Tracker) -> None:
    run_id = child(tracker, None, "metrics")
    for step in range(3):
        tracker.log_metrics(run_id, {"val/bits_per_dim": 3.0 - step, "images_per_second": 100.0 * step}, step)
    history = tracker.client.get_metric_history(run_id, "val/bits_per_dim")
    assert [(point.step, point.value) for point in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    tracker.log_metrics(run_id, {f"m{index}": index for index in range(250)})
    assert len(tracker.client.get_run(run_id).data.metrics) == 252
    tracker.log_metrics(run_id, {"diverged": float("nan")})
    assert np.isnan(tracker.client.get_run(run_id).data.metrics["diverged"])


def test_steps_done_again_leave_no_point_twice(tracker: Tracker) -> None:
    run_id = child(tracker, None, "again")
    for step, value in ((1, 3.0), (2, 2.0)):
        tracker.log_metrics(run_id, {"val/bits_per_dim": value}, step)
    resumed = pickle.loads(pickle.dumps(tracker))
    for step, value in ((2, 2.0), (3, 1.5), (3, 1.25)):
        resumed.log_metrics(run_id, {"val/bits_per_dim": value, "other": 1.0}, step)
    history = tracker.client.get_metric_history(run_id, "val/bits_per_dim")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.5)]
    assert [point.step for point in tracker.client.get_metric_history(run_id, "other")] == [2, 3]


def test_many_and_long_params(tracker: Tracker) -> None:
    run_id = tracker.start_or_resume_child(
        "p", parent_run_id=None, run_key="params", params={**{f"p{i}": i for i in range(250)}, "long": "x" * 9999}
    )
    params = tracker.client.get_run(run_id).data.params
    assert len(params) == 251 and params["p249"] == "249" and len(params["long"]) == 6000


def test_pictures_and_files(tracker: Tracker, tmp_path: Path) -> None:
    run_id = child(tracker, None, "files")
    for step in (0, 7, 70, 7):  # a training that goes on draws the samples of an epoch again
        tracker.log_image(run_id, np.full((5, 4, 3), step, np.uint8), "samples", step)
    names = [Path(file.path).name for file in tracker.client.list_artifacts(run_id, "images")]
    assert sorted(re.findall(r"samples.step.(\d+).*?\.png", "\n".join(names))) == ["0", "7", "70"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tracker.log_artifact(run_id, tmp_path / "folder", "copied")
    tracker.log_artifact(run_id, tmp_path / "folder" / "a.txt")
    root = Path(tracker.client.get_run(run_id).info.artifact_uri)
    assert root.is_relative_to(tracker.storage.root)
    assert (root / "copied/a.txt").read_text() == (root / "a.txt").read_text() == "a"


def test_runs_whose_process_is_gone_are_closed(tracker: Tracker) -> None:
    program = "from pixelmodels.tracking.source import process_identity; print(process_identity())"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        gone = {source.IDENTITY_TAG: process.communicate()[0].strip()}
    alive = tracker.start_parent("alive", {})
    killed, interrupted = tracker.start_parent("killed", {}, gone), tracker.start_parent("interrupted", {}, gone)
    tracker.finish(interrupted, "KILLED")  # Ctrl-C: the call closes its own run, and nobody those of its models
    runs_of_models = {
        name: child(tracker, parent, name, tags=gone if is_gone else {})
        for name, parent, is_gone in (
            ("of killed", killed, True),
            ("of interrupted", interrupted, True),
            ("done", killed, True),
            ("of alive", alive, False),
        )
    }
    tracker.finish(runs_of_models["done"])
    tracker.start_parent("next", {})
    run_ids = {"alive": alive, "killed": killed, "interrupted": interrupted, **runs_of_models}
    assert {name: tracker.client.get_run(run_id).info.status for name, run_id in run_ids.items()} == {
        "alive": "RUNNING",
        "killed": "KILLED",
        "interrupted": "KILLED",
        "of killed": "KILLED",
        "of interrupted": "KILLED",
        "done": "FINISHED",
        "of alive": "RUNNING",
    }
    assert child(tracker, alive, "of killed") == runs_of_models["of killed"]
    tracker.start_parent("another", {})
    assert tracker.client.get_run(runs_of_models["of killed"]).info.status == "RUNNING", "now it is this process that works on it"


def test_a_deleted_experiment_comes_back(tracker: Tracker) -> None:
    other = Tracker(tracker.storage, "deleted")
    other.check()
    tracker.client.delete_experiment(other.experiment_id)
    again = Tracker(tracker.storage, "deleted")
    again.check()
    assert again.start_parent("x", {}) and again.experiment_id == other.experiment_id


def test_flatten() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}}, "d": [1, "x"], "e": None})) == {"a.b.c": "1", "d": '[1, "x"]', "e": "None"}
