"""Whether a trial goes on after an epoch: the driver says so, and the trial's own workers ask, and end themselves.

Ray Tune would end a trial by killing its process. What that process had started on the cluster, workers and the CPUs that are
reserved for them, would then be given back by a watchman of Ray Train's that needs Ray's dashboard: on a local Ray, which has none,
never. A trial that ends itself gives everything back at once, and does not train on until it is found.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

_MOST_WAITING = 100_000  # workers, of all trials


class Verdicts:
    """What was decided of each trial after each epoch; an actor of the driver's."""

    def __init__(self) -> None:
        self._found: defaultdict[tuple[int, int], asyncio.Future[bool]] = defaultdict(asyncio.Future)

    async def say(self, number: int, epoch: int, goes_on: bool) -> None:
        """Decide; what was decided before stays."""
        if not self._found[number, epoch].done():
            self._found[number, epoch].set_result(goes_on)

    async def ask(self, number: int, epoch: int) -> bool:
        """Whether the trial goes on; waits until that is decided."""
        return await self._found[number, epoch]


def start_verdicts() -> Any:
    """Start the actor; it ends with this process, or when nothing holds its handle any more."""
    import ray

    return ray.remote(num_cpus=0, max_concurrency=_MOST_WAITING)(Verdicts).remote()
