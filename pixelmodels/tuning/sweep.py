"""`tune`: a sweep from the command line's options to the best recipe's file; killed and called again, it goes on."""

from __future__ import annotations

import dataclasses
import functools
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pixelmodels import rayctx
from pixelmodels.data import Dataset, find_dataset, prepare
from pixelmodels.errors import UserError
from pixelmodels.models import architecture_of
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import Status
from pixelmodels.training.preflight import WorkerNeeds, check_shared, runs_at_once, threads_per_worker
from pixelmodels.training.progress import Say, duration
from pixelmodels.training.recipes import Recipe
from pixelmodels.training.running import holding
from pixelmodels.training.suite_run import check_sources, config_of
from pixelmodels.training.suites import suite
from pixelmodels.training.trainer import RAY_FILES
from pixelmodels.tuning.options import Tune, check_same, sweep_name
from pixelmodels.tuning.record import Head, Records
from pixelmodels.tuning.report import Summary, publish
from pixelmodels.tuning.space import Defaults, SearchSpace, load_space
from pixelmodels.tuning.state import Sweep, count_parameters
from pixelmodels.tuning.trial import NUMBER, TrialPlans, run_trial
from pixelmodels.tuning.verdicts import start_verdicts

# Read by Ray Tune; what the user has set is kept.
_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files beside MLflow
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-c ends the sweep at once: the record is what it goes on from
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass
class Outcome:
    """What came of one call."""

    folder: str  # of the sweep below the storage root
    summary: Summary
    best_file: str | None  # path or URI of best.yaml; none where no trial has a score


def tune(options: Tune, spaces: Mapping[str, str], say: Say = print) -> Outcome:
    """Run a sweep, or go on with it, and write what it found.

    Args: `spaces`, the table of search spaces. Raises `UserError`, before anything is trained, for whatever cannot work.
    """
    started = time.monotonic()
    space = load_space(options.space, spaces)
    recipes = suite(options.suite)
    if options.data_path is not None:
        path = options.data_path
        recipes = tuple(dataclasses.replace(recipe, dataset=dataclasses.replace(recipe.dataset, path=path)) for recipe in recipes)
    defaults = defaults_of(space, recipes, options)
    needs = WorkerNeeds(options.num_workers, options.cpus_per_worker, options.use_gpu)
    storage = Storage(options.storage)
    storage.check_writable()
    chosen = find_dataset(storage, options.dataset) if options.dataset is not None else None
    if chosen is None:
        check_sources([defaults.first])
    tracker = Tracker(storage)
    tracker.check()
    rayctx.connect()
    check_shared(storage, tracker.uri)
    at_once = min(runs_at_once(needs), options.max_concurrent or options.num_samples, options.num_samples)
    dataset = chosen if chosen is not None else prepare(defaults.first.dataset, storage, say=say)
    defaults = defaults.on(config_of(dataset) if chosen is not None else defaults.first.dataset)
    _check_defaults(space, defaults, dataset, say)

    epochs = options.epochs or -(-defaults.first.epochs // 5)
    settings = options.settings(start_from=defaults.first.name, dataset=f"{dataset.name}-{dataset.fingerprint}", epochs=epochs)
    name = sweep_name(options, settings, dataset.name)
    records = Records(storage, name)
    with holding(storage, records.folder, f"sweep {name}", say, remedy="give another --name"):
        if options.fresh:
            _forget(records)
        head = _begin(records, settings, options, tracker)
        plans = TrialPlans(
            records=records,
            sweep_id=head.id,
            dataset=dataset,
            needs=needs,
            num_threads=threads_per_worker(needs, at_once),
            checkpoint_every_s=options.checkpoint_every_s,
            max_failures=options.max_failures,
        )
        ends_at = started + 60 * options.max_minutes if options.max_minutes is not None else float("inf")
        status: Status = "KILLED"
        try:
            parent, num_samples = head.mlflow_run_id, options.num_samples
            sweep = Sweep(space, defaults, settings, plans, tracker, parent, say, num_samples=num_samples, ends_at=ends_at)
            sweep.tidy()
            _search(sweep, at_once, options, head)
            sweep.tidy()
            summary, best_file = publish(sweep)
            status = "FINISHED"
        finally:
            tracker.finish(head.mlflow_run_id, status)
    say(f"{summary.counts()} in {duration(time.monotonic() - started)}")
    return Outcome(records.folder, summary, best_file)


def defaults_of(space: SearchSpace, recipes: tuple[Recipe, ...], options: Tune) -> Defaults:
    """The recipes that a sweep starts from; raises `UserError` where --start-from is none of them, or not of the space."""
    first = options.start_from
    if first is None and space.architectures:
        first = next((recipe.name for kind in space.architectures for recipe in recipes if architecture_of(recipe.model) == kind), None)
        if first is None:
            have = ", ".join(recipe.name for recipe in recipes)
            needed = f"space '{options.space}' is of {', '.join(space.architectures)}"
            raise UserError(f"{needed}, and suite '{options.suite}' has only {have}; give another --space or --suite")
    defaults = Defaults(recipes, first)
    kind = architecture_of(defaults.first.model)
    if space.architectures and kind not in space.architectures:
        raise UserError(
            f"--start-from {first} is a recipe of {kind}, and space '{options.space}' is of {', '.join(space.architectures)}; "
            "give one of these, or another --space"
        )
    for architecture in space.architectures:
        defaults.of(architecture)  # one that is missing is told now
    return defaults


def _check_defaults(space: SearchSpace, defaults: Defaults, dataset: Dataset, say: Say) -> None:
    """Raise `UserError` where the recipe to begin with does not fit its data, and say of the others which do not."""
    count_parameters(defaults.first, dataset)
    for architecture in space.architectures:
        try:
            count_parameters(defaults.of(architecture), dataset)
        except UserError as error:
            say(f"the default recipe of {architecture} cannot be built for these images: {error}")


def _forget(records: Records) -> None:
    """Remove an earlier sweep of the same name, and Ray's files of it."""
    head = None
    with suppress(UserError):  # of another version
        head = records.head()
    records.clear()
    for name in records.storage.list(RAY_FILES) if head is not None else ():
        if head is not None and f"-{head.id}-" in name:
            records.storage.delete(f"{RAY_FILES}/{name}")


def _begin(records: Records, settings: dict[str, Any], options: Tune, tracker: Tracker) -> Head:
    """The sweep's head, written where it has none yet, and its MLflow run, opened."""
    head = records.head()
    if head is None:
        records.clear()  # what a call left that was killed while it forgot a sweep
    else:
        check_same(records.name, head.settings, settings)
    tags = {"suite": options.suite, "space": options.space, "sweep": records.name}
    run_id = tracker.start_parent(f"tune {records.name}", dataclasses.asdict(options), tags, head.mlflow_run_id if head else None)
    if head is None or head.mlflow_run_id != run_id:
        head = Head(head.id if head else secrets.token_hex(4), settings, run_id)
        records.write_head(head)
    return head


def _search(sweep: Sweep, at_once: int, options: Tune, head: Head) -> None:
    """Run what is left of the trials."""
    num_left = options.num_samples - sum(trial.has_ended for trial in sweep.trials.values())
    if num_left <= 0:
        sweep.say(f"sweep {sweep.records.name}: all {options.num_samples} trials have ended; a larger --num-samples adds some")
        return
    for name, value in _TUNE.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    from pixelmodels.tuning.search import OutOfTime, SweepCallback, SweepScheduler, SweepSearch, quiet_tune

    quiet_tune()
    verdicts = start_verdicts()
    search, scheduler = SweepSearch(sweep, options.seed), SweepScheduler(sweep, verdicts.say.remote)
    before = len(sweep.trials)
    sweep.say(
        f"sweep {sweep.records.name}: {num_left} trial(s) of up to {sweep.epochs} epochs"
        + (f", {before} on record" if before else "")
        + f", {at_once} at a time with {options.num_workers} worker(s) of {options.cpus_per_worker} CPU(s)"
        + (" and a GPU each" if options.use_gpu else " each")
    )
    storage, own = sweep.records.storage, f"sweep-{head.id}-"
    for left_over in storage.list(RAY_FILES):  # of a call that was killed
        if left_over.startswith(own):
            storage.delete(f"{RAY_FILES}/{left_over}")
    session = own + secrets.token_hex(2)
    # The trial's own process only waits for its workers, which reserve what they need themselves; Ray Tune wants it to ask for something.
    function = tune.with_resources(functools.partial(run_trial, plans=sweep.plans, verdicts=verdicts), {"CPU": 0, "memory": 1})
    tuner = tune.Tuner(
        function,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=num_left,
            max_concurrent_trials=at_once,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=session,
            storage_path=storage.uri(RAY_FILES),
            callbacks=[SweepCallback(sweep, scheduler)],
            stop=OutOfTime(sweep),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        tuner.fit()
    except BaseException:
        ray.shutdown()  # its trials end with it, where this process started it
        raise
    finally:
        sweep.leave()
    storage.delete(f"{RAY_FILES}/{session}")


def _trial_name(trial: Any) -> str:
    return f"trial-{int(trial.config[NUMBER]):03d}-{trial.trial_id[:8]}"
