"""Whether the model of how training scales (`pixelmodels/training/scale.py`) says what is measured, on CPUs.

    python -m benchmarks.scale_model         # about 15 minutes, on a machine of two cores where nothing else runs

A head and two workers of `cluster/local_cluster.py` (Linux, root), one thread each. Known to the model are the speed of one worker with
a small net (the digits' gated PixelCNN, steps of 64 and of 16 images: operations a second and seconds a kernel), and of the network (a
sum of one number and of 8 MB over two workers: seconds a message and bytes a second; where it is slowed down, the limit that was set).
Predicted, and then measured, are a step of that net with two workers on two hosts, and of a larger one (PixelCNN++) with one worker and
with two; both again with a slow network. The figures are seconds of a step of 64 images, medians over the rounds, in each of which
every run takes its turn. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date. Exit
status 1 where a prediction is further off than its goal.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import platform
import statistics
import sys
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
from pixelmodels.training.cost import cost
from pixelmodels.training.scale import Machine, Scale

RESULTS = Path(__file__).parent / "results"
GOAL = 0.25  # of what is measured
DIGITS = ImageSpec(1, 8, 8, 17)
SMALL, LARGE = "gated_pixelcnn", "pixelcnn_pp"
BATCH, LITTLE = 64, 16
ONE, TWO = "--num-workers 1", "--num-workers 2"
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


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare predicted with measured steps."""

    rounds: int = 3  # how often each run is made
    epochs: int = 3  # of each run
    megabits: int = 24  # a second, of the slow network

    def __post_init__(self) -> None:
        check_at_least(self, rounds=1, epochs=1, megabits=1)


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
    # By name: net, images a step, workers, whether the network is slow.
    runs = {
        "small, 64 images, 1 worker": (SMALL, BATCH, ONE, False),
        "small, 16 images, 1 worker": (SMALL, LITTLE, ONE, False),
        "small, 2 workers": (SMALL, BATCH, TWO, False),
        "large, 1 worker": (LARGE, BATCH, ONE, False),
        "large, 2 workers": (LARGE, BATCH, TWO, False),
        "small, 2 workers, slow network": (SMALL, BATCH, TWO, True),
        "large, 2 workers, slow network": (LARGE, BATCH, TWO, True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with LocalCluster(LocalClusterOptions(workers=2, cpus=1, mlflow=True)) as cluster:
        message_s, bytes_per_s = speed_of_network(*cluster.workers)
        for number in range(options.rounds):
            for name, (net, batch, words, is_slow) in runs.items():
                told = ScalingOptions(epochs=options.epochs, batch_size=batch, recipe=net)
                for host in cluster.workers if is_slow else ():
                    host.slow_down(1000 * options.megabits)
                try:
                    speed = trained(cluster, told, f"{net}-{batch}-{words[-1]}-{is_slow}", f"{words} --checkpoint-every-s 0")
                finally:
                    for host in cluster.workers if is_slow else ():
                        host.bring_back()
                seconds[name].append(batch / speed)
                print(f"round {number + 1}: {name}: {seconds[name][-1]:.4f} s a step", flush=True)
    measured = {name: statistics.median(found) for name, found in seconds.items()}
    much, little = list(measured.values())[:2]
    spent = costs[SMALL]
    machine = Machine(
        name="CPU",
        flops_per_s={"float32": (BATCH - LITTLE) * spent.training_flops / (much - little)},
        kernel_s=(little - LITTLE * (much - little) / (BATCH - LITTLE)) / (spent.num_kernels * spent.training_flops / spent.forward_flops),
        memory_bytes_per_s=math.inf,  # the nets are small
        link_bytes_per_s=bytes_per_s,
        network_bytes_per_s=bytes_per_s,
        message_s=message_s,
        storage_bytes_per_s=math.inf,
        starts_ahead=False,
    )
    slow = dataclasses.replace(machine, network_bytes_per_s=options.megabits * 1e6 / 8)
    rows = {}
    for name, (net, batch, words, is_slow) in list(runs.items())[2:]:
        recipe = dataclasses.replace(recipes[net], batch_size=batch)
        predicted = Scale(recipe, costs[net], DIGITS, slow if is_slow else machine, 0.0).step(2 if words == TWO else 1).seconds
        off = predicted / measured[name] - 1
        rows[name] = {"measured_s": round(measured[name], 4), "predicted_s": round(predicted, 4), "off": round(off, 3)}
    report = {
        "options": dataclasses.asdict(options),
        "machine": {"cores": num_cores(), "processor": platform.machine(), "python": platform.python_version()},
        "known": {
            "gflops_per_s": round(machine.flops_per_s["float32"] / 1e9, 1),
            "kernel_us": round(1e6 * machine.kernel_s, 1),
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
