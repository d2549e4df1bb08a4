"""What an engine's thread has let in: images to draw, and images to score, which is done in pieces between two rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelmodels.sampling.engine import Engine, Request, RowDone
from pixelmodels.serving import admission
from pixelmodels.serving.refusals import Refused

Images = npt.NDArray[np.uint8]  # N C H W
Progress = RowDone | Images | Refused  # rows where they are wanted; then all images, or why there are none


@dataclass(eq=False)
class Work:
    """Images that somebody waits for."""

    engine: Engine
    num_images: int
    timeout_s: float
    listen: Callable[[list[Any]], object]  # told what there is, or a `Refused` last; in the engine's thread, so that it must not wait
    deadline: float = field(init=False)  # on the clock of `time.monotonic`
    num_done: int = 0

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.timeout_s

    @property
    def num_left(self) -> int:
        """Images that are not finished."""
        return self.num_images - self.num_done

    @property
    def num_counted(self) -> int:
        """As how many of them it counts where it is asked whether there is room for more."""
        return self.num_left


@dataclass(eq=False, kw_only=True)
class Ticket(Work):
    """A request that was let in; `listen` is told its `Progress`."""

    request: Request
    wants_rows: bool
    is_promised: bool  # that it is in time; others are refused rather than let in to make it late
    request_id: int = -1  # in the engine, once it is there
    num_begun: int = 0  # images that have, or had, a slot
    images_NCHW: Images = field(default_factory=lambda: np.zeros(0, np.uint8))

    @property
    def num_waiting(self) -> int:
        """Images that have no slot yet."""
        return self.num_images - self.num_begun

    @property
    def num_drawings(self) -> int:
        """Images to be drawn that have no slot yet; one that is drawn again in part counts for each time, until it is finished."""
        passes = self.request.most_passes
        return self.num_waiting if passes == 1 else self.num_left * passes


@dataclass(eq=False, kw_only=True)
class Job(Work):
    """Images to score; `listen` is told the results of all pieces."""

    work: Callable[[int, int], object]  # scores the images first..last - 1
    weight: int | None = None  # as how many images it counts at most; None: as many as it has
    results: list[object] = field(default_factory=list)  # of each piece

    @property
    def num_counted(self) -> int:
        """Not more than its weight: images that are only looked through hold no slot, and wait for nobody's deadline but its own."""
        return self.num_left if self.weight is None else min(self.weight, self.num_left)


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
