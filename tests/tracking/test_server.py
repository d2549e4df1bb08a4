"""The same runs and models through a real MLflow server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines import promote as pipeline
from pixelmodels.data import Dataset
from pixelmodels.errors import UserError
from pixelmodels.models.files import load_model
from pixelmodels.promotion import lock as promotion_lock
from pixelmodels.promotion.candidates import recorded_nats
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.location import sqlite_path
from pixelmodels.tracking.versions import version_of
from tests.promotion.case import registered, state_of, trained, write_dataset
from tests.tracking.conftest import model_files

START_S = 100.0  # it takes about 8 s on a quiet machine


@pytest.fixture
def server(tracker: Tracker, tmp_path: Path) -> Iterator[str]:
    """Address of a server with an own database, a copy of one whose tables are made; it keeps all artifacts itself."""
    made = sqlite_path(tracker.uri)
    assert made is not None
    shutil.copy(made, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "artifacts")]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments, *stores],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,  # it has processes of its own, which end with it
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        give_up_at = time.monotonic() + START_S
        while not answers(f"{uri}/health"):
            assert process.poll() is None and time.monotonic() < give_up_at, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_runs_and_models_through_a_server(server: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, folder = model_files(tmp_path / "model")
    run_ids = []
    for root in ("first", "second", "first"):  # storage roots of two users, and a training that goes on
        there = Tracker(Storage(str(tmp_path / root)), experiment="served")
        there.check()
        parent = there.start_parent("call", {"suite": "digits"})
        run_id = there.start_or_resume_child("m", parent_run_id=parent, run_key="same", params={"seed": 0}, dataset=dataset)
        there.log_metrics(run_id, {"val/bits_per_dim": 2.0}, 1)
        run_ids.append(run_id)
    assert run_ids[0] == run_ids[2] != run_ids[1]
    run = there.client.get_run(run_id)
    assert run.data.params == {"seed": "0"} and len(run.inputs.dataset_inputs) == 1
    assert [point.step for point in there.client.get_metric_history(run_id, "val/bits_per_dim")] == [1]
    version = registry.register(there, run_id, folder, "served")
    assert (version, registry.register(there, run_id, folder, "served")) == ("1", "1")
    local = registry.model_folder(there, "models:/served/1")
    assert local.is_relative_to(tmp_path / "cache")
    again = load_model(local).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


def test_promotion_and_rollback_through_a_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(promotion_lock, "SETTLE_S", 1.0)
    there = Tracker(Storage(str(tmp_path / "root")), experiment="promoted")
    data = write_dataset(there.storage, "222222222222")
    poor, good = (registered(there, data, "served", trained(data, steps), name) for name, steps in (("poor", 12), ("good", 60)))
    arguments = ["--name", "served", "--storage", there.storage.root, "--resamples", "400"]
    aliases = []
    for command in (["--version", poor], ["--best"], ["--version", poor], ["--rollback"]):
        refused = command == ["--version", poor] and len(aliases) == 2
        assert pipeline.main([*command, *arguments]) == (1 if refused else 0)
        aliases.append(state_of(there, "served")["aliases"])
    assert aliases == [
        {"champion": poor},
        {"champion": good, "previous": poor},
        {"champion": good, "previous": poor, "challenger": poor},
        {"champion": poor, "previous": good},
    ]
    state = state_of(there, "served")
    assert [state["versions"][one]["promotion.decision"] for one in (poor, good)] == ["promoted", "rolled back"]
    assert state["tags"]["promotion.lease"] == "" and "promotion.unfinished" not in state["tags"]
    assert f"version {poor} rolled back against version {good}" in state["tags"]["promotion.last"]
    run = there.client.get_run(state["versions"][good]["promotion.run_id"])
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "rolled back")
    # Files that are gone from the server are told.
    version = version_of(there, "served", good)
    assert len(recorded_nats(there, version).keys) == 48
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(UserError, match=f"the files of 'models:/served/{good}' are gone from 'mlflow-artifacts:"):
        registry.model_folder(there, f"models:/served/{good}")
    with pytest.raises(UserError, match=r"test_nats.parquet of run .* is gone from 'mlflow-artifacts:"):
        recorded_nats(there, version)
