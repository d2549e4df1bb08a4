"""A training on hosts of their own that are killed, cut off and brought back: it ends as if nothing had happened."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.faults import DOING, EPOCHS, OTHER_EPOCHS, Job, make_whole, measure, told_by_mlflow, training_workers
from cluster.local_cluster import LocalCluster
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker

EPOCHS_TO_GROW = 60  # a group trains for half a minute before it makes way for a larger one


@pytest.fixture(scope="module")
def undisturbed(cluster: LocalCluster) -> float:
    """Nats of the test images after a run that nothing happens to, on two hosts."""
    job = Job(cluster, "undisturbed")
    job.submit()
    job.wait_for_epoch(1)
    assert len({host.name for host, _ in training_workers(cluster)}) == 2
    result = job.end()
    assert result.num_workers == 2 and told_by_mlflow(job) == {"lost": 0, "doubled": 0, "open": 0}
    return result.test_nll_nats


@pytest.mark.faults
def test_a_run_shrinks_when_a_host_dies_and_grows_when_it_is_back(cluster: LocalCluster) -> None:
    """Three hosts with room for two workers beside Ray Data; with one host less there is room for one."""
    job = Job(cluster, "elastic", num_workers="1..2", epochs=EPOCHS_TO_GROW)
    job.submit()
    job.wait_for_epoch(3)
    (host, *_) = [host for host, _ in training_workers(cluster) if host is not cluster.head]
    since, newest = job.seen(), job.newest()
    host.kill()
    at, _, shrunk = job.wait_for(re.compile(r"shrinks from 2 to 1 worker\(s\) at step (\d+)"), since)
    assert int(shrunk[1]) >= newest
    at, _ = job.wait_for_epoch(1, at)
    host.bring_back()
    at, _, grown = job.wait_for(re.compile(r"grows from 1 to 2 worker\(s\) at step (\d+)"), at)
    _, _, going_on = job.wait_for(re.compile(r"going on from step (\d+)"), at)
    assert going_on[1] == grown[1]  # no step is repeated
    result = job.end()
    assert result.num_workers == 2 and result.epochs == EPOCHS_TO_GROW
    assert told_by_mlflow(job) == {"lost": 0, "doubled": 0, "open": 0}
    steady = Job(cluster, "steady", epochs=EPOCHS_TO_GROW)
    steady.submit()
    assert abs(steady.end().test_bits_per_dim - result.test_bits_per_dim) <= 0.005


@pytest.mark.faults
@pytest.mark.parametrize("fault", DOING)
def test_a_run_ends_as_one_without_a_fault(fault: str, cluster: LocalCluster, undisturbed: float) -> None:
    make_whole(cluster)
    found = measure(Job(cluster, fault.replace("_", "-"), epochs=EPOCHS.get(fault, OTHER_EPOCHS)), fault)
    assert found["num_workers"] == 2 and (found["test_nll_nats"] == undisturbed or fault in EPOCHS)
    assert (found["repeated"], found["lost"], found["doubled"], found["open"]) == (0, 0, 0, 0)


@pytest.mark.faults
def test_no_secret_is_left_behind(cluster: LocalCluster, undisturbed: float) -> None:
    """After a training on all of its nodes, and one whose MLflow login stands in the address: in logs, bucket, and what MLflow has."""
    assert cluster.bucket is not None and cluster.mlflow is not None
    user, password = (cluster.variables[f"MLFLOW_TRACKING_{name}"] for name in ("USERNAME", "PASSWORD"))
    uri = cluster.mlflow.uri.replace("://", f"://{user}:{password}@")
    there = {"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}", "MLFLOW_TRACKING_URI": uri}
    only = ["env", "-u", "MLFLOW_TRACKING_USERNAME", "-u", "MLFLOW_TRACKING_PASSWORD"]
    done = cluster.head.run([*only, sys.executable, *Job(cluster, "login", epochs=1).command[1:]], variables=there, timeout_s=300.0)
    (cluster.head.folder / "login.log").write_text(done.stdout + done.stderr)
    names = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")
    secrets = {name: cluster.variables[name].encode() for name in names}
    secrets["token"] = Path(cluster.variables["RAY_AUTH_TOKEN_PATH"]).read_bytes().strip()
    assert all(len(secret) > 8 for secret in secrets.values())

    def found_in(content: bytes) -> set[str]:
        return {name for name, secret in secrets.items() if secret in content}

    looked_at = 0
    for host in (cluster.head, *cluster.workers):
        for path in host.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert not found_in(path.read_bytes()), path
                looked_at += 1
    assert looked_at > 50
    artifacts = cluster.host_of(cluster.mlflow).folder / "artifacts"
    kept = [path for path in artifacts.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        assert not found_in(path.read_bytes()), path
    root = Storage(cluster.bucket.storage)
    entries = list(root.files())
    assert any(entry.path.endswith("result.json") for entry in entries)
    for entry in entries:
        assert not found_in(root.read_bytes(entry.path)), entry.path
    client = Tracker(root).client
    experiments = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id for experiment in experiments])
    assert runs
    for told in (*experiments, *runs, *client.search_registered_models(), *client.search_model_versions()):
        assert not found_in(repr(dict(told) if not hasattr(told, "to_dictionary") else told.to_dictionary()).encode())
