"""A Ray node as what a host is there for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from cluster.hosts import Host, tail, wait_until
from pixelmodels.errors import UserError

_OBJECT_STORE_BYTES = 80_000_000  # about the least that Ray takes
_START_S = 180.0  # about 10 s on a quiet machine
_DECIDED_S = 90.0  # until Ray has decided about a host that was cut off: it asks every 3 s, and gives up after 5 times
_ASK_AGAIN_S = 0.5
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
# The head's own view, asked for in the head, where the dashboard is. It is Python without Ray, which would take seconds.
_ASK = """
import os, sys, urllib.request
token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read().strip()
request = urllib.request.Request(sys.argv[1] + "/api/v0/nodes?limit=1000", headers={"Authorization": "Bearer " + token})
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20).read().decode())
"""


@dataclass
class RayHead:
    """The head: Ray's own store, and the dashboard on the host's loopback only. A head that comes back knows nothing of before."""

    num_cpus: int  # logical CPUs
    port: int = 0  # of Ray's own store; known once it has started
    dashboard_port: int = 0  # the same

    def start(self, host: Host) -> None:
        self.port, self.dashboard_port = host.free_port(6379), host.free_port(8265)
        dashboard = ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.dashboard_port)]
        ports = ["--port", str(self.port), "--ray-client-server-port", str(host.free_port(10001))]
        _start(host, self.num_cpus, ["--head", *ports, *dashboard])
        if not wait_until(lambda: host.address in alive(host, self).values(), _START_S, _ASK_AGAIN_S):
            raise UserError(f"the dashboard of '{host.name}' does not answer; see {host.folder}")

    def is_running(self, host: Host) -> bool:
        return any("gcs_server" in line for line in host.pids().values()) and host.address in alive(host, self).values()

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, from the head itself."""
        return f"http://127.0.0.1:{self.dashboard_port}"


@dataclass(frozen=True)
class RayWorker:
    """A node that joins a head."""

    head: Host
    ray: RayHead  # what the head is there for
    num_cpus: int  # logical CPUs

    def start(self, host: Host) -> None:
        _start(host, self.num_cpus, ["--address", f"{self.head.address}:{self.ray.port}"])

    def is_running(self, host: Host) -> bool:
        """A node that was given up learns that from the head, and ends itself: whichever comes first, known or gone, is true."""
        decided: list[bool] = []

        def has_decided() -> bool:
            if not any("raylet/raylet" in line for line in host.pids().values()):
                decided.append(False)
            elif host.address in alive(self.head, self.ray).values():
                decided.append(True)
            return bool(decided)

        return wait_until(has_decided, _DECIDED_S, _ASK_AGAIN_S) and decided[0]


def alive(head: Host, ray: RayHead) -> dict[str, str]:
    """Address of each node that the head takes to be alive, by its id; none while the head itself does not answer."""
    try:
        answer = head.run([sys.executable, "-I", "-S", "-c", _ASK, ray.dashboard], timeout_s=60.0)
        nodes = json.loads(answer.stdout)["data"]["result"]["result"]
    except (subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return {}
    return {node["node_id"]: node["node_ip"] for node in nodes if node["state"] == "ALIVE"}


def _start(host: Host, num_cpus: int, words: list[str]) -> None:
    sessions = host.folder / "ray"
    sizes = ["--num-cpus", str(num_cpus), "--num-gpus", "0", "--object-store-memory", str(_OBJECT_STORE_BYTES)]
    places = ["--node-ip-address", host.address, "--temp-dir", str(sessions), "--disable-usage-stats"]
    least, most = host.worker_ports
    ports = {"min-worker-port": least, "max-worker-port": most, "dashboard-agent-listen-port": host.free_port(52365)}
    free = [word for name, port in ports.items() for word in (f"--{name}", str(port))]
    log = host.folder / "ray_start.log"
    try:
        done = host.run([*_RAY, "start", *words, *sizes, *places, *free], timeout_s=_START_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Ray does not start on '{host.name}' within {_START_S:.0f} s; see {sessions}") from error
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        raise UserError(f"Ray does not start on '{host.name}' ({tail(log)}); see {log}")
