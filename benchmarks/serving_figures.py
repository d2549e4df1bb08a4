"""The experiments of `benchmarks/serving.py`: each loads the service over HTTP, and gives its figures and what should not have been.

Every experiment names the statuses that it allows; others are told as failures, and fail the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sampling_load import MIX, poisson
from benchmarks.serving_engine import NUM_SLOTS
from benchmarks.serving_load import Answer, Connections, closed_loop, latencies_s, open_loop, statuses
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.sampling.engine import Request, draw_all

LATE_SINGLE_S, WHOLE_S = 600.0, 300.0  # then the benchmark fails
OVERLOAD = 3.0  # times what the service draws when it is saturated
OVERLOAD_DEADLINE_S = 10.0  # of each of its requests
PATIENCE_S = 500.0  # of the requests of a load that static batches may not keep up with: the next load begins when all are answered
SETTLE_S = 3.0  # from the first request until the slots are taken
COMPARED = 200  # images of the soak that are drawn again, alone
MANY = 500  # images of the request during which single ones arrive
SOAKING = 32  # requests of the soak at a time
HALF = 0.5  # of what the service draws when it is saturated: the load under which it is killed, and its champion moves
MIXED_EVERY, MIXED = 10, 16  # one request in ten, of these loads and of the overload, is of 16 images

SIZES = {"single": 1, "four": 4, "sixteen": 16}  # images of a request, in the loads that saturate the service

Figures = dict[str, Any]


class Unexpected(list[str]):
    """What should not have been, in lines."""

    def see(self, where: str, answers: Sequence[Answer], *allowed: int) -> None:
        """Note answers whose status is none of these."""
        odd = [answer for answer in answers if answer.status not in allowed]
        if odd:
            self.append(f"{where}: statuses {statuses(odd)} among {len(answers)} answers, allowed are {', '.join(map(str, allowed))}")

    def check(self, holds: bool, what: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.append(what)


# --- what the machine shows of the service ---


def memory_mb(pids: Sequence[int]) -> float:
    """Resident memory of processes, in MB."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):  # it has ended
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    total += int(line.split()[1]) / 1024
    return total


class Memory:
    """Resident memory of the service's processes while something goes on, read every second."""

    def __init__(self, pids: Sequence[int]):
        self.readings_mb = [memory_mb(pids)]
        self._pids, self._task = pids, asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.readings_mb.append(memory_mb(self._pids))

    def figures(self) -> Figures:
        """Megabytes at the beginning, at half the time and at the end, and the most that was seen."""
        self._task.cancel()
        self.readings_mb.append(memory_mb(self._pids))
        found = self.readings_mb
        return {"begin": found[0], "half": found[len(found) // 2], "end": found[-1], "most": max(found)}


async def service_pids(web: Connections) -> list[int]:
    """Processes of the samplers, as the service tells them, and of the ingress that told it."""
    samplers = [int(pid) for pid in re.findall(r'pixelmodels_waiting_images\{replica="[^"]*-(\d+)"', await web.text("/metrics"))]
    return sorted(set(samplers)) + ingress_pids()


def ingress_pids() -> list[int]:
    """Processes of the ingress of the application at the root: of this user, and of the Ray that this process started."""
    import ray

    session = ray._private.worker._global_node.get_session_dir_path()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                title = (folder / "cmdline").read_bytes()
                if re.match(rb"ray::.*pixelmodels[#:]Ingress", title) and any(
                    session in os.readlink(folder / "fd" / fd) for fd in ("1", "2")
                ):
                    found.append(int(folder.name))
    return found


async def num_drawn(web: Connections) -> float:
    """Images that the service has drawn, by its own count."""
    lines = (await web.text("/metrics")).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("pixelmodels_images_drawn_total{"))


# --- experiments ---


async def saturation(web: Connections, seconds: float, unexpected: Unexpected, sizes: Mapping[str, int] = SIZES) -> dict[str, float]:
    """Images a second with more asked for than can be drawn: twice as many images as slots, by requests of one size."""
    found = {}
    for name, n in sizes.items():
        at_a_time = 2 * NUM_SLOTS // n
        load = asyncio.create_task(closed_loop(web, at_a_time, SETTLE_S + seconds, n))
        await asyncio.sleep(SETTLE_S)  # from when the slots are taken until the load ends
        before, began = await num_drawn(web), time.perf_counter()
        await asyncio.sleep(seconds - 0.2)
        images, spent_s = await num_drawn(web) - before, time.perf_counter() - began
        unexpected.see("saturation", await load, 200)
        found[name] = images / spent_s
    return found


async def idle(web: Connections, count: int, unexpected: Unexpected) -> float:
    """Median seconds of a single image on an idle service."""
    answers = [await web.draw(1, seed) for seed in range(count)]
    unexpected.see("idle", answers, 200)
    return float(np.median([answer.seconds for answer in answers[2:]]))


async def under_load(
    web: Connections, images_per_s: dict[str, float], seconds: float, seed: int, unexpected: Unexpected
) -> dict[str, list[float]]:
    """Latencies of the single images, for each mix at its load."""
    found = {}
    for name, (every, many) in MIX.items():
        answers = await open_loop(web, poisson(images_per_s[name], seconds, seed, every=every, many=many), deadline_s=PATIENCE_S)
        unexpected.see(f"load '{name}' at {web.prefix or '/'}", answers, 200)
        found[name] = latencies_s(answers, seconds)
    return found


async def late_single(web: Connections, count: int, unexpected: Unexpected) -> float:
    """Median seconds of single images while a request of 500 is drawn."""
    answers: list[Answer] = []
    until = time.perf_counter() + LATE_SINGLE_S
    while len(answers) < count and time.perf_counter() < until:
        many = asyncio.create_task(web.draw(MANY, 0))
        await asyncio.sleep(0.5)
        while not many.done() and len(answers) < count:
            answer = await web.draw(1, 1)
            if not many.done():
                answers.append(answer)
        unexpected.see(f"request of {MANY}", [await many], 200)
    unexpected.see(f"single image beside one of {MANY}", answers, 200)
    if not answers:
        raise UserError(f"no single image was back before its request of {MANY} was, in {LATE_SINGLE_S:.0f} s; the machine is too slow")
    return float(np.median([answer.seconds for answer in answers]))


async def overload(web: Connections, images_per_s: float, seconds: float, unexpected: Unexpected) -> Figures:
    """What happens when three times as much is asked for as can be drawn."""
    memory = Memory(await service_pids(web))
    arrivals = poisson(OVERLOAD * images_per_s, seconds, 2, every=MIXED_EVERY, many=MIXED)
    answers = await open_loop(web, arrivals, deadline_s=OVERLOAD_DEADLINE_S)
    unexpected.see("overload", answers, 200, 429)
    refused = [answer.seconds for answer in answers if answer.status == 429]
    accepted = [answer.seconds for answer in answers if answer.status == 200]
    unexpected.check(bool(refused), f"overload: nothing of {len(answers)} requests was refused")
    return {
        "seconds": seconds,
        "asked_images_per_s": sum(arrival.n for arrival in arrivals) / seconds,
        "drawn_images_per_s": sum(answer.n for answer in answers if answer.status == 200) / seconds,
        "statuses": statuses(answers),
        "refusal_median_ms": 1000 * float(np.median(refused)) if refused else None,
        "refusal_p95_ms": 1000 * float(np.percentile(refused, 95)) if refused else None,
        "deadline_s": OVERLOAD_DEADLINE_S,
        "accepted_max_s": max(accepted, default=None),
        "memory_mb": memory.figures(),
    }


async def soak(web: Connections, count: int, model: PixelModel, unexpected: Unexpected) -> Figures:
    """Requests one after the other on many connections: each is answered once, with its own seed."""
    memory = Memory(await service_pids(web))
    drawn_before, began = await num_drawn(web), time.perf_counter()
    queue = list(range(count))
    answers: list[Answer] = []

    async def worker() -> None:
        while queue:
            answers.append(await web.draw(1, queue.pop(), keep=True))

    await asyncio.gather(*(worker() for _ in range(SOAKING)))
    spent_s, figures = time.perf_counter() - began, memory.figures()
    drawn = await num_drawn(web) - drawn_before
    unexpected.see("soak", answers, 200)
    seeds = Counter(answer.told_seed for answer in answers if answer.status == 200)
    unexpected.check(sorted(seed for seed in seeds if seed is not None) == list(range(count)), "soak: not every seed was answered")
    unexpected.check(all(answer.status != 200 or answer.told_seed == answer.seed for answer in answers), "soak: an answer of another seed")
    unexpected.check(drawn == count, f"soak: {drawn:.0f} images drawn for {count} requests")
    by_image: dict[bytes, set[int]] = {}
    for answer in answers:
        if answer.images is not None:
            by_image.setdefault(answer.images.tobytes(), set()).add(answer.seed)
    shared = sum(len(seeds) > 1 for seeds in by_image.values())
    unexpected.check(not shared, f"soak: {shared} images are those of several seeds")
    compared = [(answer.seed, answer.images) for answer in answers if answer.images is not None][:COMPARED]
    flipped = sum(not np.array_equal(images, draw_all(model, Request(seed=seed)).numpy()) for seed, images in compared)
    return {
        "requests": count,
        "seconds": spent_s,
        "statuses": statuses(answers),
        "lost": count - sum(seeds.values()),
        "doubled": sum(times > 1 for times in seeds.values()) + round(max(0.0, drawn - count)),
        "flipped": flipped,
        "compared": len(compared),
        "memory_mb": figures,
    }


async def killed(web: Connections, images_per_s: float, seconds: float, num_samplers: int, unexpected: Unexpected) -> Figures:
    """A sampler is killed under half the load: what becomes of the requests, and when as many answer as before."""
    load = asyncio.create_task(open_loop(web, poisson(HALF * images_per_s, seconds, 3, every=MIXED_EVERY, many=MIXED)))
    await asyncio.sleep(seconds / 3)
    ingress = ingress_pids()
    victim = next(pid for pid in await service_pids(web) if pid not in ingress)
    os.kill(victim, signal.SIGKILL)
    began = time.perf_counter()
    while len([pid for pid in await service_pids(web) if pid not in (victim, *ingress)]) < num_samplers:
        if time.perf_counter() - began > WHOLE_S:
            raise UserError(f"the service was not whole again {WHOLE_S:.0f} s after its sampler was killed; see Ray's logs")
        await asyncio.sleep(0.2)
    whole_s = time.perf_counter() - began
    answers = await load
    unexpected.see("killed", answers, 200, 503)
    return {"seconds": seconds, "statuses": statuses(answers), "whole_again_s": whole_s}


async def champion_moves(
    web: Connections, images_per_s: float, seconds: float, move: Callable[[], None], new: str, unexpected: Unexpected
) -> Figures:
    """The alias moves under half the load: what becomes of the requests, and when all are drawn by the new version."""
    load = asyncio.create_task(open_loop(web, poisson(HALF * images_per_s, seconds, 4, every=MIXED_EVERY, many=MIXED)))
    began = time.perf_counter()
    await asyncio.sleep(seconds / 3)
    await asyncio.to_thread(move)
    moved_s = time.perf_counter() - began
    answers = await load
    unexpected.see("champion moves", answers, 200)
    by_model = Counter(answer.told_model for answer in answers)
    last_old_s = max((answer.at_s for answer in answers if answer.told_model != new), default=0.0)
    unexpected.check(len(by_model) == 2 and by_model[new] > 0, f"champion moves: drawn by {dict(by_model)}, not by two versions")
    return {"seconds": seconds, "statuses": statuses(answers), "requests_by_version": dict(by_model), "swapped_s": last_old_s - moved_s}
