"""Independent pieces of work, spread over the cluster as Ray's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pixelmodels.errors import UserError, first_line

Record = dict[str, Any]

_TASKS_PER_CPU = 4  # tasks that are waiting or running for each CPU: none idles, and the records of few are in memory
_LEAST_TASKS = 32  # of a cluster that may grow
_MOST_LOSSES = 3  # workers that one task may lose


def map_records(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    """`function` of each record, in their order; one task, on one CPU, for each record.

    Records are taken as tasks are begun, so that few are in memory at once. Tasks run wherever there are CPUs, and those of a lost worker
    again. Raises the `UserError` that a task raised.
    """
    import ray

    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; call pixelmodels.ray_cluster.connect() first")
    task = ray.remote(_apply).options(num_cpus=1, max_retries=_MOST_LOSSES)
    shared = ray.put(function)
    most = max(_LEAST_TASKS, int(_TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1)))
    numbered = enumerate(records)
    running: dict[Any, int] = {}
    done: dict[int, Record] = {}
    following, is_all_begun = 0, False
    try:
        while True:
            # What is done and waits for an earlier one counts, too: it is held here.
            while not is_all_begun and len(running) + len(done) < most:
                if (one := next(numbered, None)) is None:
                    is_all_begun = True
                else:
                    running[task.remote(shared, one[1])] = one[0]
            while following in done:
                yield done.pop(following)
                following += 1
            if running:
                for ended in ray.wait(list(running), num_returns=1)[0]:
                    outcome = ray.get(ended)
                    if isinstance(outcome, str):
                        raise UserError(outcome)
                    done[running.pop(ended)] = outcome
            elif is_all_begun and not done:
                return
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        remedy = "run the same command again, with a smaller --max-pixels if memory ran out"
        raise UserError(f"a worker was lost ({first_line(error)}); {remedy}") from error


def _apply(function: Callable[[Record], Record], record: Record) -> Record | str:
    """The result; or what a `UserError` says, which Ray would wrap in the whole traceback."""
    try:
        return function(record)
    except UserError as error:
        return str(error)
