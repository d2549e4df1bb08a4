"""`train_all`: every recipe of a suite trained, tested and compared, as many at a time as the cluster has room for."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pixelmodels import rayctx
from pixelmodels.data import FIXED_EPOCH, Dataset, DatasetConfig, binarize_dynamic, decode_rows, find_dataset, prepare
from pixelmodels.data.dataset import DATASETS, MANIFEST
from pixelmodels.data.sources import SHIPPED, open_source
from pixelmodels.errors import UserError, unknown
from pixelmodels.likelihoods import likelihood_class
from pixelmodels.storage import DEFAULT_STORAGE, Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.runs import Status
from pixelmodels.training import baselines
from pixelmodels.training.ablation import recipes_of
from pixelmodels.training.ablation_table import ablation_files, compare_all, print_ablation
from pixelmodels.training.baselines import baseline_rows
from pixelmodels.training.feeds import RESIDENT_BYTES
from pixelmodels.training.leaderboard import LeaderboardRow, leaderboard_files, print_leaderboard
from pixelmodels.training.loop import build_model
from pixelmodels.training.one_run import reason_of, train_one
from pixelmodels.training.plan import RUNS, RunPlan, RunResult
from pixelmodels.training.preflight import WorkerNeeds, check_shared, runs_at_once, threads_per_worker
from pixelmodels.training.progress import Progress, Say, duration
from pixelmodels.training.recipe_files import prepared_of, read_recipe
from pixelmodels.training.recipes import ContextKind, Precision, Recipe, from_plain, run_key
from pixelmodels.training.suites import ablations_of, published, suite

_POLL_S = 0.3
_DEFAULT_SUITE = "digits"
_NOTES = ("Models: exact likelihood of the test images under the averaged weights that validated best.", *baselines.NOTES)


@dataclass(frozen=True)
class TrainAll:
    """Train every model of a suite and compare them; go on with what an earlier call left unfinished."""

    suite: str = _DEFAULT_SUITE  # named list of recipes: digits, photos, cifar10 and others; an unknown name lists them all
    recipe_file: str | None = None  # YAML file with one recipe to train instead of a suite's, such as a sweep's best.yaml
    only: tuple[str, ...] = ()  # names of the recipes to train; all unless given
    exclude: tuple[str, ...] = ()  # names of recipes to leave out
    dataset: str | None = None  # prepared data set to train on instead of the suite's: name, or name-fingerprint
    data_path: str | None = None  # folder with the files of the suite's data, where they do not come with a package
    storage: str = DEFAULT_STORAGE  # storage root: a local folder or s3://bucket/prefix
    epochs: int | None = None  # passes over the training images, instead of each recipe's own
    batch_size: int | None = None  # images a step, instead of each recipe's own
    accumulate: int | None = None  # parts that a worker's share of a step is scored in, to save memory, instead of each recipe's own
    activation_checkpointing: bool = False  # compute activations again in the backward pass, to save memory; else as each recipe says
    precision: Precision | None = None  # float32 or bfloat16, instead of each recipe's own
    learning_rate: float | None = None  # at the top of the schedule, instead of each recipe's own
    likelihood: str | None = None  # bernoulli, categorical or discretized_logistic_mixture, instead of each recipe's own
    condition_on: tuple[ContextKind, ...] = ()  # condition every model on: label, vector, grey, small; as each recipe says unless given
    small_factor: int | None = None  # of small: pixels along a side for which one given pixel stands, instead of each recipe's own
    patience: int | None = None  # epochs without a better validation until a run stops, instead of each recipe's own
    seed: int | None = None  # of weights, order and dropout, instead of each recipe's own
    num_workers: int = 1  # data-parallel workers of each model
    cpus_per_worker: int = 1  # logical CPUs that a worker reserves
    use_gpu: bool = False  # one GPU a worker
    checkpoint_every_s: float = 120.0  # seconds between checkpoints inside an epoch; 0: at the end of epochs only
    max_failures: int = 2  # times that dead workers are replaced, in each run
    fresh: bool = False  # train anew what is finished or begun
    ablation: bool = False  # train the suite's improvements switched one by one instead, and show what each is worth in bits/dim
    dry_run: bool = False  # only say what each model costs, and whether the cluster has room

    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes that are asked for, with what the command line sets; raises `UserError` for unknown names."""
        recipes = self._of_file() if self.recipe_file else recipes_of(ablations_of(self.suite)) if self.ablation else suite(self.suite)
        if self.ablation and self.likelihood is not None:
            raise UserError(f"--likelihood {self.likelihood} is given and --ablation compares likelihoods; leave one of the two out")
        names = [recipe.name for recipe in recipes]
        for name in (*self.only, *self.exclude):
            if name not in names:
                raise unknown("model", name, names)
        chosen = [recipe for recipe in recipes if (not self.only or recipe.name in self.only) and recipe.name not in self.exclude]
        if not chosen:
            raise UserError(f"--only and --exclude leave no model of '{self.name}'; have {', '.join(names)}")
        changed = tuple(self._changed(recipe) for recipe in chosen)
        if self.small_factor is not None and not any("small" in recipe.condition_on for recipe in changed):
            raise UserError(f"--small-factor {self.small_factor} is given and no model is given a small image; add --condition-on small")
        return changed

    @property
    def name(self) -> str:
        """What the call is called: its suite, or its recipe file."""
        return Path(self.recipe_file).stem if self.recipe_file else self.suite

    def chosen_dataset(self, storage: Storage) -> Dataset | None:
        """The prepared data set to train on: that of --dataset, or the one that the recipe file names, where the storage root has it."""
        if self.dataset is not None:
            return find_dataset(storage, self.dataset)
        ref = prepared_of(self.recipe_file, storage) if self.recipe_file and self.data_path is None else None
        return find_dataset(storage, ref) if ref is not None and storage.is_file(f"{DATASETS}/{ref}/{MANIFEST}") else None

    def _of_file(self) -> tuple[Recipe, ...]:
        if self.ablation or self.suite != _DEFAULT_SUITE:
            other = "--ablation" if self.ablation else f"--suite {self.suite}"
            raise UserError(f"--recipe-file {self.recipe_file} and {other} both say what to train; leave one of the two out")
        return (read_recipe(self.recipe_file or "", Storage(self.storage)),)

    def _changed(self, recipe: Recipe) -> Recipe:
        given = {name: getattr(self, name) for name in ("epochs", "batch_size", "accumulate", "precision", "patience", "seed")}
        changes = {name: value for name, value in given.items() if value is not None}
        if self.activation_checkpointing:
            changes["activation_checkpointing"] = True
        if self.data_path is not None:
            changes["dataset"] = dataclasses.replace(recipe.dataset, path=self.data_path)
        if self.condition_on:
            changes["condition_on"] = self.condition_on
        if self.small_factor is not None and "small" in changes.get("condition_on", recipe.condition_on):
            changes["small_factor"] = self.small_factor
        if self.learning_rate is not None:
            changes["optimizer"] = dataclasses.replace(recipe.optimizer, learning_rate=self.learning_rate)
        if self.likelihood is not None:
            likelihood_class(self.likelihood)  # an unknown name is told here
            changes["likelihood"] = dataclasses.replace(recipe.likelihood, name=self.likelihood)
        return dataclasses.replace(recipe, **changes)


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
    recipes = options.recipes()
    needs = WorkerNeeds(options.num_workers, options.cpus_per_worker, options.use_gpu)
    storage = Storage(options.storage)
    storage.check_writable()
    chosen = options.chosen_dataset(storage)
    if chosen is None:
        check_sources(recipes)
    tracker = Tracker(storage)
    tracker.check()
    rayctx.connect()
    check_shared(storage, tracker.uri)
    room = runs_at_once(needs)
    at_once = min(room, len(recipes))
    if chosen is None:
        prepared = {config: prepare(config, storage, say=say) for config in dict.fromkeys(recipe.dataset for recipe in recipes)}
        datasets = [prepared[recipe.dataset] for recipe in recipes]
    else:
        recipes = tuple(dataclasses.replace(recipe, dataset=config_of(chosen)) for recipe in recipes)
        datasets = [chosen] * len(recipes)
    check_images(options, datasets)
    plans = [_plan(recipe, dataset, storage, tracker, options) for recipe, dataset in zip(recipes, datasets, strict=True)]
    for plan in plans:
        build_model(plan)  # a recipe that does not fit its data is told before anything starts
    names = ", ".join(recipe.name for recipe in recipes)
    say(f"training {names} on {_names(datasets)}, {at_once} at a time with {needs.num_workers} worker(s) each")

    call = f"{RUNS}/train_all-{options.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    parent = tracker.start_parent(f"train_all {options.name}", dataclasses.asdict(options), {"suite": options.name})
    outcome = Outcome(call, storage.uri(f"{call}/leaderboard.md"))
    status: Status = "KILLED"
    try:
        rows = _baseline_rows(datasets)
        plans = [dataclasses.replace(plan, num_threads=threads_per_worker(needs, at_once)) for plan in plans]
        _train(plans, needs, at_once, parent, options, outcome, say)
        rows += [_row(result) for result in outcome.results]
        title = f"{options.name} on {_names(datasets)}"
        _publish(rows, title, storage, call, tracker, parent)
        if options.ablation:
            comparisons = ablations_of(options.suite)
            worths = compare_all(comparisons, outcome.results, storage, say)
            if worths:
                _keep(ablation_files(worths, title, comparisons), storage, call, tracker, parent)
                print_ablation(worths, title)
        status = "FAILED" if outcome.failed else "FINISHED"
    finally:
        tracker.finish(parent, status)
    say(f"{outcome.counts()} in {duration(time.monotonic() - started)}")
    return outcome


def check_sources(recipes: Sequence[Recipe]) -> None:
    """Raise `UserError` where a recipe's images are in files that nobody has named."""
    for recipe in recipes:
        source = recipe.dataset.source
        if recipe.dataset.path is None and source not in SHIPPED:
            raise UserError(
                f"recipe '{recipe.name}' trains on source '{source}', whose files do not come with a package; "
                "give their folder with --data-path, or a prepared data set with --dataset"
            )
        open_source(recipe.dataset)  # options that make no sense are told


def check_images(options: TrainAll, datasets: Sequence[Dataset]) -> None:
    """Raise `UserError` where the files of --data-path hold other images than those that a published suite is for."""
    papers = published(options.suite)
    for dataset in datasets:
        if papers is not None and options.data_path is not None and dataset.spec != papers.data.image:
            found, wanted = (f"{spec.height}x{spec.width} with {spec.channels} channel(s)" for spec in (dataset.spec, papers.data.image))
            raise UserError(f"'{options.data_path}' holds images of {found}, and suite '{options.suite}' is for {wanted}; give such files")


def config_of(dataset: Dataset) -> DatasetConfig:
    """The options that a prepared data set was made with, as its manifest keeps them."""
    config: DatasetConfig = from_plain(DatasetConfig, {**dataset.manifest["options"], "name": dataset.name}, "dataset")
    return config


def _plan(recipe: Recipe, dataset: Dataset, storage: Storage, tracker: Tracker, options: TrainAll) -> RunPlan:
    return RunPlan(
        recipe=recipe,
        dataset=dataset,
        storage=storage,
        run_key=run_key(recipe, dataset.fingerprint),
        tracker=tracker,
        registered_name=dataset.name,
        checkpoint_every_s=options.checkpoint_every_s,
    )


def _train(plans: list[RunPlan], needs: WorkerNeeds, at_once: int, parent: str, options: TrainAll, outcome: Outcome, say: Say) -> None:
    """Train all plans, some at a time; results and failures go to `outcome`, in the order of the plans."""
    import ray

    progress = Progress(say)
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="run")
    how: dict[str, Any] = {"parent": parent, "suite": options.name, "max_failures": options.max_failures, "fresh": options.fresh}
    futures: list[Future[tuple[RunResult, bool]]] = [pool.submit(train_one, plan, needs, progress, **how) for plan in plans]
    try:
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
            outcome.failed[plan.recipe.name] = reason_of(error)


def _publish(rows: Sequence[LeaderboardRow], title: str, storage: Storage, call: str, tracker: Tracker, parent: str) -> None:
    """The leaderboard on the terminal, in the call's folder and in MLflow."""
    _keep(leaderboard_files(rows, title, _NOTES), storage, call, tracker, parent)
    print_leaderboard(rows, title)


def _keep(files: Mapping[str, bytes], storage: Storage, call: str, tracker: Tracker, parent: str) -> None:
    """Files by name, in the call's folder and in MLflow."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            storage.write_bytes(f"{call}/{name}", content)
            (Path(folder) / name).write_bytes(content)
        tracker.log_artifact(parent, folder)


def _baseline_rows(datasets: Sequence[Dataset]) -> list[LeaderboardRow]:
    rows: list[LeaderboardRow] = []
    for dataset in {dataset.fingerprint: dataset for dataset in datasets}.values():
        rows += baseline_rows(_training_images(dataset), dataset.read("test").images_NCHW, dataset.spec)
    return rows


def _training_images(dataset: Dataset) -> Iterator[np.ndarray]:
    """Training images in batches, streamed when there are many; dynamic binarization draws them once."""
    if dataset.split_bytes("train") < RESIDENT_BYTES:
        batches = iter([dataset.read("train").images_NCHW])
    else:
        stream = dataset.stream("train").iter_batches(batch_size=4096, batch_format="pyarrow")
        batches = (decode_rows(batch["image"], dataset.spec.shape) for batch in stream)
    position = 0
    for images in batches:
        if dataset.train_images_are_grey:
            images = binarize_dynamic(images, seed=0, epoch=FIXED_EPOCH, indices_N=np.arange(position, position + len(images)))
        position += len(images)
        yield images


def _row(result: RunResult) -> LeaderboardRow:
    """The result's fields under the leaderboard's columns of the same names."""
    same = {column.name: getattr(result, column.name) for column in dataclasses.fields(LeaderboardRow) if column.name != "model"}
    return LeaderboardRow(model=result.name, **same)


def _names(datasets: Sequence[Dataset]) -> str:
    return ", ".join(dict.fromkeys(f"{dataset.name}-{dataset.fingerprint}" for dataset in datasets))
