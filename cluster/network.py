"""Hosts in network namespaces of Linux: a bridge with a private network, and on it hosts with all that a machine has of its own.

A host has its own network, host name, processes and mounts; the disk and the memory are this machine's. No host has a route out of the
network, so nobody outside of it gets an answer from one. Whoever is root on this machine has the first address of the network.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.hosts import ROOT, Host, Service, kill_all, wait_until
from pixelmodels.errors import UserError, first_line

_TOOLS = ("ip", "tc", "ss", "nsenter", "unshare", "setpriv", "mount")
_NETWORKS = "10.213.0.0/16"  # each cluster has 254 addresses of it, where this machine has no route to
_NAMESPACES = Path("/run/netns")
_LINK = "eth0"  # what every host calls its link
_BOOT_S = 10.0
# The first process of a host: it takes note of the end of those whose parents are gone, as the first process of a machine does.
_FIRST_PROCESS = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
print("up", flush=True)
while True:
    signal.sigwait([signal.SIGCHLD])
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
_ENDING_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
_BOOT = 'mount --bind "$1" /etc/hosts && hostname "$2" && ip link set lo up && shift 2 && exec "$@"'


def lacks() -> str | None:
    """Why this machine cannot have hosts of their own, in a few words; None where it can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "that needs root"
    if missing:
        return f"that needs {', '.join(missing)} (packages iproute2 and util-linux)"
    probe = subprocess.run(["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "true"], capture_output=True, text=True)
    return None if probe.returncode == 0 else f"this kernel or container does not let it ({first_line(OSError(probe.stderr))})"


class Subnet:
    """A bridge, and the private network on it; its name is that of its cluster, and short: names of interfaces have 15 letters."""

    def __init__(self, name: str) -> None:
        self.name, self.bridge = name, f"{name}b"
        self.network = _free_network()
        self._taken = 1
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.network[1]}/{self.network.prefixlen}", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def link(self, host: str) -> tuple[str, str]:
        """Give a host of this name its namespace, with a link and an address: the link's end at the bridge, and the address."""
        self._taken += 1
        outer, address, namespace = f"{self.name}v{self._taken}", str(self.network[self._taken]), f"{self.name}-{host}"
        _ip("netns", "add", namespace)
        _ip("link", "add", outer, "type", "veth", "peer", "name", _LINK, "netns", namespace)
        _ip("-n", namespace, "address", "add", f"{address}/{self.network.prefixlen}", "dev", _LINK)
        _ip("-n", namespace, "link", "set", _LINK, "up")
        _ip("link", "set", outer, "master", self.bridge, "up")
        return outer, address


class NetworkHost(Host):
    """A host in namespaces of its own. It ends with the thread that started it, and with this process however that ends."""

    def __init__(
        self, subnet: Subnet, name: str, folder: Path, environment: Mapping[str, str], names: Path, service: Service | None = None
    ) -> None:
        self._outer, address = subnet.link(name)
        super().__init__(subnet.name, name, address, folder, {**environment, "GLOO_SOCKET_IFNAME": _LINK}, service)
        self._namespace = f"{subnet.name}-{name}"
        self._names = names  # its /etc/hosts, which all hosts of a cluster have in common
        self._unshare: subprocess.Popen[bytes] | None = None
        self.first_pid = 0  # of the host's first process, as this machine knows it
        self._pid_namespace = ""
        with open(names, "a") as lines:
            lines.write(f"{address} {name}\n")

    def kill(self) -> None:
        if self._unshare is None:
            return
        self._unshare.kill()  # the kernel ends the first process with it, and with that all others, at once
        self._unshare.wait()
        kill_all(self._owns)  # returns when they are gone
        self._reap()
        self._unshare, self._pid_namespace = None, ""  # the kernel may give its name to another one

    def cut_off(self) -> None:
        _ip("link", "set", self._outer, "down")

    def slow_down(self, kilobits_per_s: int, queue_ms: int = 400) -> None:
        if kilobits_per_s < 8:
            raise UserError(f"host '{self.name}' cannot have {kilobits_per_s} kilobits a second; give 8 or more")
        # A burst is sent at full speed: at least one packet (of 64 KiB, as the kernel gathers them), else nothing ever passes.
        limit = ["tbf", "rate", f"{kilobits_per_s}kbit", "burst", "64kb", "latency", f"{queue_ms}ms"]
        _call("tc", "qdisc", "replace", "dev", self._outer, "root", *limit)
        _call("tc", "-n", self._namespace, "qdisc", "replace", "dev", _LINK, "root", *limit)

    def inside(self, command: Sequence[str], folder: Path = ROOT) -> list[str]:
        if self._unshare is None:
            raise UserError(f"host '{self.name}' is off; bring it back first")
        # What runs ends with the command that started it, here or there.
        return [*_ENDING_WITH_PARENT, *self.entering(folder), *_ENDING_WITH_PARENT, *command]

    def entering(self, folder: Path = ROOT) -> list[str]:
        """The words before a command that run it on the host, in a folder."""
        return ["nsenter", "--target", str(self.first_pid), "--net", "--uts", "--ipc", "--pid", "--mount", f"--wd={folder}"]

    def free_port(self, usual: int) -> int:
        return usual

    def _boot(self) -> None:
        if self._is_on():
            return
        self.kill()  # what is left of one whose first process ended by itself
        spaces = ["unshare", "--uts", "--ipc", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        first = ["sh", "-c", _BOOT, "sh", str(self._names), self.name, sys.executable, "-I", "-S", "-c", _FIRST_PROCESS]
        self._unshare = subprocess.Popen(
            [*_ENDING_WITH_PARENT, "nsenter", f"--net={_NAMESPACES / self._namespace}", *spaces, *first],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._unshare.stdout is not None and self._unshare.stderr is not None
        if not self._unshare.stdout.readline():
            reason = self._unshare.stderr.read().decode(errors="replace").strip()
            self.kill()
            raise UserError(f"host '{self.name}' does not start ({first_line(OSError(reason))}); see what this container lets root do")
        self._unshare.stdout.close()
        self._unshare.stderr.close()
        self.first_pid = _children(self._unshare.pid)[0]
        self._pid_namespace = os.readlink(f"/proc/{self.first_pid}/ns/pid")

    def _is_on(self) -> bool:
        return self._unshare is not None and self._unshare.poll() is None

    def _owns(self, pid: int) -> bool:
        with suppress(OSError):
            return pid != self.first_pid and os.readlink(f"/proc/{pid}/ns/pid") == self._pid_namespace
        return False

    def _mend_link(self) -> None:
        if _is_limited(self._outer):
            _call("tc", "qdisc", "delete", "dev", self._outer, "root")
            _call("tc", "-n", self._namespace, "qdisc", "delete", "dev", _LINK, "root")
        _ip("link", "set", self._outer, "up")
        wait_until(lambda: "LOWER_UP" in _ip("link", "show", "dev", self._outer), _BOOT_S)


def remove(cluster: str) -> None:
    """Remove what there is of a cluster's network, whose hosts are off."""
    for link in _interfaces():
        if link.startswith(f"{cluster}v"):  # with its other end; a namespace that goes takes its links along some time later
            _ip("link", "delete", link)
    for namespace in _namespaces():
        if namespace.startswith(f"{cluster}-"):
            _ip("netns", "delete", namespace)
    if f"{cluster}b" in _interfaces():
        _ip("link", "delete", f"{cluster}b")


def clusters() -> set[str]:
    """Names of bridges and namespaces that may be a cluster's, without what comes after the cluster's name."""
    bridges = {name.removesuffix("b") for name in _interfaces() if name.endswith("b")}
    return bridges | {name.rpartition("-")[0] for name in _namespaces()}


def _namespaces() -> list[str]:
    return os.listdir(_NAMESPACES) if _NAMESPACES.is_dir() else []


def _interfaces() -> list[str]:
    return os.listdir("/sys/class/net")


def _children(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and f"\nPPid:\t{parent}\n" in Path(f"/proc/{name}/status").read_text():
                found.append(int(name))
    return found


def _is_limited(link: str) -> bool:
    return " tbf " in _call("tc", "qdisc", "show", "dev", link, "root")


def _free_network() -> ipaddress.IPv4Network:
    """A network to which this machine has no route yet."""
    routes = json.loads(_ip("-json", "-4", "route", "show", "table", "all") or "[]")
    known = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"] != "default"]
    networks = list(ipaddress.IPv4Network(_NETWORKS).subnets(new_prefix=24))
    first = os.getpid() % len(networks)  # clusters that start at the same time take different ones
    for network in networks[first:] + networks[:first]:
        if not any(network.overlaps(one) for one in known if isinstance(one, ipaddress.IPv4Network)):
            return network
    raise UserError(f"every network in {_NETWORKS} is taken on this machine; end a cluster, or see `ip route`")


def _ip(*words: str) -> str:
    return _call("ip", *words)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"`{' '.join(command)}` fails ({first_line(OSError(done.stderr))}); see what this container lets root do")
    return done.stdout
