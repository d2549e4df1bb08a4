"""The service while a host of its cluster dies: requests that are lost, and seconds until it is whole. For `benchmarks/faults.py`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cluster.hosts import Host, wait_until
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import build
from pixelmodels.models.files import save_model
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.shapes import ImageSpec

# Ray gives a node up that does not answer within 5 s three times; a machine that is busy answers late.
IMPATIENT = {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "3"}
_PATIENCE_S = 300.0
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


@contextmanager
def started_service() -> Iterator[LocalCluster]:
    """A head and two workers with a service of two samplers of a small model, which listens on each host's loopback."""
    with LocalCluster(LocalClusterOptions(workers=2, s3=True, mlflow=True), variables=IMPATIENT) as cluster:
        assert cluster.bucket is not None
        torch.manual_seed(0)
        config = PixelCNNConfig(num_layers=2, num_features=8, first_kernel_size=3, head_features=8)
        model, log = cluster.folder / "model", cluster.head.folder / "serve.log"
        save_model(model, build(config, ImageSpec(1, 12, 12, 4), LikelihoodConfig("categorical")))
        for path in (model, *model.iterdir()):
            path.chmod(0o755)
        command = f"pipelines/serve.py --model {model} --storage {cluster.bucket.storage} --replicas 2 --cpus 1 --port {PORT}"
        there = {"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}"}
        cluster.head.spawn([sys.executable, *command.split()], log, variables=there)
        if not wait_until(lambda: "serving on" in log.read_text() or "error" in log.read_text(), _PATIENCE_S) or "error" in log.read_text():
            raise RuntimeError(f"the service does not start: {log.read_text()}")
        yield cluster


def samplers(cluster: LocalCluster) -> list[Host]:
    """The host of each sampler."""
    return [host for host in (*cluster.workers, cluster.head) for line in host.pids().values() if re.match(r"ray::.*Sampler", line)]


def service_node_killed(cluster: LocalCluster) -> dict[str, Any]:
    """Kill a host with a sampler while four clients ask; what became of their requests, and seconds until there are two samplers again.

    A request is `refused` that got a status of 500 or more with a code, and `lost` that got neither that nor its images.
    """
    name = f"{time.monotonic():.0f}"
    enough, log = cluster.head.folder / f"enough-{name}", cluster.head.folder / f"answers-{name}.log"
    cluster.head.spawn([sys.executable, "-c", CLIENTS, f"http://127.0.0.1:{PORT}", str(enough)], log)

    def answers() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

    def see(what: str, is_so: Any) -> None:
        if not wait_until(is_so, _PATIENCE_S):
            raise RuntimeError(f"{what}: {log.read_text()[-3000:]}")

    see("no answers", lambda: len(answers()) > 20)
    victim = next(host for host in samplers(cluster) if host is not cluster.head)
    victim.kill()
    started, before = time.monotonic(), len(answers())
    see("the service is not whole again", lambda: len(samplers(cluster)) == 2)
    back_s, whole_at = round(time.monotonic() - started, 1), len(answers())
    see("a service that is whole does not answer", lambda: sum("digest" in one for one in answers()[whole_at:]) > 20)
    enough.touch()
    see("clients do not end", lambda: "all" in log.read_text().splitlines())
    found = answers()
    refused = [one for one in found if isinstance(one.get("status"), int) and one["status"] >= 500 and one["code"]]
    drawn = [one for one in found if "digest" in one]
    lost = len(found) - len(refused) - len(drawn)
    return {"back_s": back_s, "requests": len(found), "since": len(found) - before, "refused": len(refused), "lost": lost}
