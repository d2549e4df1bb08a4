"""What a run needs, looked at before anything starts: a line that says what is missing beats waiting for ever."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking.location import sqlite_path

SPARE_CPUS = 1  # logical CPUs that training leaves to Ray Data
_ANSWER_S = 120.0  # a node that has to start a process first may take this long to answer


@dataclass(frozen=True)
class WorkerNeeds:
    """What the training of one model reserves."""

    num_workers: int  # data-parallel workers of one model
    cpus_per_worker: int = 1  # logical CPUs that each of them reserves
    use_gpu: bool = False  # whether each of them reserves a GPU too

    def __post_init__(self) -> None:
        for name in ("num_workers", "cpus_per_worker"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)} is too few; give 1 or more")

    @property
    def per_worker(self) -> dict[str, float]:
        """Ray resources of one worker."""
        return {"CPU": float(self.cpus_per_worker), **({"GPU": 1.0} if self.use_gpu else {})}


def runs_at_once(needs: WorkerNeeds, spare_cpus: int = SPARE_CPUS) -> int:
    """How many models the cluster can have workers of at a time, at least 1, with `spare_cpus` (0 or 1) left to Ray Data.

    Raises `UserError` when it can never have what one of them asks for, naming both numbers.
    """
    return room(needs, cluster_nodes(), spare_cpus)


def room(needs: WorkerNeeds, nodes: list[dict[str, float]], spare_cpus: int = SPARE_CPUS) -> int:
    """How many models' workers fit on nodes of these resources, each worker on one node, with spare CPUs left on one of them."""
    fit = [_fit(needs.per_worker, node) for node in nodes]
    beside = [_fit(needs.per_worker, {**node, "CPU": node.get("CPU", 0.0) - spare_cpus}) for node in nodes]
    # They are spared where that costs the fewest workers.
    costs = [all_of_it - rest for node, all_of_it, rest in zip(nodes, fit, beside, strict=True) if node.get("CPU", 0.0) >= spare_cpus]
    workers = sum(fit) - min(costs) if costs else 0
    if workers >= needs.num_workers:
        return workers // needs.num_workers
    cpus, gpus = (int(sum(node.get(kind, 0.0) for node in nodes)) for kind in ("CPU", "GPU"))
    asked = f"{needs.num_workers} worker(s) of {needs.cpus_per_worker} CPU(s)" + (" and a GPU" if needs.use_gpu else "")
    have = f"{cpus} logical CPU(s)" + (f" and {gpus} GPU(s)" if needs.use_gpu else "")
    if workers:
        remedy = f"give --num-workers {workers}"
    elif needs.use_gpu and not gpus:
        remedy = "do without --use-gpu"
    elif needs.cpus_per_worker == 1:
        remedy = f"start Ray with --num-cpus {1 + spare_cpus}"
    else:
        remedy = "give fewer --cpus-per-worker"
    spare = f" beside {spare_cpus} CPU for Ray Data" if spare_cpus else ""
    raise UserError(
        f"--num-workers {needs.num_workers}: the cluster can never give {asked}{spare}, it has {have}; {remedy}, or use a larger cluster"
    )


def has_memory(needs: WorkerNeeds, worker_bytes: float, nodes: list[dict[str, float]]) -> bool:
    """Whether the nodes' main memory holds all workers of one model that need so much each, where their CPUs are."""
    return sum(min(_fit(needs.per_worker, node), int(node.get("memory", 0.0) // worker_bytes)) for node in nodes) >= needs.num_workers


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each node that the cluster has, or that its autoscaler may add."""
    import ray

    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    largest = _autoscaler_limit()
    more = {kind: max(0.0, largest.get(kind, 0.0) - sum(node.get(kind, 0.0) for node in nodes)) for kind in ("CPU", "GPU")}
    return [*nodes, more] if any(more.values()) else nodes


def check_shared(storage: Storage, tracking_uri: str) -> None:
    """See that every node of the cluster has the storage root and the tracking database, where these are local files.

    Raises `UserError` naming the first node that has not. A cluster of one node has them.
    """
    folders = [Path(storage.root)] if storage.is_local else []
    database = sqlite_path(tracking_uri)
    folders += [database.parent] if database is not None else []
    nodes = _alive_nodes()
    if len(nodes) < 2 or not folders:
        return
    name = f".seen-by-every-node-{uuid.uuid4().hex[:8]}"
    probes = [folder / name for folder in dict.fromkeys(folders)]
    try:
        for probe in probes:
            probe.touch()
        missing = _missing_on(nodes, [str(probe) for probe in probes])
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)
    for node, lacking in missing.items():
        host = nodes[node]
        if storage.is_local and str(probes[0]) in lacking:
            raise UserError(
                f"node {host} does not see the storage root '{storage.root}'; give --storage s3://bucket/prefix, "
                "or a folder that all nodes share"
            )
        if lacking:
            raise UserError(
                f"node {host} does not see the tracking database '{database}'; start `mlflow server` and set MLFLOW_TRACKING_URI to it"
            )


def _alive_nodes() -> dict[str, str]:
    """Host name and address of each node, by its id."""
    import ray

    return {node["NodeID"]: f"'{node['NodeManagerHostname']}' ({node['NodeManagerAddress']})" for node in ray.nodes() if node["Alive"]}


def _missing_on(nodes: dict[str, str], paths: list[str]) -> dict[str, list[str]]:
    """By node, which of some files do not exist there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_missing)
    asked = {
        node: task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths) for node in nodes
    }
    found: dict[str, list[str]] = {}
    for node, reference in asked.items():
        try:
            found[node] = ray.get(reference, timeout=_ANSWER_S)
        except ray.exceptions.RayError as error:
            raise UserError(
                f"node {nodes[node]} does not answer ({type(error).__name__}); see to it, or remove it from the cluster"
            ) from error
    return found


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def threads_per_worker(needs: WorkerNeeds, num_runs: int) -> int:
    """Torch threads of a worker when `num_runs` models train at a time: its part of the cluster's CPUs.

    At least what it reserves; more where CPUs would idle otherwise (the spare one, while Ray Data has nothing to do).
    """
    cpus = sum(node.get("CPU", 0.0) for node in cluster_nodes())
    return max(needs.cpus_per_worker, int(cpus // (num_runs * needs.num_workers)))


def _fit(needs: dict[str, float], node: dict[str, float]) -> int:
    return max(0, min(int(node.get(kind, 0.0) // amount) for kind, amount in needs.items()))


def _autoscaler_limit() -> dict[str, Any]:
    """The most that the autoscaler may bring the cluster to; nothing where there is none."""
    from ray._private.state import state

    return dict(state.get_max_resources_from_cluster_config() or {})
