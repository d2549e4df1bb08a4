"""One thread that steps the engines of a replica; everything else only hands requests in and takes results out."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pixelmodels.sampling.engine import Engine, NotFinite, Request, RowDone
from pixelmodels.serving import admission
from pixelmodels.serving.refusals import Refused, overloaded, too_late

logger = logging.getLogger(__name__)
IDLE_S = 0.5  # between two beats of a thread that has nothing to do

Images = npt.NDArray[np.uint8]  # N C H W
Event = RowDone | Images | Refused  # rows where they are wanted; then all images, or why there are none
Listen = Callable[[list[Event]], None]  # called in the engine's thread: it must not wait


@dataclass(eq=False)
class Ticket:
    """A request that was let in."""

    engine: Engine
    request: Request
    deadline: float  # on the clock of `time.monotonic`
    timeout_s: float  # that the deadline comes of
    listen: Listen
    wants_rows: bool
    request_id: int = -1  # in the engine, once it is there
    num_begun: int = 0  # images that have, or had, a slot
    num_done: int = 0
    images_NCHW: Images = field(default_factory=lambda: np.zeros(0, np.uint8))


@dataclass(eq=False)
class Job:
    """Work other than drawing, in pieces that are done between two rows."""

    pieces: list[Callable[[], object]]
    deadline: float
    timeout_s: float
    listen: Callable[[list[object] | Refused], None]
    num_images: int
    results: list[object] = field(default_factory=list)
    cancelled: bool = False


class EngineThread:
    """Steps engines, tells results, keeps deadlines; `submit`, `run`, `cancel` and the counts may be used from any thread.

    Args: `slots`, images that an engine draws at once; `max_waiting`, further images that may be unfinished, over all engines;
    `num_threads`, of torch, None: as they are.
    """

    def __init__(self, *, slots: int = 64, max_waiting: int = 1024, num_threads: int | None = None):
        self.slots, self.bound = slots, slots + max_waiting
        self.speed = admission.Speed()
        self.num_images_drawn = 0
        self.beat = time.monotonic()  # when the thread last went round
        self.failure: str | None = None  # of the thread itself; it does not go on
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._live: set[Ticket] = set()
        self._num_unfinished = 0  # images of tickets
        self._num_scoring = 0  # images of jobs
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._by_id: dict[tuple[int, int], Ticket] = {}  # id of the engine object, id of the request; of this thread only
        self._engines: dict[int, tuple[Engine, int]] = {}  # engines with work, and rows of one of their images; of this thread only
        self._jobs: list[Job] = []  # of this thread only
        self._last_end: float | None = None  # of the last step, where the thread was busy since
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> EngineThread:
        """Begin; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the current row; what is unfinished is told to be lost."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    @property
    def num_unfinished(self) -> int:
        """Images that were let in and are not finished."""
        return self._num_unfinished

    @property
    def num_waiting(self) -> int:
        """Images that were let in and have no slot yet."""
        with self._lock:
            return sum(ticket.request.n - ticket.num_begun for ticket in self._live)

    @property
    def num_requests(self) -> int:
        """Requests that are not finished."""
        return len(self._live)

    def submit(self, engine: Engine, request: Request, timeout_s: float, listen: Listen, *, wants_rows: bool = False) -> Ticket:
        """Let a request in that fits the engine's model (`checked`); raises `Refused` (429) where it cannot be drawn in time."""
        now = time.monotonic()
        with self._lock:
            self._check_alive()
            waiting = [(num, one.deadline - now) for one in self._live if (num := one.request.n - one.num_begun)]
            admission.check(request.n, timeout_s, waiting, self._num_unfinished, self.slots, self.bound, self.speed.images_per_s)
            ticket = Ticket(engine, request, now + timeout_s, timeout_s, listen, wants_rows)
            self._live.add(ticket)
            self._num_unfinished += request.n
        self._inbox.put(lambda: self._begin(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants it any more: its slots are free at the next row. Nothing is told."""
        self._inbox.put(lambda: self._end(ticket, None))

    def run(
        self, pieces: list[Callable[[], object]], num_images: int, timeout_s: float, listen: Callable[[list[object] | Refused], None]
    ) -> Job:
        """Do pieces of work, one between two rows, and tell their results; raises `Refused` (429) where too many images wait for that."""
        with self._lock:
            self._check_alive()
            if self._num_scoring + num_images > self.bound:
                raise overloaded(f"{self._num_scoring} images wait to be scored, {self.bound} at most may", 1.0)
            self._num_scoring += num_images
        job = Job(pieces, time.monotonic() + timeout_s, timeout_s, listen, num_images)
        self._inbox.put(lambda: self._jobs.append(job))
        return job

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise Refused(503, "sampler_lost", "this sampler has failed and is being replaced")

    # --- in the thread ---

    def _run(self) -> None:
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        try:
            while self._take_in():
                self._expire()
                self._step()
                self._work()
                self.beat = time.monotonic()
            self.failure = "stopped"
        except BaseException as error:
            logger.exception("the engine's thread failed")
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                lost = list(self._live)
            for ticket in lost:
                self._end(ticket, Refused(503, "sampler_lost", "the sampler ended before the request was finished"))
            for job in self._jobs:
                job.listen(Refused(503, "sampler_lost", "the sampler ended before the request was finished"))

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
            self._end(ticket, Refused(500, "internal", f"the engine refused the request ({type(error).__name__})"))
            return
        ticket.images_NCHW = np.zeros((ticket.request.n, *engine.model.spec.shape), np.uint8)
        self._by_id[id(engine), ticket.request_id] = ticket
        if id(engine) not in self._engines:
            self._engines[id(engine)] = (engine, sum(stage.model.spec.height for stage in engine.model.stages()))

    def _end(self, ticket: Ticket, last: Event | None) -> None:
        """A ticket is finished, refused, or no longer wanted."""
        with self._lock:
            if ticket not in self._live:
                return
            self._live.remove(ticket)
            self._num_unfinished -= ticket.request.n - ticket.num_done
        if self._by_id.pop((id(ticket.engine), ticket.request_id), None) is not None and last is not ticket.images_NCHW:
            ticket.engine.cancel(ticket.request_id)
        if last is not None:
            ticket.listen([last])

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [ticket for ticket in self._live if ticket.deadline < now]
        for ticket in late:
            self._end(ticket, too_late(ticket.timeout_s))

    def _step(self) -> None:
        """One row of everything that is being drawn."""
        images = 0.0
        num_active = 0
        for key, (engine, num_rows) in list(self._engines.items()):
            rows = self._step_engine(engine)
            num_active += engine.num_active
            images += engine.num_active / num_rows
            self._tell(engine, rows)
            if engine.is_idle:
                del self._engines[key]
        now = time.monotonic()
        if self._last_end is not None and num_active >= admission.BUSY * self.slots:
            self.speed.step(images, now - self._last_end)
        self._last_end = now

    def _step_engine(self, engine: Engine) -> list[RowDone]:
        try:
            return engine.step_row()
        except NotFinite as error:
            for request_id in error.request_ids:
                ticket = self._by_id.get((id(engine), request_id))
                if ticket is not None:
                    self._end(ticket, Refused(500, "not_finite", "the model's parameters are not finite for this request"))
            return error.rows

    def _tell(self, engine: Engine, rows: list[RowDone]) -> None:
        """Hand rows and images on to whom they belong, at once for each ticket."""
        events: dict[Ticket, list[Event]] = {}
        for row in rows:
            ticket = self._by_id.get((id(engine), row.request_id))
            if ticket is None:
                continue
            ticket.num_begun += row.stage == 0 and row.row == 0
            if row.image_CHW is not None:
                ticket.images_NCHW[row.image] = row.image_CHW.numpy()
                with self._lock:
                    ticket.num_done += 1
                    self._num_unfinished -= 1
                self.num_images_drawn += 1
            if ticket.wants_rows or ticket.num_done == ticket.request.n:
                told = events.setdefault(ticket, [])
                if ticket.wants_rows:
                    told.append(row)
        for ticket, told in events.items():
            if told:
                ticket.listen(told)
            if ticket.num_done == ticket.request.n:
                self._end(ticket, ticket.images_NCHW)

    def _work(self) -> None:
        """One piece of one job."""
        if not self._jobs:
            return
        job = self._jobs.pop(0)
        if job.cancelled:
            answer: list[object] | Refused | None = None
        elif job.deadline < time.monotonic():
            answer = too_late(job.timeout_s)
        else:
            try:
                job.results.append(job.pieces.pop(0)())
            except Refused as refused:
                answer = refused
            except Exception as error:
                logger.exception("a piece of work failed")
                answer = Refused(500, "internal", f"scoring failed ({type(error).__name__})")
            else:
                if job.pieces:
                    self._jobs.append(job)
                    return
                answer = job.results
        with self._lock:
            self._num_scoring -= job.num_images
        if answer is not None:
            job.listen(answer)
