"""Whether the model of how training scales (`pixelmodels/training/scale.py`) says what is measured, on CPUs.

    python -m benchmarks.scale_model         # about 30 minutes, on a machine of two cores where nothing else runs

A head and two workers of `cluster/local_cluster.py` (Linux, root); each of the two trains on one core of its own. Known to the model are

- the speed of a worker with a small net (the digits' gated PixelCNN, steps of 64 and of 16 images: operations a second and seconds a
  kernel), once alone and once while another worker does the same beside it: two cores at work are slower than twice one, as they share
  caches and memory, and a cloud's two cores are often the two threads of one;
- the speed of the network (a sum of one number and of 8 MB over two workers: seconds a message and bytes a second; where it is slowed
  down, the limit that was set).

Predicted, and then measured, are a step of that net with two workers on two hosts, and of a larger one (PixelCNN++) with one worker and
with two; both with two again on a slow network. The figures are seconds of a step of 64 images, medians over the rounds, in each of
which every run takes its turn. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date. Exit
status 1 where a prediction is further off than its goal.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.scaling import ScalingOptions, trained
from cluster import network
from cluster.hosts import Host, wait_until
from cluster.local_cluster import LocalCluster, LocalClusterOptions
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, check_at_least, exit_with
from pixelmodels.ray_cluster import num_cores
from pixelmodels.recipes.suites import suite
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.cost import Cost, cost
from pixelmodels.training.scale import Machine, Scale

RESULTS = Path(__file__).parent / "results"
GOAL = 0.25  # of what is measured
DIGITS = ImageSpec(1, 8, 8, 17)
SMALL, LARGE = "gated_pixelcnn", "pixelcnn_pp"
BATCH, LITTLE = 64, 16
# Two processes, each on a host of its own, add up numbers; the first prints seconds of one and of 2^21 of them, best of twenty.
SUMS = """
import sys, time
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="tcp://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
for size in (1, 1 << 21):
    numbers, best = torch.zeros(size), 1e9
    for _ in range(20):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        best = min(best, time.perf_counter() - start)
    if sys.argv[2] == "0":
        print("seconds", best, flush=True)
"""
# An actor that stays holds the head's CPU.
HOLDING = """
import os, ray
ray.init(log_to_driver=False)
place = {f"node:{os.environ['HEAD']}": 0.001}
actor = ray.remote(type("Holder", (), {})).options(name="holder", num_cpus=1, resources=place, lifetime="detached").remote()
ray.get(actor.__ray_ready__.remote())
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare predicted with measured steps."""

    rounds: int = 3  # how often each run is made
    epochs: int = 6  # of each run
    megabits: int = 24  # a second, of the slow network

    def __post_init__(self) -> None:
        check_at_least(self, rounds=1, epochs=1, megabits=1)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training that is timed."""

    net: str
    batch_size: int
    num_workers: int
    is_slow: bool = False  # whether the network is slowed down
    at_once: int = 1  # how many of them train, each by itself

    def measure(self, cluster: LocalCluster, options: Options) -> float:
        """Seconds of a step."""
        told = ScalingOptions(epochs=options.epochs, batch_size=self.batch_size, recipe=self.net)
        slowed = cluster.workers if self.is_slow else ()
        for host in slowed:
            host.slow_down(1000 * options.megabits)
        try:
            with ThreadPoolExecutor(self.at_once) as pool:
                words = f"--num-workers {self.num_workers} --checkpoint-every-s 0"
                speeds = list(
                    pool.map(lambda number: trained(cluster, told, f"{told.recipe}-{told.batch_size}-{number}", words), range(self.at_once))
                )
        finally:
            for host in slowed:
                host.bring_back()
        return self.batch_size / statistics.mean(speeds)


RUNS = {
    "alone, 64 images": Run(SMALL, BATCH, 1),
    "alone, 16 images": Run(SMALL, LITTLE, 1),
    "beside another, 64 images": Run(SMALL, BATCH, 1, at_once=2),
    "beside another, 16 images": Run(SMALL, LITTLE, 1, at_once=2),
    "small, 2 workers": Run(SMALL, BATCH, 2),
    "large, 1 worker": Run(LARGE, BATCH, 1),
    "large, 2 workers": Run(LARGE, BATCH, 2),
    "small, 2 workers, slow network": Run(SMALL, BATCH, 2, is_slow=True),
    "large, 2 workers, slow network": Run(LARGE, BATCH, 2, is_slow=True),
}


def num_kernels(spent: Cost) -> float:
    """Kernels of a step, forward and backward."""
    return spent.num_kernels * spent.training_flops / spent.forward_flops


def put_apart(cluster: LocalCluster) -> None:
    """Bind each worker's host to a core of its own, and leave the head nothing to train with."""
    for core, host in zip(sorted(os.sched_getaffinity(0)), cluster.workers, strict=False):
        for pid in host.pids():
            os.sched_setaffinity(pid, {core})  # what it starts later, too
    variables = {"RAY_ADDRESS": f"{cluster.head.address}:{cluster.ray.port}", "HEAD": cluster.head.address}
    cluster.head.run([sys.executable, "-c", HOLDING], variables=variables, timeout_s=200.0)


def speed_of_network(first: Host, second: Host) -> tuple[float, float]:
    """Seconds of a message, and bytes a second, between two hosts."""
    log, address = first.folder / "sums.log", f"{first.address}:{first.free_port(29400)}"
    second.spawn([sys.executable, "-c", SUMS, address, "1"], second.folder / "sums.log")
    first.spawn([sys.executable, "-c", SUMS, address, "0"], log)
    if not wait_until(lambda: log.read_text().count("seconds") == 2, 120.0):
        raise RuntimeError(f"two hosts do not add up: {log.read_text()}")
    one, many = (float(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("seconds"))
    return one / 2, 4 * (1 << 21) / (many - one)  # of two workers each sends as many bytes as there are


def main(argv: list[str] | None = None) -> int:
    """Measure, predict, print and write what was found; status 1 where the goal is missed."""
    options = parse(Options, argv)
    if (reason := network.lacks()) is not None:
        raise UserError(f"hosts of their own cannot be had here: {reason}")
    recipes = {name: next(one for one in suite("digits") if one.name == name) for name in (SMALL, LARGE)}
    costs = {name: cost(recipe, DIGITS) for name, recipe in recipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    with LocalCluster(LocalClusterOptions(workers=2, cpus=1, mlflow=True)) as cluster:
        put_apart(cluster)
        message_s, bytes_per_s = speed_of_network(*cluster.workers)
        for number in range(options.rounds):
            for name, run in RUNS.items():
                seconds[name].append(run.measure(cluster, options))
                print(f"round {number + 1}: {name}: {seconds[name][-1]:.4f} s a step", flush=True)
    measured = {name: statistics.median(found) for name, found in seconds.items()}
    alone, busy = (
        Machine(
            name="CPU",
            flops_per_s={"float32": (BATCH - LITTLE) * costs[SMALL].training_flops / (measured[much] - measured[little])},
            kernel_s=(measured[little] - LITTLE * (measured[much] - measured[little]) / (BATCH - LITTLE)) / num_kernels(costs[SMALL]),
            memory_bytes_per_s=math.inf,  # the nets are small
            link_bytes_per_s=bytes_per_s,
            network_bytes_per_s=bytes_per_s,
            message_s=message_s,
            starts_ahead=False,
        )
        for much, little in (("alone, 64 images", "alone, 16 images"), ("beside another, 64 images", "beside another, 16 images"))
    )
    slow = dataclasses.replace(busy, network_bytes_per_s=options.megabits * 1e6 / 8)
    rows = {}
    for name, run in RUNS.items():
        if name.startswith(("alone", "beside")):
            continue
        recipe = dataclasses.replace(recipes[run.net], batch_size=run.batch_size)
        machine = slow if run.is_slow else busy if run.num_workers == 2 else alone
        predicted = Scale(recipe, costs[run.net], DIGITS, machine).step(run.num_workers).seconds
        off = predicted / measured[name] - 1
        rows[name] = {"measured_s": round(measured[name], 4), "predicted_s": round(predicted, 4), "off": round(off, 3)}
    report = {
        "options": dataclasses.asdict(options),
        "machine": {"cores": num_cores(), "processor": platform.machine(), "python": platform.python_version()},
        "known": {
            "gflops_per_s": [round(machine.flops_per_s["float32"] / 1e9, 1) for machine in (alone, busy)],
            "kernel_us": [round(1e6 * machine.kernel_s, 1) for machine in (alone, busy)],
            "message_us": round(1e6 * message_s, 1),
            "network_mb_per_s": round(bytes_per_s / 1e6, 1),
        },
        "seconds": {name: [round(one, 4) for one in found] for name, found in seconds.items()},
        "predictions": rows,
        "goal": GOAL,
    }
    (RESULTS / f"scale_model-{datetime.date.today()}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0 if all(abs(row["off"]) <= GOAL for row in rows.values()) else 1


if __name__ == "__main__":
    exit_with(main)
