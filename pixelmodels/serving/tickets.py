"""Requests that an engine's thread has let in, and what it tells of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pixelmodels.sampling.engine import Engine, Request, RowDone
from pixelmodels.serving.refusals import Refused

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
    is_promised: bool = True  # that it is in time; others are refused rather than let in to make it late
    request_id: int = -1  # in the engine, once it is there
    num_begun: int = 0  # images that have, or had, a slot
    num_done: int = 0
    images_NCHW: Images = field(default_factory=lambda: np.zeros(0, np.uint8))
