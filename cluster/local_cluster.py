"""A cluster on one machine, for tests and for trying it: `python -m cluster.local_cluster --workers 2 --s3 --mlflow`.

Every node is a host of its own in Linux namespaces (`network.py`), which can be killed, cut off, slowed down and brought back. Without
root it is several raylets on loopback, of which only the killing works.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

from cluster import network, servers
from cluster.hosts import Host, LoopbackHost, Service, is_of, kill_all
from cluster.ray_node import RayHead, RayWorker, alive
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, check_at_least, exit_with

_FOLDERS = Path("/tmp")  # short: sockets of Ray's sessions lie below, whose names have at most 107 letters
_MOST_WORKERS = 90  # names of links end in numbers of two digits: longer ones the kernel does not take
_NAME = re.compile(r"pxm(\d+)-(\d)")  # the process that made it, and which of its clusters it is
_FOREIGN = ("RAY_", "AWS_", "MLFLOW_")  # variables of whoever starts the cluster, about other clusters, buckets and servers


@dataclass(frozen=True)
class LocalClusterOptions:
    """A cluster on one machine: a head and workers, each as a host of its own where this process is root."""

    workers: int = 2  # nodes beside the head
    cpus: int = 1  # logical CPUs of each node
    s3: bool = False  # an S3 server with a bucket beside them
    mlflow: bool = False  # an MLflow server beside them, on PostgreSQL where that is installed
    loopback: bool = False  # raylets on loopback, even where there could be hosts

    def __post_init__(self) -> None:
        check_at_least(self, workers=0, cpus=1)
        if self.workers > _MOST_WORKERS:
            raise UserError(f"--workers {self.workers} is too many for one machine; give at most {_MOST_WORKERS}")


class LocalCluster:
    """The cluster while the context is open; all of it ends with the context, and with this process however that ends.

    Args: `variables`, more of them for all that runs on hosts, such as settings of Ray; `with_ray`, False for servers and hosts that are
    added alone. Hosts end with the thread that started them, so use it in one that lives as long. Raises `UserError` where a part does not
    start.
    """

    def __init__(
        self, options: LocalClusterOptions | None = None, *, variables: Mapping[str, str] | None = None, with_ray: bool = True
    ) -> None:
        self.options, self._with_ray, self._more = options or LocalClusterOptions(), with_ray, dict(variables or {})
        self.lacks_hosts = "--loopback is given" if self.options.loopback else network.lacks()  # why it is on loopback; None where not
        self.hosts: list[Host] = []
        self.workers: list[Host] = []
        self.bucket = servers.Bucket() if self.options.s3 else None
        self.mlflow = servers.Mlflow() if self.options.mlflow else None
        self.ray = RayHead(self.options.cpus)
        self._ending = ExitStack()

    def __enter__(self) -> LocalCluster:
        with self._ending:  # where a part does not start, the others end
            if not Path("/proc/self/ns").is_dir():
                raise UserError(f"a local cluster needs Linux, and this is {sys.platform}; start Ray by itself, with `ray start --head`")
            self._ending.enter_context(_ending_on_signals())
            remove_leftovers()
            self.name, self.folder = _made_folder()
            self._ending.callback(shutil.rmtree, self.folder, ignore_errors=True)
            token, self._names = self.folder / "token", self.folder / "hosts"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            self._names.write_text("127.0.0.1 localhost\n")
            self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}  # of all that use the cluster
            self._network = self._opened_network() if self.lacks_hosts is None else None
            self._start()
            self._ending = self._ending.pop_all()  # it does: they stay
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ending.close()

    @property
    def head(self) -> Host:
        """The head of Ray."""
        return next(host for host in self.hosts if host.service is self.ray)

    def host_of(self, service: Service) -> Host:
        """The host of a server: of `bucket` or of `mlflow`."""
        return next(host for host in self.hosts if host.service is service)

    def alive(self) -> dict[str, str]:
        """Address of each node that Ray takes to be alive, by its id."""
        return alive(self.head, self.ray)

    def add_host(self, name: str, service: Service | None = None, *, knows_token: bool = True) -> Host:
        """Start one more host; without the token it is a stranger on the network."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN) and "proxy" not in name.lower()}
        # `python` is this one there, as it is where .venv is active
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        environment |= self._more | (self.variables if knows_token else {"RAY_AUTH_MODE": "token"})
        if self._network is not None:
            host: Host = network.NetworkHost(self._network, name, self.folder / name, environment, self._names, service)
        else:
            host = LoopbackHost(self.name, name, len(self.hosts), self.folder / name, environment, service)
        self.hosts.append(host)
        self._ending.callback(host.kill)
        host.start()
        return host

    def told(self) -> Iterator[str]:
        """What there is and how it is used, in lines."""
        if self.lacks_hosts is not None:
            can = "they can be killed, not cut off or slowed down, and some of Ray's ports listen on every address of this machine"
            yield f"raylets on loopback, not hosts of their own ({self.lacks_hosts}): {can}"
        for host in self.hosts:
            what = {self.head: f"Ray at {host.address}:{self.ray.port}, dashboard at {self.ray.dashboard} on the head alone"}
            yield f"{host.name:<10} {host.address:<15} {what.get(host) or (host.service and _what(host.service)) or ''}".rstrip()
        if self.mlflow is not None and (reason := servers.lacks_postgres()) is not None:
            yield f"MLflow is on SQLite: {reason}"
        yield f"logs and disks are in {self.folder} until the cluster ends"
        yield "to use it:"
        variables = {**self.variables, "RAY_ADDRESS": self.ray.dashboard}
        yield from (f"export {name}={shlex.quote(value)}" for name, value in variables.items())
        entering = self.head.entering() if isinstance(self.head, network.NetworkHost) else []
        storage = self.bucket.storage if self.bucket is not None else f"{self.folder}/storage"
        needs = f"--num-workers {self.options.workers}" if self.options.workers > 1 else ""
        if self.mlflow is None and self.options.workers:
            yield "jobs that train on several nodes need an MLflow server: start this with --mlflow"
            return
        job = f"python pipelines/train_all.py --storage {storage} {needs} --only gated_pixelcnn --epochs 1"
        yield " ".join([*entering, str(Path(sys.executable).parent / "ray"), "job submit --", *job.split()])

    def _opened_network(self) -> network.Subnet:
        self._ending.callback(network.remove, self.name)
        return network.Subnet(self.name)

    def _start(self) -> None:
        # Servers first: what runs on nodes knows them by its environment.
        if self.bucket is not None:
            self._ending.callback(self.bucket.remove_sockets)
            self.add_host("s3", self.bucket)
            self.variables |= self.bucket.variables
        if self.mlflow is not None:
            self.add_host("mlflow", self.mlflow)
            self.variables |= self.mlflow.variables
        if not self._with_ray:
            return
        head = self.add_host("head", self.ray)
        for number in range(1, self.options.workers + 1):
            self.workers.append(self.add_host(f"worker-{number}", RayWorker(head, self.ray, self.options.cpus)))


def remove_leftovers() -> None:
    """Remove what clusters left behind whose processes were killed: their networks, folders, and (of those on loopback) processes."""
    left = {path.name for path in _FOLDERS.glob("pxm*-*") if path.is_dir() and path.stat().st_uid == os.geteuid()}
    if os.geteuid() == 0 and shutil.which("ip"):
        left |= network.clusters()
    for name in left:
        found = _NAME.fullmatch(name)
        if found is None or Path(f"/proc/{found[1]}").exists():
            continue
        for folder in sorted((_FOLDERS / name).glob("*/")):
            kill_all(partial(is_of, mark=f"{name}/{folder.name}", folder=folder))
        if os.geteuid() == 0 and shutil.which("ip"):
            network.remove(name)
        shutil.rmtree(_FOLDERS / name, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Start a cluster, tell what there is, and keep it until ctrl-c; status 0."""
    with LocalCluster(parse(LocalClusterOptions, argv)) as cluster:
        for line in cluster.told():
            print(line)
        print("ctrl-c ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("ending it", flush=True)
    return 0


def _what(service: Service) -> str:
    if isinstance(service, servers.Bucket):
        return f"S3 at {service.endpoint}, storage root {service.storage}"
    return f"MLflow at {service.uri}" if isinstance(service, servers.Mlflow) else "Ray"


def _made_folder() -> tuple[str, Path]:
    """A name for a cluster of this process that is not taken, and its folder."""
    for number in range(10):
        name = f"pxm{os.getpid()}-{number}"
        try:
            # Others may pass through (PostgreSQL runs as another user) and see no more than they know the names of.
            (_FOLDERS / name).mkdir(mode=0o711)
        except FileExistsError:
            continue
        return name, _FOLDERS / name
    raise UserError(f"this process has 10 clusters already, in {_FOLDERS}; end one first")


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP leave the context as an exception does, where nobody else has a use for them."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    kept = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, leave)
                kept.append(number)
    try:
        yield
    finally:
        for number in kept:
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    exit_with(main)
