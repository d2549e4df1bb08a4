"""The service on hosts of their own: closed to strangers, and whole again after one of them dies."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from cluster import network, servers
from cluster.hosts import Host, wait_until
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import build
from pixelmodels.models.files import DESCRIPTION, WEIGHTS, save_model
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage

from .test_local_cluster import IMPATIENT, probed, reaches

pytestmark = pytest.mark.faults

PORT = 8000
# Four clients that ask until a file is there; a line for each answer: ok and a digest, or the status and code of what it got instead.
CLIENTS = """
import hashlib, json, os, sys, threading
from pixelmodels.serving.client import Client, ServiceError
def ask(number):
    client, seed = Client(sys.argv[1], timeout_s=100), number
    while not os.path.exists(sys.argv[2]):
        try:
            found = client.samples(2, seed=seed).images_NCHW
            told = {"seed": seed, "digest": hashlib.sha256(found.tobytes()).hexdigest()}
        except ServiceError as error:
            told = {"seed": seed, "status": error.status, "code": error.code}
        except Exception as error:
            told = {"seed": seed, "lost": repr(error)}
        os.write(1, (json.dumps(told) + "\\n").encode())
        seed += 4
threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("all", flush=True)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head and two workers with a service of two samplers that listens on each host's loopback, and a stranger."""
    for reason in (network.lacks(), servers.lacks_bucket()):
        if reason is not None:
            pytest.skip(f"no hosts with an S3 server: {reason}")
    with LocalCluster(LocalClusterOptions(workers=2, s3=True, mlflow=True), variables=IMPATIENT) as cluster:
        assert cluster.bucket is not None
        cluster.add_host("stranger", knows_token=False)
        torch.manual_seed(0)
        config = PixelCNNConfig(num_layers=2, num_features=8, first_kernel_size=3, head_features=8)
        save_model(cluster.folder / "model", build(config, ImageSpec(1, 12, 12, 4), LikelihoodConfig("categorical")))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.bucket.variables.items():
                patch.setenv(name, value)
            root = Storage(cluster.bucket.storage)
            for name in (DESCRIPTION, WEIGHTS):
                root.write_bytes(f"model/{name}", (cluster.folder / "model" / name).read_bytes())
        command = f"pipelines/serve.py --model {root.uri('model')} --storage {root.root} --replicas 2 --cpus 1 --port {PORT}"
        there = {"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}"}
        cluster.head.spawn([sys.executable, *command.split()], cluster.head.folder / "serve.log", variables=there)
        log = cluster.head.folder / "serve.log"
        assert wait_until(lambda: "serving on" in log.read_text() or "error" in log.read_text(), 300.0), log.read_text()
        assert "serving on" in log.read_text(), log.read_text()
        yield cluster


def samplers(cluster: LocalCluster) -> list[Host]:
    """The host of each sampler."""
    return [host for host in (*cluster.workers, cluster.head) for line in host.pids().values() if re.match(r"ray::.*Sampler", line)]


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
    enough, log = cluster.head.folder / "enough", cluster.head.folder / "answers.log"
    cluster.head.spawn([sys.executable, "-c", CLIENTS, f"http://127.0.0.1:{PORT}", str(enough)], log)

    def answers() -> list[dict[str, object]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

    assert wait_until(lambda: len(answers()) > 20, 120.0), log.read_text()
    victim = next(host for host in samplers(cluster) if host is not cluster.head)
    victim.kill()
    before = len(answers())
    started = time.monotonic()
    assert wait_until(lambda: len(samplers(cluster)) == 2, 240.0), cluster.head.folder
    print(f"two samplers again after {time.monotonic() - started:.0f} s")
    whole_at = len(answers())
    assert wait_until(lambda: sum("digest" in one for one in answers()[whole_at:]) > 20, 240.0), log.read_text()[-3000:]
    enough.touch()
    assert wait_until(lambda: "all" in log.read_text().splitlines(), 240.0)
    found = answers()
    assert before < len(found)
    assert [one for one in found if "lost" in one] == []  # each has its images or a reason
    refused = [one for one in found if "status" in one]
    assert all(isinstance(one["status"], int) and one["status"] >= 500 and one["code"] for one in refused), refused
