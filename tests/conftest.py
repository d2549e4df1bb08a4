"""Fixtures that all tests share: one small Ray for the whole session, a storage root for each test, fixed seeds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Read by Ray, MLflow and boto3 when they are first imported, and by every process that they start.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MPLBACKEND"] = "agg"
os.environ["OMP_NUM_THREADS"] = "1"
# Tests never reach the servers, clusters and buckets of whoever runs them.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("AWS_ENDPOINT_URL", None)
os.environ.pop("AWS_PROFILE", None)

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from pixelmodels.storage import Storage

# Tests share the machine with Ray's workers; more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same global random state, whichever tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty local storage root."""
    from pixelmodels.storage import Storage

    return Storage(str(tmp_path / "storage"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with 5 logical CPUs, whatever the machine has: the tests need 3 workers and one CPU for Ray Data."""
    import ray

    ray.init(address="local", num_cpus=5, num_gpus=0, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
