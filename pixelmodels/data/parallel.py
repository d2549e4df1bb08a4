"""Independent pieces of work, spread over a cluster as Ray's tasks, or over this machine's cores as processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pixelmodels.data.processes import map_here
from pixelmodels.errors import UserError, first_line
from pixelmodels.ray_cluster import num_cores

Record = dict[str, Any]

_TASKS_PER_CPU = 4  # tasks that are waiting or running for each CPU: none idles, and the records of few are in memory
_LEAST_TASKS = 32  # of a cluster that may grow
_MOST_LOSSES = 3  # workers that one task may lose


def map_records(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    """`function` of each record, in their order; one task, on one CPU, for each record.

    Records are taken as tasks are begun, so that few are in memory at once. Where Ray is running, tasks are Ray's: they run wherever
    there are CPUs, and those of a lost worker again. Elsewhere they run in processes of this machine, one for each core: a Ray of its own
    would take longer to start than most folders to prepare. Raises the `UserError` that a task raised.
    """
    ray = sys.modules.get("ray")
    return _by_ray(function, records) if ray is not None and ray.is_initialized() else map_here(function, records, num_cores())


def map_with_arrays(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    """As `map_records`, of a function that holds large arrays and computes on them: all tasks of a machine see the same ones.

    Where Ray is not running, tasks are threads of this process: numpy lets go of the interpreter's lock while it computes.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        yield from _by_ray(function, records)
        return
    with ThreadPoolExecutor(num_cores()) as threads:
        yield from threads.map(function, records)


def _by_ray(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    import ray

    task = ray.remote(_apply).options(num_cpus=1, max_retries=_MOST_LOSSES)
    shared = ray.put(function)
    most = max(_LEAST_TASKS, int(_TASKS_PER_CPU * ray.cluster_resources().get("CPU", 1)))
    numbered = enumerate(records)
    running: dict[Any, int] = {}
    done: dict[int, Record | str] = {}
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
                outcome = done.pop(following)
                if isinstance(outcome, str):
                    raise UserError(outcome)
                yield outcome
                following += 1
            if running:
                for ended in ray.wait(list(running), num_returns=1)[0]:
                    done[running.pop(ended)] = ray.get(ended)
            elif is_all_begun and not done:
                return
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        lost = f"a worker was lost, perhaps for want of memory ({first_line(error)})"
        raise UserError(f"{lost}; give the same command again: it goes on from what is whole") from error


def _apply(function: Callable[[Record], Record], record: Record) -> Record | str:
    """The result; or what a `UserError` says, which Ray would wrap in the whole traceback."""
    try:
        return function(record)
    except UserError as error:
        return str(error)
