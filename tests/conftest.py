"""Fixtures that all tests share: one small Ray for the whole session, a storage root for each test, fixed seeds."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by Ray, MLflow and boto3 when they are first imported, and by every process that they start.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
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

HAD_RAY: list[bool] = []  # whether this process has run a test that uses the session's Ray
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Tests share the machine with Ray's workers; more threads only get in each other's way.
torch.set_num_threads(1)


@functools.cache
def needs_ray(path: str) -> bool:
    """Whether the tests of a file use the session's Ray, as the file says or the conftest of its folder."""
    file = ROOT / path
    here = [file] if file.parent == HERE else [file, file.parent / "conftest.py"]
    return any(re.search(r"ray_cluster: None|usefixtures\(\"ray_cluster", one.read_text()) for one in here if one.exists())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out among processes by file, but all that use the session's Ray to one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class OneRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if needs_ray(path) else path

    return OneRay(config, log)


@functools.cache
def step_back() -> None:
    """Leave the cores to the process that has the session's Ray, and to all that this starts: it is the one that takes longest."""
    os.nice(10)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    has_ray = needs_ray(item.nodeid.partition("::")[0])
    if has_ray:
        HAD_RAY.append(True)
    elif "PYTEST_XDIST_WORKER" in os.environ and not HAD_RAY:
        step_back()
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses Ray comes first: it takes longest."""
    items.sort(key=lambda item: not needs_ray(item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same global random state, whichever tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def no_ray_by_chance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose tests ask for no `ray_cluster` starts none either: it would run beside the session's, to the end of the process."""
    path = request.node.nodeid.partition("::")[0]

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(f"{path} starts a Ray; its tests should ask for ray_cluster, or start it in a process of their own")

    if not needs_ray(path) and path != "tests/test_ray_cluster.py":
        monkeypatch.setattr("pixelmodels.ray_cluster.connect", refuse)


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
