"""What serving costs, and what it keeps under load: throughput, latencies, overload, a soak, a killed sampler.

    python benchmarks/serving.py            # minutes of load for each figure, 10,000 requests of a soak
    python benchmarks/serving.py --quick    # to see that it works: under 10 minutes on 2 cores

The 28x28 net of `benchmarks/sampling.py` (gated, 8 layers of 64 features, 2 levels, fresh weights), served over HTTP by one
sampler on all cores, against the raster engine alone on the same cores, which takes turns with the service so that both see
the same machine. Requests come from a load generator of its own, in this process and on the same cores: at random times
(Poisson), or so many at a time. The static baseline is the same service whose sampler draws batches of `@serve.batch`: those
that have come when it is idle begin together, and are answered together.

    saturation_over_engine    images/s with more asked for than can be drawn, over the engine's with all slots taken
    idle_latency_over_engine  median of a single image on an idle service, over the engine's own
    p95_over_static           95th percentile of single images at 70% load, over the static baseline's, for arrivals of single images
                              and for a mix in which one request in ten is of 64
    late_single_over_full     a single image while a request of 500 is drawn, over the time that an image takes in a full batch (median)

The last thing printed is one JSON object, also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a script

from benchmarks.sampling_load import poisson
from benchmarks.serving_load import Answer, Connections, closed_loop, figures, open_loop
from benchmarks.serving_static import StaticSampler
from pixelmodels import rayctx
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.files import load_model, save_model
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.sampling.engine import Engine, Request, draw_all
from pixelmodels.serving import running
from pixelmodels.serving.settings import Settings
from pixelmodels.shapes import ImageSpec

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NUM_SLOTS = 64
SIZE = 28
LATE_SINGLE_S, WHOLE_S = 600.0, 300.0  # then the benchmark fails
LOAD = 0.7  # of what the service draws when it is saturated
OVERLOAD = 3.0
MIX = {"single": (0, 1), "mix": (10, 64)}  # one request in `every` asks for `many` images
SETTLE_S = 3.0  # from the first request until the slots are taken
COMPARED = 200  # images of the soak that are drawn again, alone
MANY = 500  # images of the request during which single ones arrive


@dataclass(frozen=True)
class Arguments:
    """Measure what serving costs."""

    quick: bool = False  # to see that it works: seconds of load for each figure
    seconds: float = 60.0  # of load for each figure (12 with --quick)
    rounds: int = 3  # in which the engine and the service take turns (1 with --quick)
    num_features: int = 64  # of the net
    num_layers: int = 8  # of the net
    soak: int = 10_000  # requests (300 with --quick)
    out: Path = RESULTS  # folder for the JSON
    engine: Path | None = None  # measure the engine alone, of the model in this folder, and print that; used by the benchmark itself

    @property
    def load_s(self) -> float:
        """Seconds of load for each figure."""
        return min(self.seconds, 12.0) if self.quick else self.seconds


def network(num_layers: int, num_features: int) -> PixelModel:
    """The net that is served, with seeded weights."""
    torch.manual_seed(0)
    config = GatedPixelCNNConfig(num_layers=num_layers, num_features=num_features, head_features=num_features)
    return build(config, ImageSpec(1, SIZE, SIZE, 2), LikelihoodConfig("bernoulli"), ContextSpec()).eval()


# --- the engine alone ---


def measure_engine(folder: Path, seconds: float) -> dict[str, float]:
    """Images a second with all slots taken, seconds of an image in that batch, and median seconds of one alone."""
    torch.set_num_threads(rayctx.num_cores())
    engine = Engine(load_model(folder), num_slots=NUM_SLOTS, max_waiting=1 << 30)
    singles = []
    for seed in range(8):
        began = time.perf_counter()
        engine.submit(Request(seed=seed))
        while not engine.is_idle:
            engine.step_row()
        singles.append(time.perf_counter() - began)
    for seed in range(NUM_SLOTS):  # as many requests as slots: one alone would leave some of them free
        engine.submit(Request(n=1 << 14, seed=seed))
    for _ in range(2 * SIZE):  # until images are at all rows, as they are under load
        engine.step_row()
    began, num_rows = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        num_rows += len(engine.step_row())
    spent_s = time.perf_counter() - began
    images_per_s = num_rows / SIZE / spent_s
    return {"images_per_s": images_per_s, "full_batch_image_s": NUM_SLOTS / images_per_s, "single_s": float(np.median(singles[2:]))}


def engine_alone(folder: Path, seconds: float) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--engine", str(folder), "--seconds", str(seconds)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(rayctx.num_cores())}
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the services ---


def stop() -> None:
    """End the application that runs."""
    from ray import serve

    serve.shutdown()


def memory_mb(pids: list[int]) -> float:
    """Resident memory of processes, in MB."""
    total = 0.0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                total += int(line.split()[1]) / 1024
    return total


def replica_pids() -> dict[str, int]:
    """Processes of the replicas, by deployment."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            for name in ("Ingress", "Sampler"):
                if re.match(f"ray::.*pixelmodels[#:]{name}", title) and _mine(int(folder.name)):
                    found[name] = int(folder.name)
    return found


def _mine(pid: int) -> bool:
    """Whether a process is of the Ray that this one started."""
    import ray

    session = ray._private.worker._global_node.get_session_dir_path()
    try:
        return any(session in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in ("1", "2"))
    except OSError:
        return False


# --- figures ---


@dataclass
class Report:
    """What was measured."""

    found: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Keep a figure, and show it."""
        self.found[name] = rounded(value)
        print(f"{name}: {json.dumps(self.found[name])}", file=sys.stderr, flush=True)


async def saturation(web: Connections, seconds: float) -> dict[str, float]:
    """Images a second with more asked for than can be drawn, by single images and by requests of 16."""
    return {"single": await _saturated(web, 3 * NUM_SLOTS // 2, seconds, 1), "sixteen": await _saturated(web, 8, seconds, 16)}


async def _saturated(web: Connections, at_a_time: int, seconds: float, n: int) -> float:
    """Images a second, by the service's own count, from when the slots are taken until the load ends."""
    load = asyncio.create_task(closed_loop(web, at_a_time, SETTLE_S + seconds, n))
    await asyncio.sleep(SETTLE_S)
    before, began = await _num_drawn(web), time.perf_counter()
    await asyncio.sleep(seconds - 0.2)
    images, spent_s = await _num_drawn(web) - before, time.perf_counter() - began
    await load
    return images / spent_s


async def _num_drawn(web: Connections) -> float:
    lines = (await web.text("/metrics")).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("pixelmodels_images_drawn_total{"))


async def idle(web: Connections, count: int) -> float:
    """Median seconds of a single image on an idle service."""
    times = []
    for seed in range(count):
        answer = await web.draw(1, seed)
        times.append(answer.seconds)
    return float(np.median(times[2:]))


async def under_load(web: Connections, images_per_s: float, seconds: float) -> dict[str, Any]:
    """Latencies at a load, for each mix."""
    found = {}
    for name, (every, many) in MIX.items():
        answers = await open_loop(web, poisson(images_per_s, seconds, 1, every=every, many=many))
        found[name] = figures([answer for answer in answers if answer.n == 1], seconds)
    return found


async def late_single(web: Connections, count: int) -> float:
    """Median seconds of single images while a request of 500 is drawn."""
    times: list[float] = []
    until = time.perf_counter() + LATE_SINGLE_S
    while len(times) < count and time.perf_counter() < until:
        many = asyncio.create_task(web.draw(MANY, 0))
        await asyncio.sleep(0.5)
        while not many.done() and len(times) < count:
            answer = await web.draw(1, 1)
            if not many.done() and answer.status == 200:
                times.append(answer.seconds)
        await many
    if not times:
        raise UserError(f"no single image was back before its request of {MANY} was, in {LATE_SINGLE_S:.0f} s; the machine is too slow")
    return float(np.median(times))


async def overload(web: Connections, images_per_s: float, seconds: float) -> dict[str, Any]:
    """What happens when three times as much is asked for as can be drawn."""
    pids = list(replica_pids().values())
    before = memory_mb(pids)
    answers = await open_loop(web, poisson(OVERLOAD * images_per_s, seconds, 2, every=10, many=16))
    refused = [answer.seconds for answer in answers if answer.status == 429]
    return {
        "statuses": {str(status): count for status, count in Counter(answer.status for answer in answers).items()},
        "refusal_median_ms": 1000 * float(np.median(refused)) if refused else None,
        "accepted_max_s": max((answer.seconds for answer in answers if answer.status == 200), default=None),
        "memory_growth_mb": memory_mb(pids) - before,
    }


async def soak(web: Connections, count: int, model: PixelModel) -> dict[str, Any]:
    """Requests one after the other on many connections: each is answered once, with its own seed."""
    pids = list(replica_pids().values())
    before = memory_mb(pids)
    drawn_before = await _num_drawn(web)
    queue = list(range(count))
    answers: list[Answer] = []

    async def worker() -> None:
        while queue:
            answers.append(await web.draw(1, queue.pop(), keep=True))

    await asyncio.gather(*(worker() for _ in range(32)))
    told = Counter(answer.seed for answer in answers if answer.status == 200)
    by_image: dict[bytes, set[int]] = {}
    for answer in answers:
        if answer.images is not None:
            by_image.setdefault(answer.images.tobytes(), set()).add(answer.seed)
    compared = [(answer.seed, answer.images) for answer in answers if answer.images is not None][:COMPARED]
    flipped = sum(not np.array_equal(images, draw_all(model, Request(seed=seed)).numpy()) for seed, images in compared)
    return {
        "requests": count,
        "answered": len(answers),
        "right": sum(answer.status == 200 and answer.told_seed == answer.seed for answer in answers),
        "drawn_over_asked": (await _num_drawn(web) - drawn_before) / count,  # 1: none was drawn twice
        "doubled": sum(times > 1 for times in told.values()),
        "flipped": flipped,
        "compared": len(compared),
        "seeds_of_others": sum(len(same) > 1 for same in by_image.values()),  # two seeds whose images are the same
        "statuses": {str(status): times for status, times in Counter(answer.status for answer in answers).items()},
        "memory_growth_mb": memory_mb(pids) - before,
    }


async def killed(web: Connections, images_per_s: float, seconds: float) -> dict[str, Any]:
    """The sampler is killed under half the load: what becomes of the requests, and when the service is whole again."""
    load = asyncio.create_task(open_loop(web, poisson(0.5 * images_per_s, seconds, 3)))
    await asyncio.sleep(seconds / 3)
    victim = replica_pids()["Sampler"]
    os.kill(victim, signal.SIGKILL)
    began = time.perf_counter()
    while True:  # until another sampler answers
        pids = re.findall(r'pixelmodels_waiting_images\{replica="[^"]*-(\d+)"', await web.text("/metrics"))
        if pids and str(victim) not in pids:
            break
        if time.perf_counter() - began > WHOLE_S:
            raise UserError(f"the service was not whole again {WHOLE_S:.0f} s after its sampler was killed; see Ray's logs")
        await asyncio.sleep(0.2)
    whole_s = time.perf_counter() - began
    answers = await load
    statuses = Counter(answer.status for answer in answers)
    return {"statuses": {str(status): count for status, count in statuses.items()}, "unanswered": statuses[0], "whole_again_s": whole_s}


def rounded(value: Any) -> Any:
    """Every float of nested lists and dicts to four digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def measure(arguments: Arguments, folder: Path) -> dict[str, Any]:
    """All figures."""
    report, seconds = Report(), arguments.load_s
    settings = Settings(model=str(folder), cpus=rayctx.num_cores(), slots=NUM_SLOTS, max_waiting=1024, require_key=False)
    running.connect(settings)
    port = running.free_port("127.0.0.1", 0)
    running.start(settings, "127.0.0.1", port)
    web = Connections("127.0.0.1", port)
    asyncio.run(closed_loop(web, NUM_SLOTS, 3.0, 1))  # warm
    engines, services, idles = [], [], []
    for _ in range(1 if arguments.quick else arguments.rounds):
        engines.append(engine_alone(folder, seconds / 2))
        services.append(asyncio.run(saturation(web, seconds)))
        idles.append(asyncio.run(idle(web, 12 if arguments.quick else 40)))
        engines.append(engine_alone(folder, seconds / 2))
    engine = {name: float(np.median([one[name] for one in engines])) for name in engines[0]}
    service = {name: float(np.median([one[name] for one in services])) for name in services[0]}
    report.add("engine", engine)
    report.add("saturated_images_per_s", service)
    report.add("saturation_over_engine", service["sixteen"] / engine["images_per_s"])
    report.add("saturation_over_engine_of_singles", service["single"] / engine["images_per_s"])
    report.add("idle_latency_over_engine", float(np.median(idles)) / engine["single_s"])
    report.add("late_single_over_full", asyncio.run(late_single(web, 6 if arguments.quick else 30)) / engine["full_batch_image_s"])
    load = max(LOAD * service["single"], 0.1)
    continuous = asyncio.run(under_load(web, load, seconds))
    report.add("continuous", continuous)
    report.add("overload", asyncio.run(overload(web, service["single"], seconds)))
    report.add("soak", asyncio.run(soak(web, 300 if arguments.quick else arguments.soak, load_model(folder))))
    report.add("killed", asyncio.run(killed(web, service["single"], max(seconds, 30.0))))
    stop()
    port = running.free_port("127.0.0.1", 0)
    running.start(settings, "127.0.0.1", port, StaticSampler)
    web = Connections("127.0.0.1", port)
    asyncio.run(closed_loop(web, NUM_SLOTS, 3.0, 1))
    static = asyncio.run(under_load(web, load, seconds))
    stop()
    report.add("static", static)
    report.add("p95_over_static", {name: continuous[name]["p95_s"] / static[name]["p95_s"] for name in MIX})
    return report.found


def main() -> int:
    """Measure, write, print; the last thing printed is one JSON object."""
    arguments = parse(Arguments)
    if arguments.engine is not None:
        print(json.dumps(measure_engine(arguments.engine, arguments.seconds)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "gated"
        save_model(model, network(arguments.num_layers, arguments.num_features))
        found = measure(arguments, model)
    today = datetime.date.today().isoformat()
    report = {
        "benchmark": "serving",
        "date": today,
        "quick": arguments.quick,
        "net": {"num_layers": arguments.num_layers, "num_features": arguments.num_features, "size": SIZE},
        "seconds_of_load": arguments.load_s,
        "cores": rayctx.num_cores(),
        "load_average_at_end": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        **found,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"serving-{today}{'-quick' if arguments.quick else ''}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    exit_with(main)
