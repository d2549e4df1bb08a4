"""Ray as pipelines use it: joined or started, and what the cluster has room for.

The library itself never starts Ray. Ray is imported inside functions, `connect` first of all, after the variables that it reads when
it is imported are set; import this module before anything that imports Ray.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pixelmodels.errors import UserError, check_at_least, end_on_sigterm, first_line
from pixelmodels.internals import draining_nodes, has_autoscaler, shorten_cluster_messages

_STDERR = 2
_REMARK = b"has constructor arguments in the object store and max_restarts > 0"
OBJECT_STORE_BYTES = 1 << 30  # shared memory of a local Ray; images pass through it in blocks
SPARE_CPUS = 1  # logical CPUs that training leaves to Ray Data
LAUNCHED = Path("~/ray_bootstrap_config.yaml")  # where Ray's cluster launcher leaves on the head what it may start
LEAST_GPU = 0.01  # the smallest share of a GPU that a worker can have

# Read by Ray when it is imported or started; what the user has set is kept.
_QUIET = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this interpreter, not a new environment each
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each run; a run's first worker looks itself whether a node goes
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives a shutdown does not start another Ray
}
# For a Ray that is started here. Ray caches both when it is imported, so they cannot be set later than that.
_LOCAL = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too, this makes every one of Ray's servers listen on loopback only
    "RAY_worker_maximum_startup_concurrency": "8",  # Ray warns of a process that only waits as if it took a core
}


def connect(num_cpus: int | None = None, *, log_to_driver: bool = False) -> None:
    """Join the cluster of `RAY_ADDRESS` (set inside a Ray job), else start a local Ray; a second call does nothing.

    Args: `num_cpus`, logical CPUs of a local Ray (cores + 1 unless given: one for Ray Data while training workers hold
    the others); `log_to_driver`, whether a local Ray's workers print to this terminal.
    Raises `UserError` when the cluster of `RAY_ADDRESS` cannot be reached.
    """
    address = os.environ.get("RAY_ADDRESS")
    address = None if address == "local" else address
    if "ray" not in sys.modules:
        for name, value in (_QUIET if address else _QUIET | _LOCAL).items():
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    quiet_logs()
    shorten_cluster_messages()
    if address:
        try:
            _check_reachable(address)
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=log_to_driver)
            end_on_sigterm()  # Ray's own handler aborts
        except (OSError, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise UserError(f"Ray at RAY_ADDRESS '{address}' cannot be joined ({reason}); start it, or unset RAY_ADDRESS") from error
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(mode=0o700, exist_ok=True)  # Ray writes its token here, readable by everybody
    except (OSError, RuntimeError) as error:
        remedy = "set HOME to a folder that can be written"
        raise UserError(f"Ray keeps its token in the home folder, which cannot be written ({first_line(error)}); {remedy}") from error
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus or num_cores() + 1,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
        )
        end_on_sigterm()
    except Exception as error:  # a node that is too slow to start is an `Exception` and no more
        raise UserError(f"a local Ray cannot be started ({first_line(error)}); {_remedy(error)}") from error
    token = folder / "auth_token"
    if token.is_file():
        token.chmod(0o600)


def join() -> None:
    """Join the cluster of `RAY_ADDRESS` where one is named: for what needs no Ray on one machine; see `connect`."""
    if os.environ.get("RAY_ADDRESS", "local") != "local":
        connect()


def _remedy(error: BaseException) -> str:
    """What helps where a local Ray does not start."""
    if "AF_UNIX path length" in str(error):  # of sockets in the folder of its session
        return "set RAY_TMPDIR to a folder with a shorter name, such as /tmp"
    if isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
        return "set RAY_TMPDIR to a folder that can be written"
    return "free memory, disk or processes and try again"


def _check_reachable(address: str) -> None:
    """Raise `OSError` when nobody answers at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def quiet_logs() -> None:
    """Keep Ray's own progress notes off the terminal; warnings and errors stay, and the files of its session keep all."""
    import ray.data  # sets up its loggers when it is imported

    for name in ("ray", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logger = logging.getLogger("ray.data")
    for handler in logger.handlers:
        if type(handler).__name__ == "PlainRayHandler":  # the terminal's
            handler.setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "Progress bars disabled"
    ray.data.DataContext.get_current().enable_progress_bars = False


def num_cores() -> int:
    """Cores that this process may use: those that it is bound to, or the quota of its container where that is less."""
    import joblib

    return int(joblib.cpu_count())


@contextmanager
def without_remarks() -> Iterator[None]:
    """Keep a remark of Ray's C++ parts off the terminal, which they write to past Python; all other lines pass.

    Ray Data restarts the actors of a pool, and hands them their arguments by way of the object store: at each start Ray remarks on that.
    """
    reading, writing = os.pipe()
    terminal = os.dup(_STDERR)
    os.dup2(writing, _STDERR)
    os.close(writing)

    def forward() -> None:
        with open(reading, "rb") as lines:
            for line in lines:
                while line and _REMARK not in line:
                    line = line[os.write(terminal, line) :]

    forwarding = threading.Thread(target=forward, daemon=True)
    forwarding.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, _STDERR)  # the pipe is closed with it, unless a process that was started meanwhile has it too
        forwarding.join(timeout=1.0)
        if not forwarding.is_alive():
            os.close(terminal)


@dataclass(frozen=True)
class WorkerNeeds:
    """What the training of one model reserves."""

    num_workers: int  # data-parallel workers of one model, at least
    cpus_per_worker: int = 1  # logical CPUs that each of them reserves
    use_gpu: bool = False  # whether each of them reserves a GPU too
    max_workers: int | None = None  # at most, where the cluster has room; as many as at least unless given
    gpus_per_worker: float | None = None  # the share of a GPU that each of them reserves, where that is not all of one

    def __post_init__(self) -> None:
        check_at_least(self, num_workers=1, cpus_per_worker=1)
        if self.gpus_per_worker is not None and not LEAST_GPU <= self.gpus_per_worker <= 1:
            shares = f"a worker trains on one GPU, or on a share of one; give {LEAST_GPU:g} to 1, such as 0.25"
            raise UserError(f"--gpus-per-worker {self.gpus_per_worker:g} cannot be had: {shares}")
        if self.most < self.num_workers:
            raise UserError(f"--num-workers {self.num_workers}..{self.most} is no range; give the smaller number first")

    @classmethod
    def asked(
        cls, workers: int | str, cpus_per_worker: int = 1, use_gpu: bool = False, gpus_per_worker: float | None = None
    ) -> WorkerNeeds:
        """By a number of workers, or a range of them such as `2..8`; raises `UserError` for what is neither.

        Args: `gpus_per_worker`, of which any number means that there are GPUs.
        """
        least, dots, most = str(workers).partition("..")
        try:
            numbers = int(least), int(most) if dots else None
        except ValueError:
            raise UserError(f"--num-workers '{workers}' is no number of workers; give one, or a range such as 2..8") from None
        return cls(numbers[0], cpus_per_worker, use_gpu or gpus_per_worker is not None, numbers[1], gpus_per_worker)

    @property
    def most(self) -> int:
        """Workers of one model at most."""
        return self.num_workers if self.max_workers is None else self.max_workers

    @property
    def workers(self) -> str:
        """How many, for a message."""
        return f"{self.num_workers if self.most == self.num_workers else f'{self.num_workers} to {self.most}'} worker(s)"

    @property
    def each(self) -> str:
        """What each worker reserves, for a message."""
        gpu = "a GPU" if self.gpus == 1 else f"{self.gpus:g} of a GPU"
        return f"{self.cpus_per_worker} CPU(s)" + (f" and {gpu}" if self.use_gpu else "")

    @property
    def gpus(self) -> float:
        """GPUs that each worker reserves."""
        return (1.0 if self.gpus_per_worker is None else self.gpus_per_worker) if self.use_gpu else 0.0

    @property
    def per_worker(self) -> dict[str, float]:
        """Ray resources of one worker."""
        return {"CPU": float(self.cpus_per_worker), **({"GPU": self.gpus} if self.use_gpu else {})}


def runs_at_once(needs: WorkerNeeds, spare_cpus: int = SPARE_CPUS, wanted: int = 1) -> int:
    """How many models the cluster can have workers of at a time, at least 1, with `spare_cpus` (0 or 1) left to Ray Data.

    Where a model may have more workers or fewer, as many as have room for all that they may have: the first ones take what there is.

    Args: `wanted`, as many as are had where an autoscaler does not tell how many it has room for.
    Raises `UserError` when it can never have what one of them asks for, naming both numbers.
    """
    return room(needs, cluster_nodes(needs, wanted), spare_cpus)


def room(needs: WorkerNeeds, nodes: list[dict[str, float]], spare_cpus: int = SPARE_CPUS) -> int:
    """How many models' workers fit on nodes of these resources, each worker on one node, with spare CPUs left on one of them."""
    workers = places(needs, nodes, spare_cpus)
    if workers >= needs.num_workers:
        return max(1, workers // needs.most)
    cpus, gpus = (int(sum(node.get(kind, 0.0) for node in nodes)) for kind in ("CPU", "GPU"))
    asked = f"{needs.num_workers} worker(s) of {needs.each}"
    have = f"{cpus} logical CPU(s)" + (f" and {gpus} GPU(s)" if needs.use_gpu else "")
    if workers:
        remedy = f"give --num-workers {workers}"
    elif needs.use_gpu and not gpus:
        remedy = f"do without --{'use-gpu' if needs.gpus_per_worker is None else 'gpus-per-worker'}"
    elif needs.cpus_per_worker == 1:
        remedy = f"start Ray with --num-cpus {1 + spare_cpus}"
    else:
        remedy = "give fewer --cpus-per-worker"
    spare = f" beside {spare_cpus} CPU for Ray Data" if spare_cpus else ""
    raise UserError(
        f"--num-workers {needs.num_workers}: the cluster can never give {asked}{spare}, it has {have}; {remedy}, or use a larger cluster"
    )


def places(needs: WorkerNeeds, nodes: list[dict[str, float]], spare_cpus: int = SPARE_CPUS) -> int:
    """How many workers fit on nodes of these resources, with spare CPUs left on one of them; 0 where there are no spare ones."""
    fit = [_fit(needs.per_worker, node) for node in nodes]
    beside = [_fit(needs.per_worker, {**node, "CPU": node.get("CPU", 0.0) - spare_cpus}) for node in nodes]
    # They are spared where that costs the fewest workers.
    costs = [all_of_it - rest for node, all_of_it, rest in zip(nodes, fit, beside, strict=True) if node.get("CPU", 0.0) >= spare_cpus]
    return sum(fit) - min(costs) if costs else 0


def _fit(needs: dict[str, float], node: dict[str, float]) -> int:
    # Not `//`: ten times 0.1 is a whole, and memory may be boundless.
    return max(0, int(min(node.get(kind, 0.0) / amount for kind, amount in needs.items()) + 1e-6))


def has_memory(needs: WorkerNeeds, worker_bytes: float, nodes: list[dict[str, float]]) -> bool:
    """Whether the nodes' main memory holds all workers of one model that need so much each, where their CPUs are."""
    return sum(_fit({**needs.per_worker, "memory": worker_bytes}, node) for node in nodes) >= needs.num_workers


def threads_per_worker(needs: WorkerNeeds, num_runs: int) -> int:
    """Torch threads of a worker when `num_runs` models train at a time: its part of the cluster's CPUs.

    At least what it reserves; more where CPUs would idle otherwise (the spare one, while Ray Data has nothing to do).
    """
    cpus = sum(node.get("CPU", 0.0) for node in cluster_nodes(needs, num_runs))
    return max(needs.cpus_per_worker, int(cpus // (num_runs * needs.most)))


def cluster_nodes(needs: WorkerNeeds, num_runs: int = 1) -> list[dict[str, float]]:
    """Resources of each node that the cluster has, or that its autoscaler may add.

    Of an autoscaler that tells nobody what it may add, as KubeRay's, a node for each worker of so many models is taken for granted.
    """
    nodes = alive_nodes()
    if not has_autoscaler():
        return nodes
    each = {**needs.per_worker, "CPU": float(needs.cpus_per_worker + SPARE_CPUS)}
    return [*nodes, *nodes_to_come(nodes, node_kinds() or [(each, num_runs * needs.most)])]


def node_kinds(path: Path = LAUNCHED) -> list[tuple[dict[str, float], int]]:
    """What Ray's cluster launcher may start: resources of each kind of node, and how many of it at most; nothing where that is not told."""
    import yaml

    try:
        config = yaml.safe_load(path.expanduser().read_text())
        most_of_all = int(config["max_workers"])
        kinds = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
        return [
            ({name: float(amount) for name, amount in kind["resources"].items()}, min(most_of_all, int(kind["max_workers"])))
            for kind in kinds.values()
        ]
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
        return []


def nodes_to_come(nodes: Sequence[dict[str, float]], kinds: Sequence[tuple[dict[str, float], int]]) -> list[dict[str, float]]:
    """What an autoscaler may add to nodes that are there: resources of each node, the memory boundless where it does not say.

    Args: `kinds`, resources of each kind of node, and how many of it there may be.
    """
    left, coming = list(nodes), []
    for resources, most in kinds:
        for _ in range(most):
            alike = (node for node in left if all(node.get(kind, 0.0) == resources.get(kind, 0.0) for kind in ("CPU", "GPU")))
            there = next(alike, None)
            if there is not None:
                left.remove(there)
            else:
                coming.append({"memory": math.inf, **resources})
    return coming


@contextmanager
def asking_for(needs: WorkerNeeds, num_runs: int) -> Iterator[None]:
    """Have an autoscaler start, while the context is open, all the workers that runs may have; what they begin with it sees itself.

    Leave it before Ray is shut down: machines that nobody takes back what was asked for stay up.
    Where several programs ask one autoscaler for more than they need to begin, it heeds the last.
    """
    if needs.most == needs.num_workers or not has_autoscaler():
        yield
        return
    from ray.autoscaler.sdk import request_resources

    most = min(num_runs * needs.most, places(needs, cluster_nodes(needs, num_runs)))
    request_resources(bundles=[needs.per_worker] * most)
    try:
        yield
    finally:
        with suppress(Exception):  # of any kind: a cluster that no longer answers asks for no machines either
            request_resources(bundles=[])


def alive_nodes() -> list[dict[str, float]]:
    """Resources of each node that the cluster has now, those left out that are about to go."""
    import ray

    going = draining_nodes()
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]
