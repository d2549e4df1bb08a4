"""`train_all`: every recipe of a suite trained, tested and compared, as many at a time as the cluster has room for."""

from __future__ import annotations

import dataclasses
import math
import secrets
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from functools import partial

from pixelmodels import ray_cluster
from pixelmodels.data import Dataset, DatasetConfig, prepare
from pixelmodels.data.dataset import config_of
from pixelmodels.data.sources import check_has_files
from pixelmodels.evaluation import baselines
from pixelmodels.evaluation.ablation import ablation_files, compare_all, print_ablation
from pixelmodels.evaluation.baselines import baselines_of
from pixelmodels.evaluation.leaderboard import LeaderboardRow, leaderboard_files, print_leaderboard
from pixelmodels.preflight import Preflight, unprepared
from pixelmodels.progress import Progress, Say, duration, live_table
from pixelmodels.ray_cluster import asking_for, cluster_nodes, runs_at_once, threads_per_worker
from pixelmodels.recipes.recipe import Recipe, run_key
from pixelmodels.recipes.suites import ablations_of
from pixelmodels.runs.result import RUNS, RunResult
from pixelmodels.storage import DEFAULT_STORAGE, Storage, fitting
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.client import tracking_failure
from pixelmodels.tracking.location import told_place
from pixelmodels.tracking.runs import Status
from pixelmodels.tracking.versions import CHAMPION, best_on, condition_tag, versions_of
from pixelmodels.training.dry_run import check_weights_fit
from pixelmodels.training.elastic import say_what_it_waits_for
from pixelmodels.training.one_run import catch_up, train_one
from pixelmodels.training.options import TrainAll, check_channels, check_images, telling_options_of_training
from pixelmodels.training.outbox import attempt
from pixelmodels.training.plan import RunPlan, build_model
from pixelmodels.training.trainer import reason

_POLL_S = 0.3
_NOTES = ("Models: exact likelihood of the test images under the averaged weights that validated best.", *baselines.NOTES)


@dataclass
class Outcome:
    """What came of one call."""

    folder: str  # of the call below the storage root
    leaderboard: str  # path or URI of leaderboard.md
    results: list[RunResult] = field(default_factory=list)  # of the runs that ended well
    finished_before: list[str] = field(default_factory=list)  # names of those results that an earlier call had
    failed: dict[str, str] = field(default_factory=dict)  # reason by recipe

    def counts(self) -> str:
        """How many models were trained, finished before, or failed: `2 trained, 1 failed`."""
        counts = {
            "trained": len(self.results) - len(self.finished_before),
            "finished before": len(self.finished_before),
            "failed": len(self.failed),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def train_all(options: TrainAll, say: Say = print) -> Outcome:
    """Prepare the data, score the baselines, train every recipe, and write the leaderboard.

    Raises `UserError`, before anything is trained, for whatever cannot work: names, storage, tracking, resources.
    """
    started = time.monotonic()
    recipes, needs, storage = options.recipes(say), options.needs, Storage(options.storage)
    storage.check_writable()
    chosen = options.chosen_dataset(storage)
    if chosen is None:
        for recipe in recipes:
            check_has_files(recipe.dataset)
    tracker = Tracker(storage)
    tracker.check()
    if (place := told_place(storage, tracker.uri)) is not None:
        say(place)
    ray_cluster.connect()
    configs = [recipe.dataset for recipe in recipes] if chosen is None else []
    with telling_options_of_training():
        preflight = Preflight(storage, tracker, needs, unprepared(configs, storage))
    asked = preflight.check()
    at_once = min(runs_at_once(needs, wanted=len(recipes)), len(recipes))
    say_what_it_waits_for(options.name, needs, say)
    largest_gpu = max((memory for memory in asked.values() if memory is not None), default=None)
    plans = _plans(options, recipes, chosen, tracker, say, largest_gpu)
    datasets = [plan.dataset for plan in plans]
    names = ", ".join(dict.fromkeys(f"{dataset.name}-{dataset.fingerprint}" for dataset in datasets))
    say(f"training {', '.join(one.name for one in recipes)} on {names}, {at_once} at a time with {needs.workers} each")
    if needs.most > needs.num_workers and len(recipes) > 1:
        say("each takes the workers that there is room for when it starts, in this order, and more as soon as others end or machines come")

    call = f"{RUNS}/train_all-{fitting(options.name, 200)}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    try:
        parent = tracker.start_parent(f"train_all {options.name}", dataclasses.asdict(options), {"suite": options.name})
    except Exception as error:  # of any kind: nothing has begun
        raise tracking_failure(tracker.uri, error) from error
    outcome = Outcome(call, storage.uri(f"{call}/leaderboard.md"))
    status: Status = "KILLED"
    untold: dict[str, str] = {}  # what MLflow could not be told, and why
    try:
        rows = baselines_of(datasets)
        plans = [dataclasses.replace(plan, num_threads=threads_per_worker(needs, at_once)) for plan in plans]
        with preflight.watching(say, asked):
            _train(plans, at_once, parent, options, outcome, say)
        _compare([*rows, *map(_row, outcome.results)], f"{options.name} on {names}", options, tracker, parent, outcome, say, untold)
        _catch_up(plans, outcome, options, parent, untold)
        _say_best(plans, outcome, options, tracker, say)
        status = "FAILED" if outcome.failed else "FINISHED"
    finally:
        attempt(tracker, lambda: tracker.finish(parent, status))
    if untold:
        again = "the same command without --fresh" if options.fresh else "the same command"
        what, why = ", ".join(untold), next(iter(untold.values()))
        say(f"MLflow could not be told of {what} ({why}); all of it is in {storage.root}, and {again} brings it there when MLflow answers")
    say(f"{outcome.counts()} in {duration(time.monotonic() - started)}")
    return outcome


def _plans(
    options: TrainAll, recipes: Sequence[Recipe], chosen: Dataset | None, tracker: Tracker, say: Say, gpu_bytes: int | None = None
) -> list[RunPlan]:
    """A plan for each recipe on its prepared data, or on the chosen data set; one that cannot be trained on them, or here, is told."""
    if chosen is not None:
        recipes = [dataclasses.replace(recipe, dataset=config_of(chosen)) for recipe in recipes]
    storage = tracker.storage
    configs = dict.fromkeys(recipe.dataset for recipe in recipes)
    prepared = {config: _prepared(config, storage, say) if chosen is None else chosen for config in configs}
    for dataset in prepared.values():
        check_images(options, dataset)
    check_channels(options, ((recipe, prepared[recipe.dataset].spec) for recipe in recipes))
    plans, nodes = [], cluster_nodes(options.needs, len(recipes))
    for recipe in recipes:
        dataset = prepared[recipe.dataset]
        key = run_key(recipe, dataset.fingerprint)
        plan = RunPlan(recipe, dataset, storage, key, tracker, registered_name=dataset.name, checkpoint_every_s=options.checkpoint_every_s)
        check_weights_fit(recipe, build_model(plan).num_parameters, options.needs, nodes, gpu_bytes)
        plans.append(plan)
    return plans


def _prepared(config: DatasetConfig, storage: Storage, say: Say) -> Dataset:
    """The data set of a config."""
    with telling_options_of_training():
        return prepare(config, storage, say=say)


def _train(plans: Sequence[RunPlan], at_once: int, parent: str, options: TrainAll, outcome: Outcome, say: Say) -> None:
    """Train all plans, some at a time; results and failures go to `outcome`, in the order of the plans."""
    with live_table([plan.recipe.name for plan in plans]) as table:
        _train_shown(plans, at_once, parent, options, outcome, Progress(say, table))


def _train_shown(plans: Sequence[RunPlan], at_once: int, parent: str, options: TrainAll, outcome: Outcome, progress: Progress) -> None:
    import ray

    pool = ThreadPoolExecutor(at_once, thread_name_prefix="run")
    futures: list[Future[tuple[RunResult, bool]]] = [pool.submit(train_one, plan, options, progress, parent) for plan in plans]
    try:
        with asking_for(options.needs, at_once):
            pending = set(futures)
            while pending:
                _, pending = wait_for(pending, timeout=_POLL_S)
                progress.drain()
    except BaseException:
        progress.close()
        pool.shutdown(wait=False, cancel_futures=True)
        ray.shutdown()  # the threads wait for Ray, and would be waited for
        raise
    pool.shutdown()
    for plan, future in zip(plans, futures, strict=True):
        error = future.exception()
        if error is None:
            result, was_there = future.result()
            outcome.results.append(result)
            outcome.finished_before += [result.name] if was_there else []
        else:
            outcome.failed[plan.recipe.name] = reason(error)


def _compare(
    rows: Sequence[LeaderboardRow],
    title: str,
    options: TrainAll,
    tracker: Tracker,
    parent: str,
    outcome: Outcome,
    say: Say,
    untold: dict[str, str],
) -> None:
    """The leaderboard, and with --ablation what each improvement is worth: on the terminal, in the call's folder and in MLflow."""
    files = leaderboard_files(rows, title, _NOTES)
    print_leaderboard(rows, title)
    if options.ablation:
        comparisons = ablations_of(options.suite)
        worths = compare_all(comparisons, outcome.results, tracker.storage, say)
        if worths:
            files |= ablation_files(worths, title, comparisons)
            print_ablation(worths, title)
    for name, content in files.items():
        tracker.storage.write_bytes(f"{outcome.folder}/{name}", content)
    why = attempt(tracker, lambda: tracker.log_files(parent, files))
    if why is not None:
        untold["the leaderboard of this call"] = why


def _catch_up(plans: Sequence[RunPlan], outcome: Outcome, options: TrainAll, parent: str, untold: dict[str, str]) -> None:
    """Tell MLflow what it lacks of runs that ended while it was away."""
    plan_of = {plan.recipe.name: plan for plan in plans}
    for index, result in enumerate(outcome.results):
        outcome.results[index], why = catch_up(plan_of[result.name], result, options, parent)
        if why is not None:
            untold[result.name] = why


def _say_best(plans: Sequence[RunPlan], outcome: Outcome, options: TrainAll, tracker: Tracker, say: Say) -> None:
    """Say which registered version of each data set is best, and how it becomes champion."""
    trained = {result.name for result in outcome.results}
    for name in dict.fromkeys(plan.dataset.name for plan in plans if plan.recipe.name in trained):
        of_it = [plan for plan in plans if plan.dataset.name == name and plan.recipe.name in trained]
        attempt(tracker, partial(_say_best_of, name, of_it, options, tracker, say))


def _say_best_of(name: str, plans: Sequence[RunPlan], options: TrainAll, tracker: Tracker, say: Say) -> None:
    """The choice is that of `promote --best`: among versions on the champion's data set that are given what the champion is given."""
    versions = versions_of(tracker, name)
    number = tracker.client.get_registered_model(name).aliases.get(CHAMPION)
    champion = next((one for one in versions if one.number == str(number)), None)
    dataset = f"{name}-{plans[0].dataset.fingerprint}"
    given = [condition_tag(plan.recipe.condition_on, plan.recipe.small_factor) for plan in plans]
    kinds = [champion.condition_on] if champion is not None and champion.dataset == dataset else ["", *given]
    best = next((one for kind in kinds if (one := best_on(versions, dataset, kind)) is not None), None)
    if best is None:
        return
    what = f"best of {name} by test bits/dim: {best}, {best.test_bits_per_dim:z.4f}"
    if champion is not None and best.number == champion.number:
        say(f"{what}; it is champion already")
        return
    if champion is not None and champion.dataset != best.dataset:
        say(f"{what}; the champion is of other data ({champion.dataset}): first remove its alias '{CHAMPION}' in MLflow")
        return
    uniform = math.log2(plans[0].dataset.spec.levels)
    if best.test_bits_per_dim >= uniform:
        say(f"{what}: no better than equally likely levels ({uniform:g}), it has learned nothing yet; give more --epochs, or more images")
        return
    storage = "" if options.storage == DEFAULT_STORAGE else f" --storage {shlex.quote(options.storage)}"
    say(f"{what}; make it champion: python pipelines/promote.py --name {shlex.quote(name)} --version {best.number}{storage}")


def _row(result: RunResult) -> LeaderboardRow:
    """The result's fields under the leaderboard's columns of the same names."""
    same = {column.name: getattr(result, column.name) for column in dataclasses.fields(LeaderboardRow) if column.name != "model"}
    return LeaderboardRow(model=result.name, **same)
