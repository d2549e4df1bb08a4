"""Training on a bucket of a real S3 server ends at the very numbers of training on a local folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import servers
from cluster.hosts import ROOT
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels.data import find_dataset
from pixelmodels.runs.result import RUNS, RunResult, finished
from pixelmodels.storage import Storage

pytestmark = pytest.mark.faults  # a server and two Rays of their own

MODELS = ("pixelcnn", "gated_pixelcnn")


def train(storage: str, folder: Path, variables: dict[str, str]) -> None:
    """`make train ARGS="--only ... --epochs 1"` in a folder of its own."""
    folder.mkdir()
    command = [sys.executable, str(ROOT / "pipelines" / "train_all.py"), "--only", *MODELS, "--epochs", "1", "--storage", storage]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def results(storage: Storage) -> dict[str, RunResult]:
    """What came of each run, by its folder."""
    found = {name: finished(storage, f"{RUNS}/{name}") for name in storage.list(RUNS)}
    return {name: result for name, result in found.items() if result is not None}


def test_training_on_a_bucket_ends_as_training_on_a_folder_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = servers.lacks_bucket()
    if reason is not None:
        pytest.skip(f"no S3 server: {reason}")
    with LocalCluster(LocalClusterOptions(workers=0, s3=True, loopback=True), with_ray=False) as cluster:
        assert cluster.bucket is not None
        for name, value in cluster.bucket.variables.items():
            monkeypatch.setenv(name, value)
        bucket, folder = Storage(f"{cluster.bucket.storage}/root"), Storage(str(tmp_path / "root"))
        train(bucket.root, tmp_path / "of_bucket", cluster.bucket.variables)
        train(folder.root, tmp_path / "of_folder", {})
        theirs, ours = results(bucket), results(folder)
        assert len(ours) == len(MODELS) and set(theirs) == set(ours)
        for name, result in ours.items():
            assert theirs[name].test_bits_per_dim == result.test_bits_per_dim, name
            assert theirs[name].test_nll_nats == result.test_nll_nats, name
            assert theirs[name].val_bits_per_dim == result.val_bits_per_dim, name
        of_bucket, of_folder = (find_dataset(storage, "digits").manifest["splits"] for storage in (bucket, folder))
        assert of_bucket == of_folder  # with the sha256 of each shard
