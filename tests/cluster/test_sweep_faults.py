"""A sweep on hosts of their own, one of which comes late and one dies and comes back: no trial is lost, and both are used."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks.faults import training_workers
from cluster.hosts import wait_until
from cluster.local_cluster import LocalCluster

pytestmark = pytest.mark.faults

TRIALS = 6


def test_a_host_that_comes_late_is_used_and_the_trials_of_one_that_dies_go_on_elsewhere(cluster: LocalCluster) -> None:
    assert cluster.bucket is not None
    victim, late = cluster.workers
    late.kill()
    assert wait_until(lambda: late.address not in cluster.alive().values(), 120.0)
    log = cluster.head.folder / "sweep.log"
    command = f"pipelines/tune.py --space optimizer --start-from pixelcnn --num-samples {TRIALS} --epochs 4 --no-asha"
    there = {"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}"}
    words = [sys.executable, *command.split(), "--storage", f"{cluster.bucket.storage}/sweep", "--checkpoint-every-s", "2"]
    cluster.head.spawn(words, log, variables=there)

    def trains_on(host: object) -> bool:
        return any(one is host for one, _ in training_workers(cluster))

    assert wait_until(lambda: trains_on(victim), 200.0), log.read_text()
    late.bring_back()
    assert wait_until(lambda: trains_on(late), 200.0), log.read_text()
    assert re.search(r"^the cluster has room for \d trial\(s\) at a time now, and had for \d$", log.read_text(), re.MULTILINE)
    victim.kill()
    victim.bring_back()
    assert wait_until(lambda: trains_on(victim), 300.0), log.read_text()
    assert wait_until(lambda: re.search(r"^\d+ .* in \d+|^error:", log.read_text(), re.MULTILINE) is not None, 600.0), log.read_text()
    assert re.search(rf"^{TRIALS} finished in ", log.read_text(), re.MULTILINE), log.read_text()
