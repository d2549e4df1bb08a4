"""Independent pieces of work, spread over a cluster by Ray Data, or over this machine's cores as processes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from pixelmodels.data.processes import map_here
from pixelmodels.errors import UserError, first_line
from pixelmodels.ray_cluster import num_cores

Record = dict[str, Any]

_AT_A_TIME = 1000  # records that Ray Data is given: these are in memory at once, and it takes a second to begin with some


def map_records(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    """`function` of each record, in their order; one task, on one CPU, for each record.

    Records are taken as they are needed, so that few are in memory at once. Where Ray is running, Ray Data has the tasks run wherever
    there are CPUs, and those of a lost worker again. Elsewhere they run in processes of this machine, one for each core: a Ray of its own
    would take longer to start than most folders to prepare. Raises the `UserError` that a task raised.
    """
    ray = sys.modules.get("ray")
    return _by_ray_data(function, records) if ray is not None and ray.is_initialized() else map_here(function, records, num_cores())


def map_with_arrays(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    """As `map_records`, of a function that holds large arrays and computes on them: all tasks of a machine see the same ones.

    Where Ray is not running, tasks are threads of this process: numpy lets go of the interpreter's lock while it computes.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        yield from _by_ray_data(function, records)
        return
    with ThreadPoolExecutor(num_cores()) as threads:
        yield from threads.map(function, records)


def _by_ray_data(function: Callable[[Record], Record], records: Iterable[Record]) -> Iterator[Record]:
    import ray

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    shared, left = ray.put(function), iter(records)
    try:
        while rows := [{"record": pickle.dumps(record)} for record in islice(left, _AT_A_TIME)]:
            with ray.data.DataContext.current(context):
                found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(_apply, batch_size=1, fn_args=(shared,))
                for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for outcome in batch["outcome"]:
                        value: Record | str = pickle.loads(outcome.as_py())
                        if isinstance(value, str):
                            raise UserError(value)
                        yield value
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        lost = f"a worker was lost, perhaps for want of memory ({first_line(error)})"
        raise UserError(f"{lost}; give the same command again: it goes on from what is whole") from error


def _apply(batch: dict[str, Any], shared: Any) -> dict[str, Any]:
    """The result of one record; or what a `UserError` says, which Ray would wrap in the whole traceback."""
    import ray

    function: Callable[[Record], Record] = ray.get(shared)
    (record,) = batch["record"]
    outcome: Record | str
    try:
        outcome = function(pickle.loads(record))
    except UserError as error:
        outcome = str(error)
    return {"outcome": np.array([pickle.dumps(outcome)], object)}
