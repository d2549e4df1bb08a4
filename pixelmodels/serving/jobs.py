"""Work of an engine's thread other than drawing: scoring, in pieces that are done between two rows, and no more of it than its share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pixelmodels.sampling.engine import Engine
from pixelmodels.serving import admission
from pixelmodels.serving.refusals import Refused, too_late

PIECE = 16  # images that are scored at once
PIECE_WHILE_DRAWING = 4  # the same where a row waits for it


@dataclass(eq=False)
class Job:
    """Images to score."""

    engine: Engine  # whose model scores them
    work: Callable[[int, int], object]  # scores the images first..last - 1
    num_images: int
    deadline: float
    timeout_s: float
    listen: Callable[[list[object] | Refused], None]
    num_done: int = 0
    results: list[object] = field(default_factory=list)  # of each piece
    cancelled: bool = False


class Share:
    """Whose turn it is: while images are drawn, work takes `share` of the time at most, so that rows never wait for long."""

    def __init__(self, share: float = admission.SCORING_SHARE):
        self.share = share
        self._owed_s = 0.0  # that is to be drawn before there is more work

    def drew(self, seconds: float) -> None:
        """Rows took so long; drawing without work beside it saves nothing up."""
        self._owed_s = max(0.0, self._owed_s - seconds)

    def worked(self, seconds: float) -> None:
        """A piece of work took so long while images were being drawn."""
        self._owed_s += seconds * (1 - self.share) / self.share

    @property
    def is_due(self) -> bool:
        """Whether the next piece of work may be done."""
        return self._owed_s <= 0


class Jobs:
    """Jobs in turns, a piece of each; of the engine's thread only."""

    def __init__(self) -> None:
        self.share = Share()
        self._jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        """The last in the first round."""
        self._jobs.append(job)

    def step(
        self, *, is_drawing: bool, judge: Callable[[Engine, Exception | None], None]
    ) -> tuple[Job, list[object] | Refused | None] | None:
        """One piece of one job, if it is its turn; a job that is finished with its answer (None: nobody wants it).

        Args: `judge`, told of each piece that its engine's model did it (None), or what it raised; what it raises itself goes on.
        """
        if not self._jobs or (is_drawing and not self.share.is_due):
            return None
        job = self._jobs.popleft()
        began = time.monotonic()
        if job.cancelled:
            return job, None
        if job.deadline < began:
            return job, too_late(job.timeout_s)
        last = min(job.num_done + (PIECE_WHILE_DRAWING if is_drawing else PIECE), job.num_images)
        try:
            job.results.append(job.work(job.num_done, last))
        except Refused as refused:
            return job, refused
        except Exception as error:
            judge(job.engine, error)
            return job, Refused(500, "internal", f"scoring failed ({type(error).__name__})")
        judge(job.engine, None)
        if is_drawing:
            self.share.worked(time.monotonic() - began)
        job.num_done = last
        if job.num_done == job.num_images:
            return job, job.results
        self._jobs.append(job)
        return None
