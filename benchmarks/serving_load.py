"""A load generator: requests at random times or so many at a time, over connections that are kept open."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.sampling_load import WARM_UP, Arrival

TIMEOUT_S = 120.0  # for an answer; then it counts as none
MAX_OPEN = 2000  # requests at a time


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    n: int
    seed: int
    at_s: float  # when it was sent, since the beginning of the load
    seconds: float  # to the end of the answer, from when it was to be sent
    status: int  # of HTTP; 0: none
    told_seed: int | None = None
    images: np.ndarray | None = None  # N C H W, where they are kept


class Connections:
    """HTTP/1.1 to one service. Every call is of one event loop: connections are of the loop that opened them."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self._free: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def draw(self, n: int, seed: int, at_s: float = 0.0, *, due: float | None = None, keep: bool = False) -> Answer:
        """Ask for images; `due`, when that was to be (now unless given), on the clock of `time.perf_counter`; `keep` the images."""
        body = json.dumps({"n": n, "seed": seed, "timeout_s": 60, **({"format": "npz"} if keep else {})}).encode()
        return await self._request("POST", "/v1/samples", body, n, seed, at_s, due, keep)

    async def get(self, path: str) -> Answer:
        """Ask for a page."""
        return await self._request("GET", path, b"", 0, 0, 0.0)

    async def text(self, path: str) -> str:
        """A page."""
        _, _, data = await self._exchange("GET", path, b"")
        return data.decode()

    async def _request(
        self, method: str, path: str, body: bytes, n: int, seed: int, at_s: float, due: float | None = None, keep: bool = False
    ) -> Answer:
        began = time.perf_counter() if due is None else due
        images = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, headers, data = await self._exchange(method, path, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return Answer(n, seed, at_s, time.perf_counter() - began, 0)
        seconds = time.perf_counter() - began
        if keep and status == 200:
            images = np.load(io.BytesIO(data))["images_NCHW"]
        told = headers.get("x-seed")
        return Answer(n, seed, at_s, seconds, status, None if told is None else int(told), images)

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        free = self._free.setdefault(id(asyncio.get_running_loop()), [])
        reader, writer = free.pop() if free else await asyncio.open_connection(self.host, self.port, limit=1 << 20)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            if headers.get("transfer-encoding") == "chunked":
                data = await _chunks(reader)
            else:
                data = await reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            free.append((reader, writer))
        return int(status_line.split()[1]), headers, data


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        size = int(await reader.readline(), 16)
        part = await reader.readexactly(size + 2)
        if not size:
            return b"".join(parts)
        parts.append(part[:-2])


async def open_loop(web: Connections, arrivals: Sequence[Arrival]) -> list[Answer]:
    """Send requests when they come, however many are unanswered (within a bound); all answers."""
    began = time.perf_counter()
    gate = asyncio.Semaphore(MAX_OPEN)
    tasks: list[asyncio.Task[Answer]] = []

    async def send(index: int, arrival: Arrival) -> Answer:
        try:
            return await web.draw(arrival.n, index, arrival.time_s, due=began + arrival.time_s)
        finally:
            gate.release()

    for index, arrival in enumerate(arrivals):
        await asyncio.sleep(max(0.0, arrival.time_s - (time.perf_counter() - began)))
        await gate.acquire()
        tasks.append(asyncio.create_task(send(index, arrival)))
    return list(await asyncio.gather(*tasks))


async def closed_loop(web: Connections, at_a_time: int, seconds: float, n: int) -> list[Answer]:
    """So many requests at a time, for some seconds; those that were answered by then."""
    began = time.perf_counter()
    answers: list[Answer] = []

    async def worker(number: int) -> None:
        seed = number
        while time.perf_counter() - began < seconds:
            answer = await web.draw(n, seed, time.perf_counter() - began)
            if time.perf_counter() - began < seconds:
                answers.append(answer)
            seed += at_a_time

    await asyncio.gather(*(worker(number) for number in range(at_a_time)))
    return answers


def figures(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Latencies and images a second of what was answered, without the first part of the time."""
    start_s = WARM_UP * seconds
    good = [answer for answer in answers if answer.status == 200]
    late = [answer.seconds for answer in good if answer.at_s >= start_s]
    counted = sum(answer.n for answer in good if start_s <= answer.at_s + answer.seconds <= seconds)
    return {
        "answered": len(good),
        "other": len(answers) - len(good),
        "median_s": float(np.median(late)) if late else None,
        "p95_s": float(np.percentile(late, 95)) if late else None,
        "images_per_s": counted / (seconds - start_s),
    }
