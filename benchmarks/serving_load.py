"""A load generator: requests at random times or so many at a time, over connections that are kept open."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.sampling_load import WARM_UP, Arrival

GRACE_S = 60.0  # beyond a request's deadline; then its answer counts as none
KEPT_S = 2.0  # that a connection is kept which nobody uses: the service closes it after 5
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
    told_model: str | None = None  # name/version that drew
    images: np.ndarray | None = None  # N C H W, where they are kept


class Connections:
    """HTTP/1.1 to one service, for use in one event loop."""

    def __init__(self, host: str, port: int, prefix: str = ""):
        """`prefix`, of every path: where the service is not at the root."""
        self.host, self.port, self.prefix = host, port, prefix
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []  # and when it was used last

    async def draw(
        self, n: int, seed: int, at_s: float = 0.0, *, due: float | None = None, keep: bool = False, deadline_s: float = 60.0
    ) -> Answer:
        """Ask for images; `due`, when that was to be (now unless given), on the clock of `time.perf_counter`; `keep` the images."""
        body = json.dumps({"n": n, "seed": seed, "timeout_s": deadline_s, **({"format": "npz"} if keep else {})}).encode()
        began = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(deadline_s + GRACE_S):
                status, headers, data = await self._exchange("POST", "/v1/samples", body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return Answer(n, seed, at_s, time.perf_counter() - began, 0)
        seconds = time.perf_counter() - began
        images = np.load(io.BytesIO(data))["images_NCHW"] if keep and status == 200 else None
        told = headers.get("x-seed")
        return Answer(n, seed, at_s, seconds, status, None if told is None else int(told), headers.get("x-model"), images)

    async def text(self, path: str) -> str:
        """A page."""
        _, _, data = await self._exchange("GET", path, b"")
        return data.decode()

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = self._kept() or await asyncio.open_connection(self.host, self.port, limit=1 << 20)
        try:
            head = f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: x\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
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
            self._free.append((reader, writer, time.perf_counter()))
        return int(status_line.split()[1]), headers, data

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection that was used last, unless the service may have closed it since."""
        while self._free:
            reader, writer, used_at = self._free.pop()
            if time.perf_counter() - used_at < KEPT_S and not reader.at_eof():
                return reader, writer
            writer.close()
        return None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        size = int(await reader.readline(), 16)
        part = await reader.readexactly(size + 2)
        if not size:
            return b"".join(parts)
        parts.append(part[:-2])


async def open_loop(web: Connections, arrivals: Sequence[Arrival], *, first_seed: int = 0, deadline_s: float = 60.0) -> list[Answer]:
    """Send requests when they come, however many are unanswered (within a bound); all answers, in the order of the requests."""
    began = time.perf_counter()
    gate = asyncio.Semaphore(MAX_OPEN)
    tasks: list[asyncio.Task[Answer]] = []

    async def send(index: int, arrival: Arrival) -> Answer:
        try:
            return await web.draw(arrival.n, first_seed + index, arrival.time_s, due=began + arrival.time_s, deadline_s=deadline_s)
        finally:
            gate.release()

    for index, arrival in enumerate(arrivals):
        await asyncio.sleep(max(0.0, arrival.time_s - (time.perf_counter() - began)))
        await gate.acquire()
        tasks.append(asyncio.create_task(send(index, arrival)))
    return list(await asyncio.gather(*tasks))


async def closed_loop(web: Connections, at_a_time: int, seconds: float, n: int) -> list[Answer]:
    """So many requests at a time, for some seconds; all answers."""
    began = time.perf_counter()
    answers: list[Answer] = []

    async def worker(number: int) -> None:
        seed = number
        while time.perf_counter() - began < seconds:
            answers.append(await web.draw(n, seed, time.perf_counter() - began))
            seed += at_a_time

    await asyncio.gather(*(worker(number) for number in range(at_a_time)))
    return answers


def latencies_s(answers: Sequence[Answer], seconds: float) -> list[float]:
    """Of a load's single images, without those of its first part; infinite for one that was not answered with an image."""
    singles = [answer for answer in answers if answer.n == 1 and answer.at_s >= WARM_UP * seconds]
    return [answer.seconds if answer.status == 200 else float("inf") for answer in singles]


def statuses(answers: Sequence[Answer]) -> dict[str, int]:
    """How many answers had which status; "0": none came."""
    return {str(status): count for status, count in sorted(Counter(answer.status for answer in answers).items())}
