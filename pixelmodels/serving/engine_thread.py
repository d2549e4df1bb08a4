"""One thread that steps the engines of a replica; everything else only hands requests in and takes results out."""

from __future__ import annotations

import logging
import math
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from pixelmodels.errors import device_failed
from pixelmodels.sampling.engine import Engine, NotFinite, Request, RowDone
from pixelmodels.serving import admission
from pixelmodels.serving.refusals import NOT_FINITE, Refused, lost, too_late
from pixelmodels.serving.work import Job, Progress, Share, Ticket, Work

logger = logging.getLogger(__name__)
IDLE_S = 0.5  # between two beats of a thread that has nothing to do
MOST_FAILURES = 2  # of an engine one after the other, with nothing between them that went well: it does not heal
PIECE = 16  # images that are scored at once
PIECE_WHILE_DRAWING = 4  # the same where a row waits for it
NICENESS = 10  # of the thread, beyond the process's
STOPPED = "stopped"


class EngineThread:
    """Steps engines, tells results, keeps deadlines; `submit`, `run`, `cancel` and the counts may be used from any thread.

    Args: `slots`, images that an engine draws at once; `max_waiting`, further images that may be unfinished, over all engines;
    `num_threads`, that torch uses in this thread (every other one of the process has one from then on: where the teams of several
    threads have more members than there are cores, OpenMP puts them to sleep at each operation, at half the speed), None: as they are;
    `on_failure`, called in the thread after it has failed, and all were told.

    What an engine raises ends the requests of that engine; the thread itself where its device is broken, or it raises again and again.
    """

    def __init__(
        self,
        *,
        slots: int = 64,
        max_waiting: int = 1024,
        num_threads: int | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self.slots, self.bound = slots, slots + max_waiting
        self.num_images_drawn = 0
        self.beat = time.monotonic()  # when the thread last went round
        self.failure: str | None = None  # of the thread itself; it does not go on
        self._num_threads, self._on_failure = num_threads, on_failure
        self._lock = threading.Lock()
        self._speeds: WeakKeyDictionary[Engine, admission.Speed] = WeakKeyDictionary()
        self._live: set[Work] = set()
        self._num_reserved = 0  # images
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._by_id: dict[tuple[Engine, int], Ticket] = {}  # by the id of the request in its engine; of this thread only
        self._engines: dict[Engine, int] = {}  # engines with work, and rows of one of their images; of this thread only
        self._jobs: deque[Job] = deque()  # in turns, a piece of each; of this thread only
        self._share = Share()  # of the time, that they take while images are drawn
        self._failures: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()  # of each engine, in a row; of this thread only
        self._last_end: float | None = None  # of the last step, where the thread was busy since
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> EngineThread:
        """Begin; returns itself."""
        self._thread.start()
        self._begun.wait()
        if self._num_threads is not None:
            torch.set_num_threads(1)  # of this thread, and of those that begin from now on
        return self

    def stop(self) -> None:
        """End after the current row; what is unfinished is told to be lost."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    @property
    def num_unfinished(self) -> int:
        """Images that were let in, to be drawn or scored, and are not finished."""
        with self._lock:
            return self._count_unfinished()

    def images_per_s(self, engine: Engine) -> float:
        """Measured speed of an engine whose slots are taken; 0 until it is known."""
        return self._speeds[engine].images_per_s if engine in self._speeds else 0.0

    @contextmanager
    def reserved(self, n: int) -> Iterator[None]:
        """Around what is done before a request is let in, such as loading its model: its images count as unfinished.

        Raises `Refused` (429) where that is too many.
        """
        with self._lock:
            self._check_alive()
            self._check_room(n)
            self._num_reserved += n
        try:
            yield
        finally:
            with self._lock:
                self._num_reserved -= n

    @property
    def num_waiting(self) -> int:
        """Images that were let in and have no slot yet."""
        with self._lock:
            return sum(ticket.num_waiting for ticket in self._tickets())

    @property
    def num_requests(self) -> int:
        """Requests for images that are not finished."""
        with self._lock:
            return len(self._tickets())

    def submit(
        self, engine: Engine, request: Request, timeout_s: float, listen: Callable[[list[Progress]], object], *, wants_rows: bool = False
    ) -> Ticket:
        """Let a request in that fits the engine's model (`checked`); raises `Refused` (429) where it would be late, (504) where it is."""
        if timeout_s <= 0:
            raise too_late(timeout_s)
        now = time.monotonic()
        with self._lock:
            self._check_alive()
            num_unfinished, speed = self._count_unfinished(), self.images_per_s(engine)
            admission.check_room(request.n, num_unfinished, self.bound, speed)
            same = [one for one in self._tickets() if one.engine is engine]
            waiting = [(one.num_drawings, one.deadline - now if one.is_promised else math.inf) for one in same if one.num_drawings]
            num_others = num_unfinished - sum(one.num_left for one in same)
            num_drawings = request.n * request.most_passes
            is_promised = admission.check_time(num_drawings, timeout_s, waiting, num_unfinished, num_others, self.slots, speed)
            ticket = Ticket(engine, request.n, timeout_s, listen, request=request, wants_rows=wants_rows, is_promised=is_promised)
            self._live.add(ticket)
        self._inbox.put(lambda: self._begin(ticket))
        return ticket

    def cancel(self, work: Work) -> None:
        """Nobody wants it any more: its slots are free at the next row. Nothing is told."""
        self._inbox.put(lambda: self._end(work, None))

    def run(
        self,
        engine: Engine,
        work: Callable[[int, int], object],
        num_images: int,
        timeout_s: float,
        listen: Callable[[list[object]], object],
        weight: int | None = None,
    ) -> Job:
        """Do work on images with the model of an engine, some of them between two rows, and tell the results of these pieces.

        Args: `work`, does the images first..last - 1; `weight`, as how many images it counts at most, unless as all of them. Raises
        `Refused` (429) where too many images wait for that.
        """
        with self._lock:
            self._check_alive()
            self._check_room(num_images if weight is None else weight)
            job = Job(engine, num_images, timeout_s, listen, work=work, weight=weight)
            self._live.add(job)
        self._inbox.put(lambda: self._jobs.append(job))
        return job

    def _check_room(self, n: int) -> None:
        """Raise `Refused` (429) beyond the bound only: how fast these images will be is not known. It tells when there may be room."""
        speed = max((one.images_per_s for one in self._speeds.values()), default=0.0)
        admission.check_room(n, self._count_unfinished(), self.bound, speed)

    def _count_unfinished(self) -> int:
        return self._num_reserved + sum(one.num_counted for one in self._live)

    def _tickets(self) -> list[Ticket]:
        return [one for one in self._live if isinstance(one, Ticket)]

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise lost("this sampler has failed and is being replaced")

    # --- in the thread ---

    def _run(self) -> None:
        _give_way()
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
            torch.get_num_threads()  # torch looks up a thread's number when it is first used there: now, before others set theirs
        self._begun.set()
        try:
            while self._take_in():
                self._expire()
                self._step()
                self._work()
                self.beat = time.monotonic()
            self.failure = STOPPED
        except BaseException as error:
            logger.exception("the engine's thread failed")
            self.failure = f"{type(error).__name__}: {error}"
        self._lose_all()
        if self.failure != STOPPED:
            self._on_failure()

    def _lose_all(self) -> None:
        """Tell everybody who was let in, those included whom the thread has not seen yet."""
        with self._lock:
            live = list(self._live)
            self._live.clear()
        for one in live:
            try:
                one.listen([lost()])
            except Exception:  # whoever listened is gone
                logger.exception("a request could not be told that it is lost")

    def _take_in(self) -> bool:
        """Do what was handed in; waits where there is nothing else to do. False: the thread is to end."""
        idle = not self._engines and not self._jobs
        try:
            if idle:
                self._last_end = None
            command = self._inbox.get(block=idle, timeout=IDLE_S if idle else None)
            while command is not None:
                command()
                command = self._inbox.get_nowait()
            return False
        except queue.Empty:
            return True

    def _begin(self, ticket: Ticket) -> None:
        if ticket not in self._live:
            return
        engine = ticket.engine
        try:
            ticket.request_id = engine.submit(ticket.request)
        except Exception as error:  # it was checked before: a bug, or an engine of another bound
            logger.exception("an engine refused a request that was checked")
            self._end(ticket, [Refused(500, "internal", f"the engine refused the request ({type(error).__name__})")])
            return
        ticket.images_NCHW = np.zeros((ticket.num_images, *engine.model.spec.shape), np.uint8)
        self._by_id[engine, ticket.request_id] = ticket
        self._engines[engine] = sum(stage.model.spec.height for stage in engine.model.stages())

    def _end(self, work: Work, last: list[Any] | None) -> None:
        """It is finished, refused, or no longer wanted (None)."""
        with self._lock:
            if work not in self._live:
                return
            self._live.remove(work)
        if isinstance(work, Ticket) and self._by_id.pop((work.engine, work.request_id), None) is not None and work.num_left:
            try:
                work.engine.cancel(work.request_id)
            except Exception:  # an engine that has failed
                logger.exception("an engine could not cancel a request")
        if last is not None:
            work.listen(last)

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [work for work in self._live if work.deadline < now]
        for work in late:
            self._end(work, [too_late(work.timeout_s)])

    def _step(self) -> None:
        """One row of everything that is being drawn."""
        stepped: list[tuple[Engine, int, float]] = []  # images that were active, and how many were drawn
        for engine, num_rows in list(self._engines.items()):
            began = time.monotonic()
            rows = self._step_engine(engine)
            self._share.drew(time.monotonic() - began)
            stepped.append((engine, engine.num_active, 0.0 if rows is None else engine.num_rows_drawn / num_rows))
            if rows is not None:
                self._tell(engine, rows)
            if rows is None or engine.is_idle:
                del self._engines[engine]
        now = time.monotonic()
        if self._last_end is not None:
            for engine, num_active, images in stepped:  # what else the thread does between two rows makes each of them slower
                with self._lock:
                    speed = self._speeds.setdefault(engine, admission.Speed())
                speed.step(images, now - self._last_end, is_full=num_active >= admission.BUSY * self.slots)
        self._last_end = now

    def _step_engine(self, engine: Engine) -> list[RowDone] | None:
        """Rows that are done; None where the engine has failed, and its requests with it."""
        try:
            rows = engine.step_row()
        except NotFinite as error:
            for request_id in error.request_ids:
                ticket = self._by_id.get((engine, request_id))
                if ticket is not None:
                    self._end(ticket, [Refused(500, NOT_FINITE, "the model's parameters are not finite for this request")])
            return error.rows
        except Exception as error:
            self._judge(engine, error)
            for ticket in [one for one in self._by_id.values() if one.engine is engine]:
                self._end(ticket, [Refused(500, "internal", f"drawing failed ({type(error).__name__})")])
            return None
        self._judge(engine, None)
        return rows

    def _judge(self, engine: Engine, error: Exception | None) -> None:
        """An engine did what it was to do (None), or raised this; raises it again where the replica is of no more use."""
        if error is None:
            self._failures.pop(engine, None)
            return
        logger.error("an engine failed", exc_info=error)
        self._failures[engine] = self._failures.get(engine, 0) + 1
        if self._failures[engine] >= MOST_FAILURES or device_failed(error):
            raise error

    def _tell(self, engine: Engine, rows: list[RowDone]) -> None:
        """Hand rows and images on to whom they belong, at once for each ticket."""
        progress: dict[Ticket, list[Progress]] = {}
        for row in rows:
            ticket = self._by_id.get((engine, row.request_id))
            if ticket is None:
                continue
            ticket.num_begun += row.stage == 0 and row.row == 0 and row.redraw == 0
            if row.is_last and row.image_CHW is not None:
                ticket.images_NCHW[row.image] = row.image_CHW.numpy()
                ticket.num_done += 1
                self.num_images_drawn += 1
            progress.setdefault(ticket, []).extend([row] if ticket.wants_rows else [])
        for ticket, told in progress.items():
            if told:
                ticket.listen(told)
            if ticket.num_left == 0:
                self._end(ticket, [ticket.images_NCHW])

    def _work(self) -> None:
        """One piece of one job, if it is its turn."""
        is_drawing = bool(self._engines)
        if not self._jobs or (is_drawing and not self._share.is_due):
            return
        job = self._jobs.popleft()
        if job not in self._live:  # it was given up
            return
        began, last = time.monotonic(), min(job.num_done + (PIECE_WHILE_DRAWING if is_drawing else PIECE), job.num_images)
        try:
            job.results.append(job.work(job.num_done, last))
        except Refused as refused:
            self._end(job, [refused])
            return
        except Exception as error:
            self._judge(job.engine, error)
            self._end(job, [Refused(500, "internal", f"scoring failed ({type(error).__name__})")])
            return
        self._judge(job.engine, None)
        if is_drawing:
            self._share.worked(time.monotonic() - began)
        job.num_done = last
        if job.num_left:
            self._jobs.append(job)
        else:
            self._end(job, job.results)


def _give_way() -> None:
    """Have what receives and refuses requests come before what draws, where both are on the same cores: it needs little, and at once."""
    if sys.platform == "linux":  # where each thread has a niceness of its own; threads that this one starts have the same
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))
