"""Requests over HTTP as tests make them, beside those of the client, and what a process of the service takes."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pixelmodels.data.quantization import dequantize
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from tests.serving.conftest import KEY, SPEC, Service


def grey(levels_CHW: np.ndarray) -> np.ndarray:
    return dequantize(levels_CHW, SPEC.levels)[0]


def drawn(service: Service, version: str = "1", **options: Any) -> np.ndarray:
    return draw_all(service.registry.models[version], Request(**options)).numpy()


def raw(service: Service, path: str, body: bytes | None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
    default = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    connection.request("GET" if body is None else "POST", service.path + path, body, default if headers is None else headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.headers.items()}, answer


def refusal(service: Service, path: str, body: Any) -> tuple[int, str, str | None]:
    status, _, answer = raw(service, path, body if isinstance(body, bytes) else json.dumps(body).encode())
    error = json.loads(answer)
    assert set(error) == {"code", "message", "field"} and error["message"]
    return status, error["code"], error["field"]


def by_sampler(service: Service, name: str) -> dict[int, float]:
    """A figure of each sampler, by the id of its process."""
    page = raw(service, "/metrics", None)[2].decode()
    lines = [line for line in page.splitlines() if line.startswith(f"pixelmodels_{name}{{")]
    return {int(line.split('replica="')[1].split('"')[0].rsplit("-", 1)[1]): float(line.split()[-1]) for line in lines}


def figure(service: Service, name: str) -> float:
    """A figure of the whole service."""
    page = raw(service, "/metrics", None)[2].decode()
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"pixelmodels_{name} "))


def state(service: Service, name: str) -> float:
    return sum(by_sampler(service, name).values())


def settles(service: Service, name: str, value: float, within_s: float = 120) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if state(service, name) == value:
            return True
        time.sleep(0.1)
    return False


def replica_pids(deployment: str) -> list[int]:
    """The processes of the replicas of a deployment, of the Ray that this process has started."""
    title = f"ServeReplica:pixelmodels:{deployment}".encode()
    return [pid for pid in pids() if title in read(pid, "cmdline") and os.getpid() in parents(pid)]


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def parents(pid: int) -> list[int]:
    found = []
    while pid > 1:
        stat = read(pid, "stat").rpartition(b")")[2].split()
        pid = int(stat[1]) if stat else 0
        found.append(pid)
    return found


class Peak:
    """How much more memory processes took at their most, since this was made."""

    def __init__(self, *pids: int):
        self.before_kb = {pid: self._kb(pid, "VmRSS") for pid in pids}
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew

    @property
    def grown_mb(self) -> float:
        """Of the one that grew most."""
        return max(self._kb(pid, "VmHWM") - before_kb for pid, before_kb in self.before_kb.items()) / 1024

    @staticmethod
    def _kb(pid: int, name: str) -> int:
        return next(int(line.split()[1]) for line in read(pid, "status").decode().splitlines() if line.startswith(name))


def listening(pid: int) -> Counter[str]:
    """Addresses that a process listens on for TCP, as the kernel writes them in hexadecimal, and at how many ports."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            own.add(os.readlink(descriptor))
    found = Counter[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found[fields[1].rpartition(":")[0][-8:]] += 1  # an IPv4 address, or that in an IPv6 one
    return found
