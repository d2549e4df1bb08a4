"""What a run needs, looked at before anything starts: a line that says what is missing beats waiting for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pixelmodels.errors import UserError

SPARE_CPUS = 1  # logical CPUs that training leaves to Ray Data


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


def runs_at_once(needs: WorkerNeeds) -> int:
    """How many models the cluster can train at a time, at least 1.

    Raises `UserError` when it can never have what one of them asks for, naming both numbers.
    """
    return room(needs, cluster_nodes())


def room(needs: WorkerNeeds, nodes: list[dict[str, float]]) -> int:
    """How many models' workers fit on nodes of these resources, each worker on one node, with a spare CPU left."""
    free = sorted((dict(node) for node in nodes), key=lambda node: node.get("CPU", 0.0))
    if free:
        free[-1]["CPU"] = free[-1].get("CPU", 0.0) - SPARE_CPUS
    workers = sum(_fit(needs.per_worker, node) for node in free)
    if workers >= needs.num_workers:
        return workers // needs.num_workers
    cpus, gpus = (int(sum(node.get(kind, 0.0) for node in nodes)) for kind in ("CPU", "GPU"))
    asked = f"{needs.num_workers} worker(s) of {needs.cpus_per_worker} CPU(s)" + (" and a GPU" if needs.use_gpu else "")
    have = f"{cpus} logical CPU(s)" + (f" and {gpus} GPU(s)" if needs.use_gpu else "")
    remedy = (
        f"give --num-workers {workers}"
        if workers
        else ("train without --use-gpu" if needs.use_gpu and not gpus else "give fewer --cpus-per-worker")
    )
    raise UserError(
        f"--num-workers {needs.num_workers}: the cluster can never give {asked} beside {SPARE_CPUS} CPU for Ray Data, it has {have}; "
        f"{remedy}, or use a larger cluster"
    )


def cluster_nodes() -> list[dict[str, float]]:
    """Resources of each node that the cluster has, or that its autoscaler may add."""
    import ray

    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    largest = _autoscaler_limit()
    more = {kind: max(0.0, largest.get(kind, 0.0) - sum(node.get(kind, 0.0) for node in nodes)) for kind in ("CPU", "GPU")}
    return [*nodes, more] if any(more.values()) else nodes


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
