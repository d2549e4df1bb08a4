"""Whether every node of the cluster can do its part of a run: looked at before anything starts, and of nodes that join later as they join.

A cluster of one node can: what it lacks, the command itself has met already.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixelmodels.data import DatasetConfig, find_prepared
from pixelmodels.errors import UserError, first_line, without_logins
from pixelmodels.progress import Say
from pixelmodels.storage import Storage, why
from pixelmodels.tracking.location import check_reachable, sqlite_path

_ANSWER_S = 120.0  # a node that has to start a process first may take this long to answer
_CLOCK_S = 60.0  # clocks that are further apart put metrics into a wrong order, and buckets refuse what is signed by them
_PACKAGES = ("ray", "torch", "pyarrow", "numpy", "mlflow")  # what differs in these fails late, or counts otherwise
_JOIN_S = 5.0  # seconds between looks for nodes that have joined


@dataclass(frozen=True)
class Report:
    """What one node says of itself."""

    versions: dict[str, str]  # of Python, packages, and this project's code
    missing: tuple[str, ...]  # files that it does not see
    failures: dict[str, str]  # what it cannot reach, and why
    clock_s: float  # since 1970


@dataclass(frozen=True)
class Preflight:
    """What every node has to reach."""

    storage: Storage
    tracking_uri: str = ""  # MLflow's address; empty where nothing is tracked
    sources: tuple[str, ...] = field(default=())  # local folders or files with the images that nodes prepare

    def check(self) -> None:
        """Ask every node; raises `UserError` that names the first one that cannot, and the remedy."""
        nodes = node_names()
        if len(nodes) > 1:
            self._check_database(len(nodes))
            self._ask(nodes)

    @contextmanager
    def watching(self, say: Say) -> Iterator[None]:
        """Ask nodes that join while the context is open as they join; what one of them lacks is said in a line."""
        known, ended = set(node_names()), threading.Event()

        def watch() -> None:
            while not ended.wait(_JOIN_S):
                try:
                    joined = {node: name for node, name in node_names().items() if node not in known}
                    known.update(joined)
                    if joined:
                        self._ask(joined)
                        say(f"joined: node {', node '.join(joined.values())}")
                except UserError as error:
                    say(f"a node that has joined is not fit, and what runs on it may fail: {error}")
                except Exception:  # of any kind: the cluster does not answer, or ends
                    continue

        watching = threading.Thread(target=watch, name="nodes that join", daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()

    def _check_database(self, num_nodes: int) -> None:
        if (path := sqlite_path(self.tracking_uri)) is not None:
            command = "mlflow server --backend-store-uri postgresql://... --artifacts-destination s3://..."
            raise UserError(
                f"the tracking database '{path}' is an SQLite file, which {num_nodes} nodes cannot write together; "
                f"start a server ({command}) and set MLFLOW_TRACKING_URI to it"
            )

    def _ask(self, nodes: dict[str, str]) -> None:
        """Raise `UserError` for the first of some nodes, by id with what they are called, that cannot do its part."""
        told: dict[str, tuple[str, str]] = {}
        probe = f".seen-by-every-node-{uuid.uuid4().hex[:8]}"
        if self.storage.is_local:
            remedy = "give --storage s3://bucket/prefix, or a folder that all nodes share"
            told[f"{self.storage.root}/{probe}"] = (f"the storage root '{self.storage.root}'", remedy)
        probes = [Path(path) for path in told]
        for source in self.sources:
            told[str(source)] = (f"the images in '{source}'", "put them where all nodes see them, or prepare them on one machine first")
        try:
            for path in probes:
                path.touch()
            reports = _reports(nodes, list(told), self.storage, self.tracking_uri)
        finally:
            for path in probes:
                path.unlink(missing_ok=True)
        here = versions()
        for node, (report, late_s) in reports.items():
            name = nodes[node]
            for lacking in report.missing:
                what, remedy = told[lacking]
                raise UserError(f"node {name} does not see {what}; {remedy}")
            for what, mine in here.items():
                theirs = report.versions.get(what, "none")
                if theirs != mine:
                    remedy = "install requirements.lock there, or give the cluster this checkout: ray job submit --working-dir ."
                    raise UserError(f"node {name} has {what} {theirs}, and this process has {mine}; {remedy}")
            for what, reason in report.failures.items():
                raise UserError(f"node {name} cannot reach {what} ({reason}); see to its network, address and credentials there")
            if late_s > _CLOCK_S:
                raise UserError(f"the clock of node {name} is {late_s:.0f} s off; set it by a time server (chrony, systemd-timesyncd)")


def node_names() -> dict[str, str]:
    """Host name and address of each node, by its id."""
    import ray

    return {node["NodeID"]: f"'{node['NodeManagerHostname']}' ({node['NodeManagerAddress']})" for node in ray.nodes() if node["Alive"]}


def unprepared(configs: Iterable[DatasetConfig], storage: Storage) -> tuple[str, ...]:
    """The local folders or files with the images of data sets that are yet to be prepared."""
    local = [config for config in configs if config.path is not None and "://" not in config.path]
    return tuple(sorted({str(Path(str(config.path)).absolute()) for config in local if find_prepared(config, storage) is None}))


@functools.cache
def versions() -> dict[str, str]:
    """Of Python, of the packages that nodes have to agree in, and of this project's code (the beginning of a hash)."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return {**found, "pixelmodels' code": digest.hexdigest()[:12]}


def look(paths: Iterable[str], storage: Storage, tracking_uri: str) -> Report:
    """What this machine says of itself."""
    failures: dict[str, str] = {}
    if not storage.is_local:
        try:
            storage.exists("a")
        except Exception as error:  # of any kind: it is told
            failures[f"the storage root '{storage.root}'"] = without_logins(why(error))
    if tracking_uri and sqlite_path(tracking_uri) is None:
        try:
            check_reachable(tracking_uri)
        except Exception as error:  # of any kind: it is told
            failures["MLflow"] = without_logins(first_line(error))
    return Report(versions(), tuple(path for path in paths if not Path(path).exists()), failures, time.time())


def _reports(nodes: dict[str, str], paths: list[str], storage: Storage, tracking_uri: str) -> dict[str, tuple[Report, float]]:
    """By node, what it says, and by how many seconds at least its clock differs from that of this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(look)
    began = time.time()
    asked = {
        node: task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            paths, storage, tracking_uri
        )
        for node in nodes
    }
    found: dict[str, tuple[Report, float]] = {}
    for node, reference in asked.items():
        try:
            report: Report = ray.get(reference, timeout=_ANSWER_S)
        except ray.exceptions.GetTimeoutError as error:
            raise UserError(f"node {nodes[node]} does not answer; see to it, or remove it from the cluster") from error
        except ray.exceptions.RayTaskError as error:
            reason = first_line(error.cause if isinstance(error.cause, BaseException) else error)
            raise UserError(f"node {nodes[node]} cannot run pixelmodels ({reason}); install requirements.lock there") from error
        except ray.exceptions.RayError as error:
            reason = type(error).__name__
            raise UserError(f"node {nodes[node]} does not answer ({reason}); see to it, or remove it from the cluster") from error
        found[node] = report, max(began - report.clock_s, report.clock_s - time.time(), 0.0)
    return found
