"""A cluster for tests that do something to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults import started_cluster
from cluster import network, servers
from cluster.local_cluster import LocalCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head, two workers, a bucket and an MLflow server, each a host of its own."""
    for reason in (network.lacks(), servers.lacks_bucket()):
        if reason is not None:
            pytest.skip(f"no hosts with an S3 server: {reason}")
    with started_cluster() as cluster:
        yield cluster
