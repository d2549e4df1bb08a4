from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pixelmodels.data import Dataset
from pixelmodels.tracking import Tracker, runs, source
from pixelmodels.tracking.runs import flatten


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


def test_many_and_long_params(tracker: Tracker) -> None:
    run_id = tracker.start_or_resume_child(
        "p", parent_run_id=None, run_key="params", params={**{f"p{i}": i for i in range(250)}, "long": "x" * 9999}
    )
    params = tracker.client.get_run(run_id).data.params
    assert len(params) == 251 and params["p249"] == "249" and len(params["long"]) == 6000


def test_pictures_texts_and_files(tracker: Tracker, tmp_path: Path) -> None:
    run_id = child(tracker, None, "files")
    for step in (0, 7):
        tracker.log_image(run_id, np.full((5, 4, 3), step, np.uint8), "samples", step)
    names = [Path(file.path).name for file in tracker.client.list_artifacts(run_id, "images")]
    assert len([name for name in names if name.startswith("samples") and "step+7" in name.replace("%", "+") and name.endswith(".png")]) == 1
    tracker.log_text(run_id, "hello", "notes/hello.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tracker.log_artifact(run_id, tmp_path / "folder", "copied")
    tracker.log_artifact(run_id, tmp_path / "folder" / "a.txt")
    root = Path(tracker.client.get_run(run_id).info.artifact_uri)
    assert root.is_relative_to(tracker.storage.root)
    assert (root / "notes/hello.txt").read_text() == "hello"
    assert (root / "copied/a.txt").read_text() == (root / "a.txt").read_text() == "a"


def test_calls_that_were_killed_are_closed_with_their_models(tracker: Tracker) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    killed, alive = tracker.start_parent("killed", {}), tracker.start_parent("alive", {})
    unfinished, done = child(tracker, killed, "unfinished"), child(tracker, killed, "done")
    tracker.finish(done)
    tracker.set_tags(killed, {source.PROCESS_TAG: str(process.pid)})
    tracker.start_parent("next", {})
    status = {run_id: tracker.client.get_run(run_id).info.status for run_id in (killed, unfinished, done, alive)}
    assert status == {killed: "KILLED", unfinished: "KILLED", done: "FINISHED", alive: "RUNNING"}
    assert child(tracker, alive, "unfinished") == unfinished


def test_a_deleted_experiment_comes_back(tracker: Tracker) -> None:
    other = Tracker(tracker.storage, "deleted")
    other.check()
    tracker.client.delete_experiment(other.experiment_id)
    again = Tracker(tracker.storage, "deleted")
    again.check()
    assert again.start_parent("x", {}) and again.experiment_id == other.experiment_id


def test_flatten() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}}, "d": [1, "x"], "e": None})) == {"a.b.c": "1", "d": '[1, "x"]', "e": "None"}


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:////tmp/x.db"])
def test_run_page(uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    other = Tracker(tracker.storage)
    other._experiment_id = "3"
    page = other.run_page("abc")
    assert page == ("http://127.0.0.1:5000/#/experiments/3/runs/abc" if uri.startswith("http") else None)
