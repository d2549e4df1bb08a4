"""`tune`: a sweep from the command line's options to the best recipe's file; killed and called again, it goes on."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from pixelmodels import ray_cluster
from pixelmodels.data import Dataset, find_dataset, prepare
from pixelmodels.data.dataset import config_of
from pixelmodels.data.sources import check_has_files, with_files
from pixelmodels.errors import UserError
from pixelmodels.models import architecture_of
from pixelmodels.preflight import Preflight, unprepared
from pixelmodels.progress import Say, beside_the_driver, counting, duration
from pixelmodels.ray_cluster import WorkerNeeds, runs_at_once, threads_per_worker
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.recipes.suites import suite
from pixelmodels.runs.lock import Lost, holding
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.client import tracking_failure
from pixelmodels.tracking.location import told_place
from pixelmodels.tracking.runs import Status
from pixelmodels.training.elastic import say_what_it_waits_for
from pixelmodels.training.options import telling_options_of_training
from pixelmodels.training.outbox import attempt
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.trainer import RAY_FILES
from pixelmodels.tuning.options import Tune, check_same, sweep_name
from pixelmodels.tuning.record import TRIAL_RUNS, Head, Records
from pixelmodels.tuning.report import counts, publish
from pixelmodels.tuning.space import Defaults, SearchSpace, load_space
from pixelmodels.tuning.sweep import Sweep, count_parameters
from pixelmodels.tuning.trial import NUMBER, TrialPlans, Verdicts, give_back, run_trial

_LOOK_EVERY_S = 2.0  # seconds between looks at how many trials there is room for
_MOST_WAITING = 100_000  # workers of all trials that ask at a time whether to go on
# Read by Ray Tune; what the user has set is kept.
_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files beside MLflow
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ctrl-c ends the sweep at once: the record is what it goes on from
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune(options: Tune, spaces: Mapping[str, str], say: Say = print) -> str | None:
    """Run a sweep, or go on with it, and write what it found.

    Args: `spaces`, the table of search spaces. Returns the path or URI of best.yaml; none where no trial has a score.
    Raises `UserError`, before anything is trained, for whatever cannot work.
    """
    started = time.monotonic()
    space = load_space(options.space, spaces)
    recipes = suite(options.suite)
    if (path := options.data_path) is not None:
        with telling_options_of_training():
            datasets = {config: with_files(config, path, say) for config in dict.fromkeys(recipe.dataset for recipe in recipes)}
        recipes = tuple(dataclasses.replace(recipe, dataset=datasets[recipe.dataset]) for recipe in recipes)
    defaults = defaults_of(space, recipes, options)
    needs = WorkerNeeds.asked(options.num_workers, options.cpus_per_worker, options.use_gpu, options.gpus_per_worker)
    storage = Storage(options.storage)
    storage.check_writable()
    chosen = find_dataset(storage, options.dataset) if options.dataset is not None else None
    if chosen is None:
        check_has_files(defaults.first.dataset)
    tracker = Tracker(storage)
    tracker.check()
    if (place := told_place(storage, tracker.uri)) is not None:
        say(place)
    ray_cluster.connect()
    with telling_options_of_training():
        preflight = Preflight(storage, tracker, needs, unprepared([defaults.first.dataset] if chosen is None else [], storage))
    asked = preflight.check()
    at_once = AtOnce(needs, options.max_concurrent, options.num_samples, say)
    say_what_it_waits_for(f"sweep of {options.space}", needs, say)
    with telling_options_of_training():
        dataset = chosen if chosen is not None else prepare(defaults.first.dataset, storage, say=say)
    config = config_of(dataset) if chosen is not None else defaults.first.dataset
    defaults = Defaults([dataclasses.replace(recipe, dataset=config) for recipe in defaults.recipes], defaults.first.name)
    _check_defaults(space, defaults, dataset, say)

    epochs = options.epochs or -(-defaults.first.epochs // 5)
    settings = options.settings(start_from=defaults.first.name, dataset=f"{dataset.name}-{dataset.fingerprint}", epochs=epochs)
    name = sweep_name(options, settings, dataset.name)
    records = Records(storage, name)
    with holding(storage, records.folder, f"sweep {name}", say, remedy="give another --name") as hold:
        head = _begin(records, settings, options, tracker)
        template = RunPlan(
            recipe=defaults.first,
            dataset=dataset,
            storage=storage,
            run_key=head.id,
            checkpoint_every_s=options.checkpoint_every_s,
            report_epochs=True,
            num_threads=threads_per_worker(needs, at_once()),
            place=f"{records.folder}/{TRIAL_RUNS}",
            hold=hold,
        )
        plans = TrialPlans(records, template, needs, options.max_failures)
        ends_at = started + 60 * options.max_minutes if options.max_minutes is not None else float("inf")
        status: Status | None = "KILLED"
        try:
            sweep = Sweep(space, defaults, settings, plans, tracker, head.mlflow_run_id, say, options.num_samples, ends_at)
            sweep.tidy()
            with preflight.watching(say, asked):
                _search(sweep, at_once, options, head)
            template.check_held()
            sweep.tidy()
            summary, best_file = publish(sweep)
            status = "FINISHED"
        except Lost:
            status = None  # whoever has the sweep now goes on with its run in MLflow, too
            raise
        finally:
            if status is not None:
                attempt(tracker, partial(tracker.finish, head.mlflow_run_id, status))  # what went wrong first is what is told
    say(f"{counts(summary)} in {duration(time.monotonic() - started)}")
    return best_file


def defaults_of(space: SearchSpace, recipes: tuple[Recipe, ...], options: Tune) -> Defaults:
    """The recipes that a sweep starts from; raises `UserError` where --start-from is none of them, or not of the space."""
    first, kinds, names = options.start_from, space.architectures, ", ".join(space.architectures)
    if first is None and kinds:
        first = next((recipe.name for kind in kinds for recipe in recipes if architecture_of(recipe.model) == kind), None)
        if first is None:
            have = ", ".join(recipe.name for recipe in recipes)
            reason = f"space '{options.space}' is of {names}, and suite '{options.suite}' has only {have}"
            raise UserError(f"{reason}; give another --space or --suite")
    defaults = Defaults(recipes, first)
    kind = architecture_of(defaults.first.model)
    if kinds and kind not in kinds:
        reason = f"--start-from {first} is a recipe of {kind}, and space '{options.space}' is of {names}"
        raise UserError(f"{reason}; give one of these, or another --space")
    for kind in kinds:
        defaults.of(kind)  # one that is missing is told now
    return defaults


def _check_defaults(space: SearchSpace, defaults: Defaults, dataset: Dataset, say: Say) -> None:
    """Raise `UserError` where the recipe to begin with does not fit its data, and say of the others which do not."""
    count_parameters(defaults.first, dataset)
    for architecture in space.architectures:
        try:
            count_parameters(defaults.of(architecture), dataset)
        except UserError as error:
            say(f"the default recipe of {architecture} cannot be built for these images: {error}")


def _begin(records: Records, settings: dict[str, Any], options: Tune, tracker: Tracker) -> Head:
    """The sweep's head, written where it has none yet (or is to be forgotten), and its MLflow run, opened."""
    head = None
    with suppress(UserError) if options.fresh else nullcontext():  # it may be of another version
        head = records.head()
    if head is not None and not options.fresh:
        check_same(records.name, head.settings, settings)
    if head is not None:
        _remove_ray_files(records, head)  # of a call that was killed; trials go on from checkpoints of their own
    is_new = head is None or options.fresh
    tags = {"suite": options.suite, "space": options.space, "sweep": records.name}
    known = head.mlflow_run_id if head is not None and not is_new else None
    try:
        run_id = tracker.start_parent(f"tune {records.name}", dataclasses.asdict(options), tags, known)
    except Exception as error:  # of any kind: nothing has begun, and nothing is forgotten
        raise tracking_failure(tracker.uri, error) from error
    if is_new:
        records.clear()  # also what a call left that was killed while it forgot a sweep
        head = None
    if head is None or head.mlflow_run_id != run_id:
        head = Head(head.id if head else secrets.token_hex(4), settings, run_id)
        records.write(head)
    return head


def _remove_ray_files(records: Records, head: Head) -> None:
    """Remove Ray's own files of a sweep and of its trials."""
    for name in records.storage.list(RAY_FILES):
        if f"-{head.id}-" in name:
            records.storage.delete(f"{RAY_FILES}/{name}")


class AtOnce:
    """How many trials of a sweep may run at a time: as many as the cluster has room for, looked at again as nodes come and go.

    Args: `most`, at most so many, where that is told; `num_samples`, all of them; `say` prints a line where it changes.
    Raises `UserError` where the cluster can never have one.
    """

    def __init__(self, needs: WorkerNeeds, most: int | None, num_samples: int, say: Say) -> None:
        self._needs, self._wanted, self._most, self._say = needs, most or 1, min(most or num_samples, num_samples), say
        self._now, self._looked = self._look(), time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see `Sweep`

    def __call__(self) -> int:
        """How many by now."""
        if time.monotonic() - self._looked >= _LOOK_EVERY_S:
            with suppress(Exception):  # of any kind: what is left is too little for one (which waits then), or the cluster does not answer
                before, self._now = self._now, self._look()
                if self._now != before:
                    self._say(f"the cluster has room for {self._now} trial(s) at a time now, and had for {before}")
            self._looked = time.monotonic()
        return self._now

    def _look(self) -> int:
        return min(runs_at_once(self._needs, wanted=self._wanted), self._most)


def _search(sweep: Sweep, at_once: AtOnce, options: Tune, head: Head) -> None:
    """Run what is left of the trials."""
    num_left = options.num_samples - sum(trial.has_ended for trial in sweep.trials.values())
    if num_left <= 0:
        sweep.say(f"sweep {sweep.records.name}: all {options.num_samples} trials have ended; a larger --num-samples adds some")
        return
    for name, value in _TUNE.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    from pixelmodels.tuning.search import SweepSearch

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a trial that fails is told in a line of our own
    verdicts = ray.remote(max_concurrency=_MOST_WAITING)(Verdicts).options(**beside_the_driver()).remote()  # ends with this process
    before = f", {len(sweep.trials)} on record" if sweep.trials else ""
    each = f"{sweep.plans.needs.workers} of {sweep.plans.needs.each}"
    sweep.say(f"sweep {sweep.records.name}: {num_left} trial(s) of up to {sweep.epochs} epochs{before}, {at_once()} at a time with {each}")
    # The trial's own process only waits for its workers, which reserve what they need themselves; Ray Tune wants it to ask for something.
    # A trial whose process dies is asked for again, at most so often as dead workers are replaced.
    num_asked = num_left * (1 + options.max_failures)
    function = tune.with_resources(functools.partial(run_trial, plans=sweep.plans, verdicts=verdicts), {"CPU": 0, "memory": 1})
    search = SweepSearch(sweep, options.sampler_seed, verdicts.say.remote, partial(give_back, verdicts), at_once)
    tuner = tune.Tuner(
        function,
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=num_asked,
            max_concurrent_trials=options.num_samples,  # the search has the number that counts: Ray Tune knows only of one that stays
            time_budget_s=None if options.max_minutes is None else max(0.0, sweep.ends_at - time.monotonic()),
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"sweep-{head.id}-{secrets.token_hex(2)}",
            **sweep.records.storage.for_ray(RAY_FILES),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        with counting("trials", options.num_samples, "trials", done=sweep.num_done) as sweep.advance:
            tuner.fit()
    except BaseException:
        ray.shutdown()  # its trials end with it, where this process started it
        if search.error is not None:
            raise search.error from None
        raise
    finally:
        sweep.leave()
    _remove_ray_files(sweep.records, head)


def _trial_name(trial: Any) -> str:
    return f"trial-{int(trial.config[NUMBER]):03d}-{trial.trial_id[:8]}"
