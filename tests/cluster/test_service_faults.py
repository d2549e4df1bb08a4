"""The service on hosts of their own: closed to strangers, and whole again after one of them dies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.service_faults import PORT, samplers, service_node_killed, started_service
from cluster import network, servers
from cluster.local_cluster import LocalCluster

from .test_local_cluster import probed, reaches

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A service on a head and two workers, and a stranger."""
    for reason in (network.lacks(), servers.lacks_bucket()):
        if reason is not None:
            pytest.skip(f"no hosts with an S3 server: {reason}")
    with started_service() as cluster:
        cluster.add_host("stranger", knows_token=False)
        yield cluster


def test_what_the_service_opens_is_closed_to_who_has_no_token(cluster: LocalCluster) -> None:
    stranger = cluster.hosts[-1]
    assert len(samplers(cluster)) == 2
    for node in (cluster.head, *cluster.workers):
        without = probed(stranger, node)
        figures = {port for port, answer in without.items() if answer == "200 metrics"}  # for Prometheus, which has no token
        assert {port: answer for port, answer in without.items() if port not in figures and answer not in ("401", "UNAUTHENTICATED")} == {}
        assert not reaches(stranger, node.address, PORT)
    assert reaches(cluster.head, "127.0.0.1", PORT)


def test_a_host_that_dies_costs_no_request_and_the_service_is_whole_again(cluster: LocalCluster) -> None:
    found = service_node_killed(cluster)
    assert found["lost"] == 0 and found["since"] > 20  # each has its images or a reason
