from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from sklearn.datasets import load_digits

from pixelmodels.data import SPLITS, DatasetConfig, find_dataset, prepare
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
ROWS_PER_SHARD = 30  # 60 shards: the run is killed when the first is there


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.faults
def test_a_run_killed_half_way_leaves_nothing_that_looks_whole(storage: Storage) -> None:
    command = [sys.executable, "pipelines/prepare_data.py", "--storage", storage.root, "--rows-per-shard", str(ROWS_PER_SHARD)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    datasets, deadline = Path(storage.uri("datasets")), time.monotonic() + 120
    try:
        while not list(datasets.glob("*/*.parquet")):
            assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=10)[0]
            time.sleep(0.002)
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    (folder,) = datasets.iterdir()
    assert not (folder / "manifest.json").exists()
    assert len(list(folder.glob("*.parquet"))) < 1797 / ROWS_PER_SHARD
    with pytest.raises(UserError, match="data set 'digits' unknown; have none"):
        find_dataset(storage, "digits")

    (folder / "train-99999.parquet").write_bytes(b"left by another run")
    dataset = prepare(DatasetConfig(rows_per_shard=ROWS_PER_SHARD), storage)
    assert storage.uri(dataset.folder) == str(folder)
    shards = {shard["file"] for split in SPLITS for shard in dataset.shards(split)}
    # A worker may have been in the middle of a write: `.tmp-...`, which no reader takes for a shard.
    assert {file.name for file in folder.iterdir() if not file.name.startswith(".tmp-")} == shards | {"manifest.json", "rejected.parquet"}
    keys = []
    for split in SPLITS:
        part = dataset.read(split)
        np.testing.assert_array_equal(part.images_NCHW[:, 0], load_digits().images[[int(key[6:]) for key in part.keys]])
        keys += part.keys
    assert len(set(keys)) == len(keys) == 1797
