"""Requests that arrive at random, served by continuous and by static batches, in simulated or in real time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.sampling import Engine, Request, draw_all
from pixelmodels.sampling.engine import slot_widths
from pixelmodels.shapes import ImageSpec

MAX_WAITING = 10**9
WARM_UP = 0.1  # share of the time whose arrivals are not counted
LOAD = 0.7  # of capacity: images a second of full batches
OVERLOAD = 1.5
MIX = {"single": (0, 1), "mix": (10, 64)}  # one request in `every` asks for `many` images
MANY = 1000  # images of the request during which single images arrive


@dataclass(frozen=True)
class Arrival:
    """A request that comes."""

    time_s: float  # since the beginning
    n: int  # images


def poisson(images_per_s: float, duration_s: float, seed: int, *, every: int = 0, many: int = 1) -> list[Arrival]:
    """Requests of one image, one in `every` (none: 0) of `many`, at random times; `images_per_s` images on average."""
    rng = np.random.default_rng(seed)
    mean = 1.0 if not every else 1 + (many - 1) / every
    arrivals: list[Arrival] = []
    now = 0.0
    while True:
        now += float(rng.exponential(mean / images_per_s))
        n = many if every and rng.random() * every < 1 else 1
        if now >= duration_s:
            return arrivals
        arrivals.append(Arrival(now, n))


# --- batchers ---


@dataclass(frozen=True)
class Stepped:
    """What one row of a batch did."""

    num_images: int  # that were in it
    num_begun: int  # of these, those at their first row
    finished: list[int]  # the request of each image that was finished


class Continuous:
    """The engine as it is: an image begins at the next row where a slot is free."""

    def __init__(self, model: PixelModel, num_slots: int):
        self.engine = Engine(model, num_slots=num_slots, max_waiting=MAX_WAITING)
        self._index: dict[int, int] = {}  # of each of the engine's requests

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to draw."""
        return self.engine.is_idle

    def submit(self, index: int, n: int) -> None:
        """Images of request `index` wait."""
        self._index[self.engine.submit(Request(n=n, seed=index))] = index

    def step(self) -> Stepped:
        """One row."""
        rows = self.engine.step_row()
        num_begun = sum(row.row == 0 and row.stage == 0 for row in rows)
        return Stepped(len(rows), num_begun, [self._index[row.request_id] for row in rows if row.is_last])


class Static(Continuous):
    """Batches of the same engine: when it is idle it takes what waits, in the order of arrival, up to all slots; nobody else until done."""

    def __init__(self, model: PixelModel, num_slots: int):
        super().__init__(model, num_slots)
        self.engine = Engine(model, num_slots=num_slots, max_waiting=MAX_WAITING, reserve=0)
        self._queue: deque[tuple[int, int, int]] = deque()  # request, its first image that waits, images that wait

    @property
    def is_idle(self) -> bool:
        return self.engine.is_idle and not self._queue

    def submit(self, index: int, n: int) -> None:
        self._queue.append((index, 0, n))

    def step(self) -> Stepped:
        free = self.engine.num_slots if self.engine.is_idle else 0
        while free and self._queue:
            index, first, n = self._queue.popleft()
            taken = min(n, free)
            self._index[self.engine.submit(Request(n=taken, seed=index, first=first))] = index
            free -= taken
            if taken < n:
                self._queue.appendleft((index, first + taken, n - taken))
        return super().step()


# --- clocks ---


@dataclass(frozen=True)
class Costs:
    """Seconds of `step_row`, as measured."""

    of_width: dict[int, float]  # of a row of so many slots, where nobody begins
    of_begun: dict[int, float]  # added where so many images begin; in between as on straight lines

    def seconds(self, num_images: int, num_begun: int) -> float:
        """Of a row of `num_images` images, `num_begun` of which begin with it."""
        width = min(width for width in self.of_width if width >= num_images)
        return self.of_width[width] + self.begin_seconds(num_begun)

    def begin_seconds(self, num_begun: int) -> float:
        """What is added for images that begin."""
        if not num_begun:
            return 0.0
        counts = sorted(self.of_begun)
        return float(np.interp(num_begun, counts, [self.of_begun[count] for count in counts]))


class Clock(Protocol):
    """What time it is."""

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""

    def wait_until(self, time_s: float) -> None:
        """Let the time pass."""

    def stepped(self, step: Stepped, took_s: float) -> None:
        """A row was drawn, and took so long on this machine."""


@dataclass
class Simulated:
    """Time that passes only as `costs` say."""

    costs: Costs
    now_s: float = 0.0

    def wait_until(self, time_s: float) -> None:
        """See `Clock`."""
        self.now_s = max(self.now_s, time_s)

    def stepped(self, step: Stepped, took_s: float) -> None:
        """See `Clock`."""
        self.now_s += self.costs.seconds(step.num_images, step.num_begun)


@dataclass
class Real:
    """Time as rows take it. It stands still while others are drawing, and where nobody waits it jumps to the next arrival."""

    now_s: float = 0.0

    def wait_until(self, time_s: float) -> None:
        """See `Clock`."""
        self.now_s = max(self.now_s, time_s)

    def stepped(self, step: Stepped, took_s: float) -> None:
        """See `Clock`."""
        self.now_s += took_s


# --- serving ---


@dataclass(frozen=True)
class Served:
    """When each request's images were finished."""

    arrivals: Sequence[Arrival]
    finished_s: list[list[float]]  # of each request's images, in the order in which they were finished

    def latencies_s(self, n: int, from_s: float = 0.0) -> list[float]:
        """From a request's arrival until its last image, of requests of `n` images that came at `from_s` or later and were finished."""
        return [
            finished[-1] - arrival.time_s
            for arrival, finished in zip(self.arrivals, self.finished_s, strict=True)
            if arrival.n == n and arrival.time_s >= from_s and len(finished) == n
        ]

    def images_per_s(self, from_s: float, until_s: float) -> float:
        """Images finished a second, from the first moment to the last one of a span of time at which any were (0 for fewer than two).

        What was finished at the first of these moments does not count, so that batches that are finished together count whole.
        """
        times = sorted(time_s for finished in self.finished_s for time_s in finished if from_s <= time_s < until_s)
        if not times or times[0] == times[-1]:
            return 0.0
        return sum(time_s > times[0] for time_s in times) / (times[-1] - times[0])


def serving(batcher: Continuous, arrivals: Sequence[Arrival], clock: Clock, until_s: float) -> Generator[list[list[float]], None, None]:
    """Draw a row each time that it is asked for, and give what was finished when, until all is or until `until_s`.

    A request that arrives during a row waits from then on, and is submitted at the end of that row.
    """
    finished_s: list[list[float]] = [[] for _ in arrivals]
    num_come = 0
    while clock.now_s < until_s:
        while num_come < len(arrivals) and arrivals[num_come].time_s <= clock.now_s:
            batcher.submit(num_come, arrivals[num_come].n)
            num_come += 1
        if not batcher.is_idle:
            started = time.perf_counter()
            step = batcher.step()
            clock.stepped(step, time.perf_counter() - started)
            for index in step.finished:
                finished_s[index].append(clock.now_s)
        elif num_come < len(arrivals):
            clock.wait_until(arrivals[num_come].time_s)
        else:
            break
        yield finished_s


def serve(
    batchers: Sequence[Continuous], arrivals: Sequence[Arrival], clocks: Sequence[Clock], until_s: float = float("inf")
) -> list[Served]:
    """Let the same requests wait for each of several batchers, which draw their rows in turn, so that all meet the same machine."""
    found: list[list[list[float]]] = [[[] for _ in arrivals] for _ in batchers]
    running = {i: serving(batcher, arrivals, clock, until_s) for i, (batcher, clock) in enumerate(zip(batchers, clocks, strict=True))}
    while running:
        for i in list(running):
            finished_s = next(running[i], None)
            if finished_s is None:
                del running[i]
            else:
                found[i] = finished_s
    return [Served(arrivals, finished_s) for finished_s in found]


def describe(served: Served, duration_s: float) -> dict[str, Any]:
    """Images a second and latencies in seconds of what came after the warm-up."""
    from_s = WARM_UP * duration_s
    found: dict[str, Any] = {"images_per_s": served.images_per_s(from_s, duration_s)}
    for n in sorted({arrival.n for arrival in served.arrivals}):
        latencies = served.latencies_s(n, from_s)
        name = "single" if n == 1 else f"of_{n}"
        found |= {f"{name}_requests": len(latencies)}
        if latencies:
            found |= {f"{name}_median_s": float(np.median(latencies)), f"{name}_p95_s": float(np.quantile(latencies, 0.95))}
    return found


# --- what a row costs ---


def measure_costs(model: PixelModel, num_slots: int, repeats: int) -> Costs:
    """Time `step_row` at each width of a batch of up to `num_slots`, and in a full one where images begin and where none do, in turn.

    The least of several timings each: what others do on the machine adds to them.
    """
    engine = Engine(model, num_slots=num_slots, reserve=0)

    def row_s() -> float:
        started = time.perf_counter()
        engine.step_row()
        return time.perf_counter() - started

    widths: dict[int, list[float]] = {width: [] for width in slot_widths(num_slots, max(1, num_slots // 16))}
    begun: dict[int, list[tuple[float, float]]] = {count: [] for count in slot_widths(num_slots, 0) if count in (1, 2, 4, 16, num_slots)}
    for _ in range(repeats):
        for width, seconds in widths.items():
            request_id = engine.submit(Request(n=width))
            row_s()
            seconds += [row_s() for _ in range(5)]
            engine.cancel(request_id)
        for count, added in begun.items():
            rest = engine.submit(Request(n=num_slots - count)) if count < num_slots else None
            some = engine.submit(Request(n=count))
            for _ in range(4):  # in the place of those that leave
                row_s()
                before_s = row_s()
                engine.cancel(some)
                some = engine.submit(Request(n=count))
                added.append((row_s(), before_s))
            engine.cancel(some)
            if rest is not None:
                engine.cancel(rest)
    least = {count: [min(seconds) for seconds in zip(*added, strict=True)] for count, added in begun.items()}
    return Costs(
        {width: min(seconds) for width, seconds in widths.items()},
        {count: max(0.0, begin_s - before_s) for count, (begin_s, before_s) in least.items()},
    )


def stand_in(height: int) -> PixelModel:
    """The smallest model of images of so many rows, one pixel wide: what the engine draws where the time is simulated."""
    torch.manual_seed(0)
    config = PixelCNNConfig(num_layers=1, num_features=2, head_features=2, first_kernel_size=3)
    return build(config, ImageSpec(1, height, 1, 2), LikelihoodConfig("bernoulli"), ContextSpec()).eval()


def compare(model: PixelModel, costs: Costs, num_slots: int, duration_s: float, *, simulated: bool, seed: int = 0) -> dict[str, Any]:
    """Both batchers under the same arrivals: at 70% of capacity, and at saturation; of single images, and of a mix.

    `model` is drawn from in real time; simulated time is drawn by a stand-in with the same rows.
    """
    if simulated:
        model = stand_in(model.spec.height)
    capacity = capacity_of(costs, num_slots, model.spec.height)

    full_s = max(duration_s, 8 * num_slots / capacity)  # saturated for eight full batches or more

    kinds = (Continuous, Static)

    def run(images_per_s: float, mix: tuple[int, int], time_s: float, until_s: float) -> list[Served]:
        arrivals = poisson(images_per_s, time_s, seed, every=mix[0], many=mix[1])
        clocks: list[Clock] = [Simulated(costs) if simulated else Real() for _ in kinds]
        return serve([kind(model, num_slots) for kind in kinds], arrivals, clocks, until_s)

    found: dict[str, Any] = {"duration_s": duration_s, "capacity_images_per_s": capacity}
    for name, mix in MIX.items():
        at_load = run(LOAD * capacity, mix, duration_s, float("inf"))
        loads = {kind.__name__.lower(): describe(served, duration_s) for kind, served in zip(kinds, at_load, strict=True)}
        saturated = run(OVERLOAD * capacity, mix, full_s, full_s)
        rates = {
            kind.__name__.lower(): served.images_per_s(2 * WARM_UP * full_s, full_s) for kind, served in zip(kinds, saturated, strict=True)
        }
        p95 = [one.get("single_p95_s") for one in loads.values()]
        found[name] = {
            "at_load": loads,
            "single_p95_ratio": p95[0] / p95[1] if p95[0] and p95[1] else None,
            "saturated_images_per_s": rates,
            "saturated_ratio": rates["continuous"] / rates["static"] if rates["static"] else None,
        }
    return found


def capacity_of(costs: Costs, num_slots: int, height: int) -> float:
    """Images a second of full batches, one after another."""
    return num_slots / (height * costs.of_width[num_slots] + costs.begin_seconds(num_slots))


def late_singles(model: PixelModel, costs: Costs, num_slots: int, num_runs: int, *, simulated: bool) -> dict[str, Any]:
    """Latencies of single images that arrive, one after another, while 1,000 are drawn, over the time of one in a full batch."""
    height = model.spec.height
    ratios: list[float] = []
    if simulated:
        model = stand_in(height)
    for run in range(num_runs):
        alone_s = num_slots / capacity_of(costs, num_slots, height)
        if not simulated:
            engine = Engine(model, num_slots=num_slots, reserve=0)
            timings = []
            for seed in range(3):
                started = time.perf_counter()
                draw_all(engine, Request(n=num_slots, seed=seed))
                timings.append(time.perf_counter() - started)
            alone_s = median(timings)
        rng = np.random.default_rng(run)
        num_late = max(1, MANY // num_slots // 3)  # there is work left for the last one
        times = [(2 * i + 1 + float(rng.random())) * alone_s for i in range(num_late)]
        arrivals = [Arrival(0.0, MANY), *(Arrival(time_s, 1) for time_s in times)]
        rows = serving(Continuous(model, num_slots), arrivals, Simulated(costs) if simulated else Real(), float("inf"))
        finished_s = next(found for found in rows if all(found[1:]))
        ratios += [(finished_s[i][-1] - arrivals[i].time_s) / alone_s for i in range(1, len(arrivals))]
    return {"single_images": len(ratios), "worst_ratio": max(ratios), "median_ratio": float(np.median(ratios))}
