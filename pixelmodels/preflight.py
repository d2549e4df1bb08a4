"""Whether every node of the cluster can do its part of a run: looked at before anything starts, and of nodes that join later as they join.

A cluster of one node can: what it lacks, the command itself has met already.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelmodels.data import DatasetConfig, find_prepared
from pixelmodels.errors import UserError, first_line, without_logins
from pixelmodels.progress import Say
from pixelmodels.ray_cluster import WorkerNeeds, cluster_nodes
from pixelmodels.storage import Storage, why
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.location import sqlite_path

_ANSWER_S = 120.0  # a node that has to start a process first may take this long to answer
_CLOCK_S = 60.0  # clocks that are further apart put metrics into a wrong order, and buckets refuse what is signed by them
_PACKAGES = ("ray", "torch", "pyarrow", "numpy", "mlflow")  # what differs in these fails late, or counts otherwise
_DRIVER_S = 20.0  # that a GPU's driver has to answer
_JOIN_S = 5.0  # seconds between looks for nodes that have joined


@dataclass(frozen=True)
class Report:
    """What one node says of itself."""

    versions: dict[str, str]  # of Python, packages, and this project's code
    missing: tuple[str, ...]  # files that it does not see
    failures: dict[str, str]  # what it cannot reach, and why
    clock_s: float  # since 1970
    gpu_bytes: int | None = None  # memory of its smallest GPU; None where it has none, or nobody tells


@dataclass(frozen=True)
class Preflight:
    """What every node has to reach."""

    storage: Storage
    tracker: Tracker | None = None  # MLflow, with the login that it needs; None where nothing is tracked
    needs: WorkerNeeds | None = None  # what an autoscaler may add nodes for; None: it adds none
    sources: tuple[str, ...] = ()  # local folders or files with the images that nodes prepare

    def check(self) -> dict[str, int | None]:
        """Ask every node; raises `UserError` that names the first one that cannot, what it lacks, and the remedy.

        Returns the memory of each one's smallest GPU, where that is known, by the ids of the nodes that there are: those that join from
        then on are the business of `watching`.
        """
        nodes = node_names()
        to_come = 0 if self.needs is None else len(cluster_nodes(self.needs))
        lack = self._database_lack(max(len(nodes), to_come))
        if lack is not None:
            raise UserError(lack)
        if len(nodes) == 1:
            return dict.fromkeys(nodes, gpu_bytes() if self.needs is not None and self.needs.use_gpu else None)
        lacks, memory = self._lacks(nodes, self.sources)
        for line in lacks.values():
            raise UserError(line)
        return memory

    @contextmanager
    def watching(self, say: Say, asked: Collection[str]) -> Iterator[None]:
        """Ask nodes that join while the context is open as they join; what one of them lacks is said in a line.

        Data are prepared by then: nobody asks for the images that they were made of. Args: `asked`, the ids of nodes that are known.
        """
        known, ended = set(asked), threading.Event()

        def watch() -> None:
            is_told = False
            while not ended.wait(_JOIN_S):
                try:
                    joined = {node: name for node, name in node_names().items() if node not in known}
                    if not joined:
                        continue
                    lacks, _ = self._lacks(joined)
                    known.update(joined)
                    fit = [name for node, name in joined.items() if node not in lacks]
                    if fit:
                        say(f"joined: node {', node '.join(fit)}")
                    for line in lacks.values():
                        say(f"a node that has joined is not fit, and what runs on it may fail: {line}")
                    lack = self._database_lack(len(known))
                    if lack is not None and not is_told:
                        is_told = True
                        say(f"what runs on a node that has joined may fail: {lack}")
                except Exception:  # of any kind: the cluster does not answer for now, or ends
                    continue

        watching = threading.Thread(target=watch, name="nodes that join", daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()

    def _database_lack(self, num_nodes: int) -> str | None:
        """Why so many nodes cannot be tracked together, and the remedy; None where they can."""
        path = sqlite_path(self.tracker.uri) if self.tracker is not None else None
        if path is None or num_nodes <= 1:
            return None
        command = "mlflow server --backend-store-uri postgresql://... --artifacts-destination s3://..."
        return (
            f"the tracking database '{path}' is an SQLite file, which {num_nodes} nodes cannot write together; "
            f"start a server ({command}) and set MLFLOW_TRACKING_URI to it"
        )

    def _lacks(self, nodes: dict[str, str], sources: tuple[str, ...] = ()) -> tuple[dict[str, str], dict[str, int | None]]:
        """Of some nodes, by id with what they are called, those that cannot do their part: all that each lacks, in a line.

        And the memory of each one's smallest GPU.
        """
        told: dict[str, str] = {}
        probe = f".seen-by-every-node-{uuid.uuid4().hex[:8]}"
        if self.storage.is_local:
            remedy = "give --storage s3://bucket/prefix, or a folder that all nodes share"
            told[f"{self.storage.root}/{probe}"] = f"does not see the storage root '{self.storage.root}'; {remedy}"
        probes = [Path(path) for path in told]
        for source in sources:
            remedy = "put them where all nodes see them, or prepare them on one machine first"
            told[str(source)] = f"does not see the images in '{source}'; {remedy}"
        try:
            for path in probes:
                path.touch()
            reports = _reports(nodes, list(told), self.storage, self.tracker)
        finally:
            for path in probes:
                path.unlink(missing_ok=True)
        lacks = {node: [report] if isinstance(report, str) else _lacks_of(*report, told) for node, report in reports.items()}
        memory = {node: None if isinstance(report, str) else report[0].gpu_bytes for node, report in reports.items()}
        return {node: f"node {nodes[node]} {'; and it '.join(found)}" for node, found in lacks.items() if found}, memory


def _lacks_of(report: Report, late_s: float, told: dict[str, str]) -> list[str]:
    """What a node lacks by its report, each with the remedy. Args: `told`, what to say of each file that it does not see."""
    lacks = [told[path] for path in report.missing]
    for what, mine in versions().items():
        theirs = report.versions.get(what, "none")
        if theirs != mine:
            remedy = "install requirements.lock there, or give the cluster this checkout: ray job submit --working-dir ."
            lacks.append(f"has {what} {theirs}, and this process has {mine}; {remedy}")
            break  # of versions the first one: one remedy is for all of them
    for what, reason in report.failures.items():
        lacks.append(f"cannot reach {what} ({reason}); see to its network, address and credentials there")
    if late_s > _CLOCK_S:
        lacks.append(f"has a clock that is {late_s:.0f} s off; set it by a time server (chrony, systemd-timesyncd)")
    return lacks


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


def look(paths: Iterable[str], storage: Storage, tracker: Tracker | None) -> Report:
    """What this machine says of itself."""
    failures: dict[str, str] = {}
    if not storage.is_local:
        try:
            storage.exists("a")
        except Exception as error:  # of any kind: it is told
            failures[f"the storage root '{storage.root}'"] = without_logins(why(error))
    if tracker is not None and sqlite_path(tracker.uri) is None:
        try:
            tracker.check_reachable()
        except Exception as error:  # of any kind: it is told
            failures["MLflow"] = without_logins(first_line(error))
    # Not `Path.exists`: of what is below a folder that may not be entered it raises an error.
    missing = tuple(path for path in paths if not os.path.exists(path))
    return Report(versions(), missing, failures, time.time(), gpu_bytes())


def gpu_bytes() -> int | None:
    """The memory of this machine's smallest GPU, as its driver's own program tells it; None where there is none, or it does not tell."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_DRIVER_S,
            check=True,
        )
        return min(int(line) for line in told.stdout.split()) << 20  # of MiB
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _reports(nodes: Iterable[str], paths: list[str], storage: Storage, tracker: Tracker | None) -> dict[str, tuple[Report, float] | str]:
    """By node, what it says, and by how many seconds at least its clock differs from that of this machine; or why it says nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(look)
    began = time.time()
    asked = {
        node: task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths, storage, tracker)
        for node in nodes
    }
    found: dict[str, tuple[Report, float] | str] = {}
    absent = "see to it, or remove it from the cluster"
    for node, reference in asked.items():
        try:
            report: Report = ray.get(reference, timeout=_ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            found[node] = f"does not answer; {absent}"
        except ray.exceptions.RayTaskError as error:
            reason = without_logins(first_line(error.cause if isinstance(error.cause, BaseException) else error))
            found[node] = f"cannot run pixelmodels ({reason}); install requirements.lock there"
        except ray.exceptions.RayError as error:
            found[node] = f"does not answer ({type(error).__name__}); {absent}"
        else:
            found[node] = report, max(began - report.clock_s, report.clock_s - time.time(), 0.0)
    return found
