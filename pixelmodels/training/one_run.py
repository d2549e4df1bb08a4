"""One run of a call: held, looked up or trained, tracked, and told about."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

from pixelmodels.tracking import Tracker
from pixelmodels.training.plan import RESULT, RunPlan, RunResult, finished
from pixelmodels.training.preflight import WorkerNeeds
from pixelmodels.training.progress import Progress, duration
from pixelmodels.training.running import RUNNING, holding
from pixelmodels.training.trainer import RunFailed, fit


def train_one(
    plan: RunPlan, needs: WorkerNeeds, progress: Progress, *, parent: str, suite: str, max_failures: int = 2, fresh: bool = False
) -> tuple[RunResult, bool]:
    """Train one plan to its end, saying at once how it ended; a run that is finished already is only shown.

    Args: `parent`, the MLflow run of the call; `suite`, its tag; `max_failures`, how often dead workers are replaced; `fresh`,
    whether to train anew what is finished or begun. Returns the result, and whether it was there before.
    """
    name = plan.recipe.name
    try:
        with holding(plan.storage, plan.folder, name, progress.show):
            result = None if fresh else finished(plan.storage, plan.folder)
            if result is not None:
                close_run(plan.tracker, result.mlflow_run_id)
                progress.show(f"{name}: finished before, {_summary(result)}; --fresh trains it anew")
                return result, True
            if fresh:
                _clear(plan)
            result = _fit(plan, needs, progress, parent, suite, max_failures, fresh)
    except Exception as error:
        progress.drain()
        progress.show(f"{name} failed: {reason_of(error)}")
        raise
    progress.drain()
    progress.show(f"{name}: finished, {_summary(result)}")
    return result, False


def _fit(plan: RunPlan, needs: WorkerNeeds, progress: Progress, parent: str, suite: str, max_failures: int, fresh: bool) -> RunResult:
    """Train one plan on the cluster, in an MLflow run of its own."""
    tracker, recipe = plan.tracker, plan.recipe
    if tracker is None:
        return fit(plan, needs, progress.actor, max_failures=max_failures)
    tags = {"suite": suite, "architecture": recipe.to_dict()["model"]["architecture"]}
    run_id = tracker.start_or_resume_child(
        recipe.name,
        parent_run_id=parent,
        run_key=plan.run_key,
        params=recipe.to_dict(),
        tags=tags,
        dataset=plan.dataset,
        fresh=fresh,
    )
    try:
        return fit(dataclasses.replace(plan, mlflow_run_id=run_id), needs, progress.actor, max_failures=max_failures)
    except RunFailed:
        tracker.finish(run_id, "FAILED")
        raise


def _clear(plan: RunPlan) -> None:
    """Remove what earlier calls left of a run: the result first, so that a half-removed run is never taken for finished."""
    plan.storage.delete(f"{plan.folder}/{RESULT}")
    for name in plan.storage.list(plan.folder):
        if name != RUNNING:
            plan.storage.delete(f"{plan.folder}/{name}")


def close_run(tracker: Tracker | None, run_id: str | None) -> None:
    """Close the MLflow run of a result that was written just before its process was killed; a run that is gone is left alone."""
    if tracker is None or run_id is None:
        return
    with suppress(Exception):  # of any kind: the result stands, whatever the tracking server says
        if tracker.client.get_run(run_id).info.status != "FINISHED":
            tracker.finish(run_id, "FINISHED")


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _summary(result: RunResult) -> str:
    test = f"test {result.test_bits_per_dim:.4f} +- {result.test_bits_per_dim_stderr:.4f} bits/dim"
    return f"{test} after {result.epochs} epochs in {duration(result.seconds)}"
