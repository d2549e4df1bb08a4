"""How many workers a run has: as many as there is room for, between the two numbers of `WorkerNeeds`.

A run that may have more workers than it has gives way to itself: its first worker sees that a node has room for one more, all of them
save, and the driver starts as many as there is room for then. So it does where a cloud has told that it takes a machine away. A run
whose workers or machines die goes on from its newest checkpoint with what is left, or waits for machines, and says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pixelmodels.internals import draining_nodes, free_resources
from pixelmodels.progress import Say
from pixelmodels.ray_cluster import SPARE_CPUS, WorkerNeeds, alive_nodes, places

MORE_ROOM, TAKEN_AWAY = "more room", "taken away"  # why workers leave before their run's end
SETTLE_S = 30.0  # seconds that a group of workers trains before it makes way for a larger one
_POLL_S = 2.0
_SEEN = 2  # looks in a row that have to agree: what a group that ended held is given back piece by piece


class Departure:
    """In a run's first worker: whether its workers should save and leave, and why.

    Args: `nodes`, the ids of those that each worker is on; `settle_s`, seconds for which more room is not looked for.
    """

    def __init__(self, needs: WorkerNeeds, nodes: Sequence[str], settle_s: float) -> None:
        self._needs, self._nodes, self._settle_s = needs, nodes, settle_s
        self._why: str | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self) -> str | None:
        """Why they should leave now, or None; asked between steps."""
        return self._why

    def close(self) -> None:
        """Look no longer."""
        self._ended.set()

    def _watch(self) -> None:
        seen, look_at = 0, time.monotonic() + self._settle_s
        while not self._ended.wait(_POLL_S):
            try:
                is_going = bool(draining_nodes() & set(self._nodes))
                if len(self._nodes) < self._needs.most and time.monotonic() >= look_at:
                    seen = seen + 1 if _free_places(self._needs) else 0
            except Exception:  # of any kind: the cluster does not answer for now
                continue
            if is_going:
                self._why = TAKEN_AWAY
                return
            if seen == _SEEN:
                self._why = MORE_ROOM
                return


@dataclass
class Claims:
    """The places that runs of this process are about to take: two that look at one moment do not count on the same ones."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: dict[object, tuple[int, float]] = field(default_factory=dict)  # by run: how many, and when

    @contextmanager
    def workers_now(self, needs: WorkerNeeds) -> Iterator[int]:
        """How many workers to start: as many as there is room for; the fewest where there is none yet, and Ray waits for it.

        They are spoken for while the context is open, until Ray itself has had the time to show that they are taken.
        """
        run, found = object(), [-1]
        for _ in range(10 if needs.most > needs.num_workers else 0):
            with self.lock:
                found.append(min(needs.most, _free_places(needs) - self._spoken_for()))
                if found[-1] == found[-2] >= needs.num_workers:
                    self.begun[run] = found[-1], time.monotonic()
                    break
            time.sleep(_POLL_S / 2)
        try:
            yield max(needs.num_workers, found[-1])
        finally:
            with self.lock:
                self.begun.pop(run, None)

    def _spoken_for(self) -> int:
        return sum(count for count, since in self.begun.values() if time.monotonic() - since < SETTLE_S)


CLAIMS = Claims()


@dataclass
class Wanted:
    """What a run waits for, or has."""

    num_workers: int = 0


@contextmanager
def saying_what_it_waits_for(name: str, needs: WorkerNeeds, say: Say) -> Iterator[Wanted]:
    """Say, while the context is open, when the cluster as it is has no room for a run's workers, and when it has again."""
    ended, wanted = threading.Event(), Wanted()

    def watch() -> None:
        lacking, seen = False, 0
        while not ended.wait(_POLL_S):
            try:
                nodes = alive_nodes()
            except Exception:  # of any kind: the cluster does not answer, or ends
                continue
            have, num_workers = places(needs, nodes, 0), wanted.num_workers
            seen = seen + 1 if (have < num_workers) != lacking else 0
            if seen == _SEEN:
                lacking, seen = not lacking, 0
                say(_lack(name, needs, num_workers, have, len(nodes)) if lacking else f"{name}: the cluster has room again")

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield wanted
    finally:
        ended.set()
        watching.join()


def say_who_has_the_room(name: str, needs: WorkerNeeds, num_workers: int, say: Say) -> bool:
    """Say so where the cluster as it is has room for a run's workers, and other work holds it; returns whether that was said."""
    try:
        have, free = places(needs, alive_nodes(), 0), places(needs, free_resources(), 0)
    except Exception:  # of any kind: the cluster does not answer
        return False
    if have < num_workers:
        return False  # which is told as a lack
    asked = f"{num_workers} worker(s) of {needs.each}"
    say(f"{name}: waits for {asked}; the cluster has room for {have}, and other work holds all but {free}; it goes on as soon as that ends")
    return True


def say_what_it_waits_for(name: str, needs: WorkerNeeds, say: Say) -> None:
    """Say so where the cluster as it is has no room for the fewest workers, and whoever asks for them has to wait for machines."""
    nodes = alive_nodes()
    if (have := places(needs, nodes, 0)) < needs.num_workers:
        say(_lack(name, needs, needs.num_workers, have, len(nodes)))


def _lack(name: str, needs: WorkerNeeds, num_workers: int, have: int, num_nodes: int) -> str:
    asked = f"{num_workers} worker(s) of {needs.each}"
    return f"{name}: waits for {asked}; the cluster has {num_nodes} node(s), with room for {have}; it goes on as soon as there are more"


def _free_places(needs: WorkerNeeds) -> int:
    return places(needs, free_resources(), SPARE_CPUS)
