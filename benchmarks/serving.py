"""What serving costs, and what it keeps under load: throughput, latencies, overload, a soak, a killed sampler, a new champion.

    python benchmarks/serving.py            # a minute of load for each figure, 10,000 requests of a soak: about half an hour
    python benchmarks/serving.py --quick    # to see that it works: under 10 minutes on 2 cores
    python benchmarks/serving.py --compiled # service, engine and static batches by compiled passes
    python benchmarks/serving.py --compiled --before ../earlier   # beside the service of the checkout there, by its own .venv: 6 minutes

The 28x28 net of `benchmarks/sampling.py` (gated, 8 layers of 64 features, 2 levels, fresh weights), served over HTTP as
`pipelines/serve.py` does unless told otherwise (a sampler on each core), against one raster engine on all these cores, alone. Requests
come from a load generator of its own, in this process and on the same cores: at random times (Poisson), or so many at a time. The static
baseline is the same service whose samplers draw batches of `@serve.batch`: what has come in a certain time begins together, and is
answered together. Engine, service and baseline take turns, so that all of them see the same machine.

    saturation_over_engine    images/s with more asked for than can be drawn, over the engine's with all slots taken: by requests of four
                              images; `_by_size` also by single ones (each request costs HTTP and JSON) and by those of 16 (which
                              come and end together, and leave slots free)
    idle_latency_over_engine  median of a single image on an idle service, over the engine's own
    p95_over_static           95th percentile of single images at 70% load, over the static baseline's, for arrivals of single images
                              (70% of what is drawn when saturated by those) and for a mix in which one request in ten is of 64 (70%
                              of what is drawn when saturated by requests of four)
    late_single_over_full     a single image while a request of 500 is drawn, over the time that an image takes in a full batch (median)

With `--before` the services of this and of the other checkout run side by side and are loaded in turn, and there are two figures only
(best and median of the rounds of each, and the median of their quotients): images/s by requests of four images with more asked for than
can be drawn (`images_per_s`), and the median of a single image on an idle service (`single_s`).

The last thing printed is one JSON object, also written to `benchmarks/results/` with the date, beside a picture. `unexpected` holds what
should not have been, such as a status that is not allowed; then the exit status is 1. `goals` says of each figure what it is held to, and
whether it keeps that: figures of a loaded machine may miss.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a script

from benchmarks import serving_before
from benchmarks import serving_figures as experiments
from benchmarks.sampling_load import MIX
from benchmarks.sampling_rows import GATED
from benchmarks.serving_engine import NUM_SLOTS, engine_alone, engine_on_each_core, measure_engine
from benchmarks.serving_load import Connections, closed_loop
from benchmarks.serving_plot import plot
from pixelmodels import ray_cluster
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with
from pixelmodels.models.files import load_model, save_model
from pixelmodels.serving import serve
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LOAD = 0.7  # of what the service draws when it is saturated
NAME, CHAMPION = "gated", "champion"  # registered model, and its alias
LEAST_KILLED_S = 45.0  # of load under which the sampler is killed: a new one takes its time
# What each figure is held to: at least, or at most.
GOALS = {
    "saturation_over_engine": (">=", 0.85),
    "idle_latency_over_engine": ("<=", 1.3),
    "p95_over_static.single": ("<=", 0.65),
    "p95_over_static.mix": ("<=", 0.5),
    "late_single_over_full": ("<=", 1.5),
    "overload.refusal_median_ms": ("<=", 50.0),
    "overload.accepted_max_s": ("<=", experiments.OVERLOAD_DEADLINE_S),
    "overload.memory_growth": ("<=", 1.05),
    "soak.lost": ("<=", 0),
    "soak.doubled": ("<=", 0),
    "soak.memory_growth": ("<=", 1.05),
    "killed.whole_again_s": ("<=", 30.0),
    "champion_moves.swapped_s": ("<=", 30.0),
}


@dataclass(frozen=True)
class Arguments:
    """Measure what serving costs."""

    quick: bool = False  # to see that it works: seconds of load for each figure
    seconds: float = 60.0  # of load for each figure (12 with --quick)
    rounds: int = 3  # in which the engine, the service and the baseline take turns (5 at least with --before, 1 with --quick)
    num_features: int = 64  # of the net
    num_layers: int = 8  # of the net
    soak: int = 10_000  # requests (300 with --quick)
    compiled: bool = False  # draw by compiled passes, which are compiled first (minutes, kept for the next time)
    before: Path | None = None  # another checkout, whose service is measured beside this one's
    out: Path = RESULTS  # folder for the JSON
    engine: Path | None = None  # measure the engine alone, of the model in this folder, and print that; used by the benchmark itself
    threads: int = 1  # of that engine

    def __post_init__(self) -> None:
        if self.before is not None and not (self.before / ".venv" / "bin" / "python").exists():
            raise UserError(f"--before '{self.before}' has no .venv; give a checkout in which 'make install' was run")

    def chosen(self) -> Arguments:
        """As they are, or less of everything with --quick."""
        if self.quick:
            return dataclasses.replace(self, seconds=min(self.seconds, 12.0), rounds=1, soak=min(self.soak, 300))
        return self if self.before is None else dataclasses.replace(self, rounds=max(5, self.rounds))

    def build(self, folder: Path, seed: int) -> None:
        """Write the net into a folder."""
        case = dataclasses.replace(GATED, num_layers=self.num_layers, num_features=self.num_features, seed=seed)
        save_model(folder, case.build())


class Bench:
    """Two services on one Ray: samplers as they are at `/`, static batches at `/static`."""

    def __init__(self, arguments: Arguments, folder: Path):
        """Register two versions of the net and serve the first."""
        self.arguments, self.found, self.unexpected = arguments, dict[str, Any](), experiments.Unexpected()
        tracker = Tracker(Storage(str(folder / "storage")))
        tracker.check()
        run_id = tracker.start_parent("serving", {})
        for seed in range(2):
            arguments.build(folder / str(seed), seed)
            registry.register(tracker, run_id, folder / str(seed), NAME, {})
        self.tracker, self.folder = tracker, folder / "0"
        self.point(1)
        options = serve.Serve(model=NAME, storage=tracker.storage.root, compiled=arguments.compiled)
        self.settings = options.settings()  # as pipelines/serve.py does
        self.port = serve.free_port("127.0.0.1", 0)
        serve.connect(self.settings, num_services=2)
        serve.start(self.settings, "127.0.0.1", self.port)
        self.web, self.static = Connections("127.0.0.1", self.port), Connections("127.0.0.1", self.port, "/static")

    def point(self, version: int) -> None:
        """Make a version champion."""
        self.tracker.client.set_registered_model_alias(NAME, CHAMPION, str(version))

    def add(self, name: str, value: Any) -> None:
        """Keep a figure, and show it."""
        self.found[name] = rounded(value)
        print(f"{name}: {json.dumps(self.found[name])}", file=sys.stderr, flush=True)

    async def measure(self) -> None:
        """All figures."""
        await closed_loop(self.web, NUM_SLOTS, 3.0, 1)  # warm
        drawn = await self.against_the_engine()
        await self.against_static_batches({"single": LOAD * drawn["single"], "mix": LOAD * drawn["four"]})
        images_per_s = drawn["single"]
        seconds, soak = self.arguments.seconds, self.arguments.soak
        overload_s = seconds if self.arguments.quick else max(seconds, 60.0)
        self.add("overload", grown(await experiments.overload(self.web, images_per_s, overload_s, self.unexpected)))
        self.add("soak", grown(await experiments.soak(self.web, soak, load_model(self.folder), self.unexpected)))
        moves = experiments.champion_moves(self.web, images_per_s, max(seconds, 30.0), lambda: self.point(2), f"{NAME}/2", self.unexpected)
        self.add("champion_moves", await moves)
        killed_s, num_samplers = max(seconds, LEAST_KILLED_S), self.settings.replicas
        self.add("killed", await experiments.killed(self.web, images_per_s, killed_s, num_samplers, self.unexpected))

    async def against_the_engine(self) -> dict[str, float]:
        """Throughput and latencies over the engine's; returns images a second, by the images of a request."""
        arguments, seconds = self.arguments, self.arguments.seconds
        engines, on_each_core, services, idles, lates = [], list[float](), [], [], []
        for _ in range(arguments.rounds):
            engines.append(await asyncio.to_thread(engine_alone, self.folder, seconds / 4, arguments.compiled))
            services.append(await experiments.saturation(self.web, seconds / 3, self.unexpected))
            idles.append(await experiments.idle(self.web, 12 if arguments.quick else 40, self.unexpected))
            lates.append(await experiments.late_single(self.web, 6 if arguments.quick else 12, self.unexpected))
            engines.append(await asyncio.to_thread(engine_alone, self.folder, seconds / 4, arguments.compiled))
            on_each_core.append(await asyncio.to_thread(engine_on_each_core, self.folder, seconds / 4, arguments.compiled))
        engine = {name: float(np.median([one[name] for one in engines])) for name in engines[0]}
        service = {name: float(np.median([one[name] for one in services])) for name in services[0]}
        self.add("engine", {**engine, "images_per_s_of_one_on_each_core": float(np.median(on_each_core))})
        self.add("saturated_images_per_s", service)
        over = {name: images_per_s / engine["images_per_s"] for name, images_per_s in service.items()}
        self.add("saturation_over_engine", over["four"])
        self.add("saturation_over_engine_by_size", over)
        self.add("idle_latency_over_engine", float(np.median(idles)) / engine["single_s"])
        self.add("late_single_over_full", float(np.median(lates)) / engine["full_batch_image_s"])
        return service

    async def against_static_batches(self, loads: dict[str, float]) -> None:
        """Latencies at a load of each mix (images a second), of the service and of the baseline, which is started and ended here."""
        from benchmarks.serving_static import StaticSampler  # imports Ray, which is set up before that

        handle = await asyncio.to_thread(serve.start, self.settings, "127.0.0.1", self.port, StaticSampler, "static")
        await closed_loop(self.static, NUM_SLOTS, 3.0, 1)  # warm
        seconds = self.arguments.seconds / (2 if self.arguments.rounds > 1 else 1)
        every: dict[str, dict[str, list[float]]] = {way: {name: [] for name in MIX} for way in ("continuous", "static")}
        for round_ in range(self.arguments.rounds):
            for way, web in (("continuous", self.web), ("static", self.static)):
                for name, latencies in (await experiments.under_load(web, loads, seconds, round_, self.unexpected)).items():
                    every[way][name] += latencies
        await asyncio.to_thread(serve.stop, handle, 10.0, "static")
        figures = {way: {name: summary(latencies) for name, latencies in mixes.items()} for way, mixes in every.items()}
        self.add("at_load", {"images_per_s": loads, **figures})
        self.add("p95_over_static", {name: figures["continuous"][name]["p95_s"] / figures["static"][name]["p95_s"] for name in MIX})


def summary(latencies_s: list[float]) -> dict[str, float]:
    """Of the single images of a load: how many, median and 95th percentile."""
    found = np.quantile(latencies_s, [0.5, 0.95], method="higher")
    return {"requests": len(latencies_s), "median_s": float(found[0]), "p95_s": float(found[1])}


def grown(figures: dict[str, Any]) -> dict[str, Any]:
    """With the share that memory grew by in the second half of the time: the first one may still fill caches and pools."""
    memory = figures["memory_mb"]
    return {**figures, "memory_growth": memory["end"] / memory["half"]}


def goals(found: dict[str, Any], limits: dict[str, tuple[str, float]]) -> dict[str, Any]:
    """Each figure that is held to something, and whether it keeps that."""
    kept = {}
    for name, (sign, limit) in limits.items():
        value: Any = found
        for part in name.split("."):
            value = None if value is None else value.get(part)
        met = value is not None and (value >= limit if sign == ">=" else value <= limit)
        kept[name] = {"value": value, "goal": f"{sign} {limit:g}", "met": met}
    return kept


def rounded(value: Any) -> Any:
    """Every float of nested lists and dicts to four digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def beside(arguments: Arguments, before: Path, folder: Path, unexpected: experiments.Unexpected) -> dict[str, Any]:
    """The figures of this checkout's service and of that of another one."""
    arguments.build(folder / "model", 0)
    both = serving_before.services(before.resolve(), folder / "model", folder, *(["--compiled"] if arguments.compiled else []))
    try:
        webs = {side: service.is_up() for side, service in both.items()}
        num_singles, seconds = 8 if arguments.quick else 24, arguments.seconds / 5
        return rounded(asyncio.run(serving_before.compare(webs, arguments.rounds, seconds, num_singles, unexpected)))
    finally:
        for service in both.values():
            service.end()


def main() -> int:
    """Measure, write, print; the last thing printed is one JSON object."""
    arguments = parse(Arguments).chosen()
    if arguments.engine is not None:
        print(json.dumps(measure_engine(arguments.engine, arguments.seconds, arguments.threads, arguments.compiled)))
        return 0
    name, limits = "serving", GOALS
    with tempfile.TemporaryDirectory() as folder:
        if arguments.before is not None:
            name, limits, unexpected = "serving_before", serving_before.GOALS, experiments.Unexpected()
            found = beside(arguments, arguments.before, Path(folder), unexpected)
        else:
            bench = Bench(arguments, Path(folder))
            found, unexpected = bench.found, bench.unexpected
            try:
                asyncio.run(bench.measure())
            finally:
                serve.end()
    today = datetime.date.today().isoformat()
    report = {
        "benchmark": name,
        "date": today,
        "quick": arguments.quick,
        "compiled": arguments.compiled,
        "net": {"num_layers": arguments.num_layers, "num_features": arguments.num_features, "size": GATED.size},
        "seconds_of_load": arguments.seconds,
        "cores": ray_cluster.num_cores(),
        "load_average_at_end": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        **found,
        "goals": goals(found, limits),
        "unexpected": list(unexpected),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    kind = ("-compiled" if arguments.compiled and arguments.before is None else "") + ("-quick" if arguments.quick else "")
    path = arguments.out / f"{name}-{today}{kind}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.before is None:
        plot(report, path.with_suffix(".png"))
    for line in unexpected:
        print(f"unexpected: {line}", file=sys.stderr)
    print(json.dumps(report))
    return 1 if unexpected else 0


if __name__ == "__main__":
    exit_with(main)
