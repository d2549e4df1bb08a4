"""Independent pieces of work, spread over the cluster by Ray Data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pixelmodels.errors import UserError

Record = dict[str, Any]


def map_records(function: Callable[[Record], Record], records: Sequence[Record]) -> list[Record]:
    """`function` of each record, in their order; one task, on one CPU, for each record.

    Records are what JSON can hold: they travel as text, so no column type is guessed from their content. Ray Data keeps as
    many tasks in flight as there are CPUs, wherever they are, and runs the tasks of a lost worker again. Raises the `UserError`
    that a task raised.
    """
    import ray

    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; call pixelmodels.ray_cluster.connect() first")
    if not records:
        return []
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        rows = [{"record": json.dumps(numbered)} for numbered in enumerate(records)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(_apply, batch_size=1, fn_args=(function,))
        results: dict[int, Record] = {}
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for text in batch["record"].to_pylist():
                outcome = json.loads(text)
                if "user_error" in outcome:
                    raise UserError(outcome["user_error"])
                results[outcome["number"]] = outcome["result"]
        return [results[number] for number in range(len(records))]


def _apply(batch: dict[str, Any], function: Callable[[Record], Record]) -> dict[str, Any]:
    """One row in, the JSON text of a number and a record; one row out: the number and the result, or what a `UserError` says."""
    number, record = json.loads(batch["record"][0])
    try:
        outcome = {"number": number, "result": function(record)}
    except UserError as error:
        outcome = {"user_error": str(error)}
    return {"record": [json.dumps(outcome)]}
