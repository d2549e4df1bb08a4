"""One run of a call: held, looked up or trained, tracked, and told about."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

from pixelmodels.errors import UserError, first_line
from pixelmodels.progress import Progress, duration
from pixelmodels.runs.lock import RUNNING, Lost, holding
from pixelmodels.runs.result import RESULT, RunResult, finished
from pixelmodels.training.finish import bring, close_run, lacks, tested
from pixelmodels.training.options import TrainAll
from pixelmodels.training.outbox import attempt
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import fit, ray_files, reason


def train_one(plan: RunPlan, options: TrainAll, progress: Progress, parent: str) -> tuple[RunResult, bool]:
    """Train one plan of a call to its end, saying at once how it ended; a run that is finished already is only shown.

    Args: `parent`, the MLflow run of the call. Returns the result, and whether it was there before.
    """
    name = plan.recipe.name
    try:
        with holding(plan.storage, plan.folder, name, progress.show) as hold:
            plan = dataclasses.replace(plan, hold=hold)
            tracker, gone = plan.tracker, hold.after
            if tracker is not None and gone is not None:  # its call's run, too: a machine that is gone cannot close it
                attempt(tracker, lambda: tracker.close_runs_of(gone))
            if options.fresh:
                _clear(plan)
            before = finished(plan.storage, plan.folder)
            result = before or _fit(plan, options, progress, parent)
            with suppress(OSError):
                plan.storage.delete(ray_files(plan))  # nothing goes on from them
            result, _ = catch_up(plan, result, options, parent)
    except Exception as error:
        progress.drain()
        progress.show(f"{name} failed: {reason(error)}")
        progress.end(name, None)
        raise
    progress.drain()
    progress.end(name, result.test_bits_per_dim)
    test = f"test {result.test_bits_per_dim:z.4f} +- {result.test_bits_per_dim_stderr:z.4f} bits/dim"
    is_registered = plan.registered_name is not None and result.model_version is not None
    where = f"models:/{plan.registered_name}/{result.model_version}" if is_registered else plan.storage.uri(plan.folder)
    summary = f"{test} after {result.epochs} epochs in {duration(result.seconds)}; it is {where}"
    progress.show(f"{name}: finished, {summary}" if before is None else f"{name}: finished before, {summary}; --fresh trains it anew")
    return result, before is not None


def catch_up(plan: RunPlan, result: RunResult, options: TrainAll, parent: str) -> tuple[RunResult, str | None]:
    """Tell MLflow what it lacks of a finished run; returns the result, and why MLflow could not be told.

    Raises `UserError` where the run's own files cannot be read.
    """
    tracker = plan.tracker
    if tracker is None:
        return result, None
    if not lacks(plan, result):
        close_run(tracker, result.mlflow_run_id)  # its process may have been killed before it could
        return result, None
    try:
        model, table = tested(plan)
    except (UserError, OSError) as error:
        lost = f"what it trained cannot be read ({first_line(error)}), and MLflow does not have it"
        raise UserError(f"{lost}; --fresh trains it anew") from error
    caught_up: list[RunResult] = []

    def tell() -> None:
        known = result.mlflow_run_id
        is_fresh = options.fresh and known is None  # MLflow was away when the run began
        run_id = known if known is not None and tracker.is_there(known) else _start(plan, options, parent, fresh=is_fresh)
        caught_up.append(bring(dataclasses.replace(plan, mlflow_run_id=run_id), result, model, table))

    why = attempt(tracker, tell)
    return (caught_up[0] if caught_up else result), why


def _fit(plan: RunPlan, options: TrainAll, progress: Progress, parent: str) -> RunResult:
    """Train one plan on the cluster, in an MLflow run of its own.

    Where that fails the run is closed, but not where another process has taken it over, which goes on with the run in MLflow too.
    """
    tracker, runs = plan.tracker, []
    if tracker is not None:
        why = attempt(tracker, lambda: runs.append(_start(plan, options, parent, fresh=options.fresh)))
        if why is not None:
            progress.show(f"{plan.recipe.name}: MLflow cannot be told ({why}); training goes on, and what is to be told waits")
    run_id = runs[0] if runs else None
    try:
        return fit(
            dataclasses.replace(plan, mlflow_run_id=run_id),
            options.needs,
            progress.actor,
            max_failures=options.max_failures,
            say=progress.show,
            is_live=progress.is_live,
        )
    except Exception as error:
        if tracker is not None and run_id is not None and not _is_lost(plan, error):
            attempt(tracker, lambda: tracker.finish(run_id, "FAILED"))
        raise


def _is_lost(plan: RunPlan, error: Exception) -> bool:
    """Whether another process has taken the run over, as far as the storage can tell."""
    if isinstance(error, Lost):
        return True
    try:
        plan.check_held()
    except Lost:
        return True
    except OSError:
        return False
    return False


def _start(plan: RunPlan, options: TrainAll, parent: str, *, fresh: bool = False) -> str:
    """The MLflow run of a plan: a new one, or the one that an earlier call began."""
    assert plan.tracker is not None
    recipe = plan.recipe.to_dict()
    return plan.tracker.start_or_resume_child(
        plan.recipe.name,
        parent_run_id=parent,
        run_key=plan.run_key,
        params=recipe,
        tags={"suite": options.name, "architecture": recipe["model"]["architecture"]},
        dataset=plan.dataset,
        fresh=fresh,
    )


def _clear(plan: RunPlan) -> None:
    """Remove what earlier calls left of a run: the result first, so that a half-removed run is never taken for finished."""
    plan.storage.delete(f"{plan.folder}/{RESULT}")
    for name in plan.storage.list(plan.folder):
        if name != RUNNING:
            plan.storage.delete(f"{plan.folder}/{name}")
