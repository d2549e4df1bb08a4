"""Independent pieces of work, spread over the cluster by Ray Data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pixelmodels.errors import UserError

Record = dict[str, Any]


class _Apply:
    """Runs a function on the JSON text of a record; one row in, one row out: the result, or what a `UserError` says."""

    def __init__(self, function: Callable[[Record], Record]) -> None:
        self.function = function

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"record": [json.dumps(self._outcome(json.loads(text))) for text in batch["record"]]}

    def _outcome(self, record: Record) -> Record:
        try:
            return {"result": self.function(record)}
        except UserError as error:
            return {"user_error": str(error)}


def map_records(function: Callable[[Record], Record], records: Sequence[Record]) -> Iterator[Record]:
    """`function` of each record, in the order in which they are finished; one task, on one CPU, for each record.

    Records are what JSON can hold: they travel as text, so no column type is guessed from their content. Ray Data keeps as
    many tasks in flight as there are CPUs, wherever they are, and runs the tasks of a lost worker again. Raises the `UserError`
    that a task raised.
    """
    import ray

    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; call pixelmodels.rayctx.connect() first")
    if not records:
        return
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        rows = [{"record": json.dumps(record)} for record in records]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(_Apply(function).__call__, batch_size=1)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for text in batch["record"].to_pylist():
                outcome = json.loads(text)
                if "user_error" in outcome:
                    raise UserError(outcome["user_error"])
                yield outcome["result"]
