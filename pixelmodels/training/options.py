"""What a call of `train_all` asks for: which recipes of which suite, changed how, on which data and with which workers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelmodels.data import Dataset, find_dataset
from pixelmodels.data.dataset import DATASETS, MANIFEST
from pixelmodels.data.sources import with_files
from pixelmodels.errors import UserError, unknown
from pixelmodels.likelihoods import likelihood_class
from pixelmodels.models import architecture_class, architecture_of
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.recipes.ablation import recipes_of
from pixelmodels.recipes.files import prepared_of, read_recipe
from pixelmodels.recipes.recipe import ContextKind, Precision, Recipe
from pixelmodels.recipes.suites import ablations_of, published, suite
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import DEFAULT_STORAGE, Storage

_DEFAULT_SUITE = "digits"
_OF_TRAINING = ("epochs", "batch_size", "accumulate", "activation_checkpointing", "compile", "precision", "patience", "seed")
_REPLACED = (*_OF_TRAINING, "condition_on", "orders", "mutated_share")


@dataclass(frozen=True)
class TrainAll:
    """Train every model of a suite and compare them; go on with what an earlier call left unfinished."""

    suite: str = _DEFAULT_SUITE  # named list of recipes: digits, photos, cifar10 and others; an unknown name lists them all
    recipe_file: str | None = None  # YAML file with one recipe to train instead of a suite's, such as a sweep's best.yaml
    only: tuple[str, ...] = ()  # names of the recipes to train; all unless given
    exclude: tuple[str, ...] = ()  # names of recipes to leave out
    dataset: str | None = None  # prepared data set to train on instead of the suite's: name, or name-fingerprint
    data_path: str | None = None  # your files: those of the suite's data, or any images where these come with a package (docs/data.md)
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix
    epochs: int | None = None  # passes over the training images, instead of each recipe's own
    batch_size: int | None = None  # images a step, instead of each recipe's own
    accumulate: int | None = None  # parts that a worker's share of a step is scored in, to save memory, instead of each recipe's own
    activation_checkpointing: bool = False  # compute activations again in the backward pass, to save memory; else as each recipe says
    compile: bool = False  # compile the training step, some minutes when a run begins, for GPUs above all; else as each recipe says
    precision: Precision | None = None  # float32, tf32 or bfloat16, instead of each recipe's own
    learning_rate: float | None = None  # at the top of the schedule, instead of each recipe's own
    likelihood: str | None = None  # bernoulli, categorical or discretized_logistic_mixture, instead of each recipe's own
    condition_on: tuple[ContextKind, ...] = ()  # condition every model on: label, vector, grey, small; as each recipe says unless given
    small_factor: int | None = None  # of small: pixels along a side for which one given pixel stands, instead of each recipe's own
    orders: int | None = None  # of the pixels that every model learns: 1, 2, 4 or 8 (docs/orders.md), instead of each recipe's own
    mutated_share: float | None = None  # chance of a training sub-pixel to become a random level: for background models (docs/anomalies.md)
    patience: int | None = None  # epochs without a better validation until a run stops, instead of each recipe's own
    seed: int | None = None  # of weights, order and dropout, instead of each recipe's own
    num_workers: int | str = 1  # data-parallel workers of each model; a range such as 2..8: as many of them as there is room for
    cpus_per_worker: int = 1  # logical CPUs that a worker reserves
    use_gpu: bool = False  # one GPU a worker
    gpus_per_worker: float | None = None  # share of a GPU that a worker reserves instead of one: with 0.25 four small nets train on each
    checkpoint_every_s: float = 120.0  # seconds between checkpoints inside an epoch; 0: at the end of epochs only
    max_failures: int = 2  # times in a row that workers which die before they have saved anything are replaced, in each run
    fresh: bool = False  # train anew what is finished or begun
    ablation: bool = False  # train the suite's improvements switched one by one instead, and show what each is worth in bits/dim
    dry_run: bool = False  # only say what each model costs, and whether the cluster has room

    @property
    def name(self) -> str:
        """What the call is called: its suite, or its recipe file."""
        return Path(self.recipe_file).stem if self.recipe_file else self.suite

    @property
    def needs(self) -> WorkerNeeds:
        """What the training of one model reserves; raises `UserError` for counts that are too small."""
        return WorkerNeeds.asked(self.num_workers, self.cpus_per_worker, self.use_gpu, self.gpus_per_worker)

    def recipes(self, say: Callable[[str], None] = lambda _: None) -> tuple[Recipe, ...]:
        """The recipes that are asked for, with what the command line sets; raises `UserError` for unknown names.

        `say` is given one line about what the files of --data-path were taken for.
        """
        recipes = self._listed()
        if self.ablation and self.likelihood is not None:
            raise UserError(f"--likelihood {self.likelihood} is given and --ablation compares likelihoods; leave one of the two out")
        names = [recipe.name for recipe in recipes]
        for name in (*self.only, *self.exclude):
            if name not in names:
                raise unknown("model", name, names)
        chosen = [recipe for recipe in recipes if (not self.only or recipe.name in self.only) and recipe.name not in self.exclude]
        if not chosen:
            raise UserError(f"--only and --exclude leave no model of '{self.name}'; have {', '.join(names)}")
        datasets = {recipe.dataset: recipe.dataset for recipe in chosen}
        if self.dataset is None:  # else no files are looked at
            with telling_options_of_training():
                datasets = {config: with_files(config, self.data_path, say) for config in datasets}
        changed = tuple(self._changed(dataclasses.replace(recipe, dataset=datasets[recipe.dataset])) for recipe in chosen)
        if self.small_factor is not None and not any("small" in recipe.condition_on for recipe in changed):
            raise UserError(f"--small-factor {self.small_factor} is given and no model is given a small image; add --condition-on small")
        return changed

    def chosen_dataset(self, storage: Storage) -> Dataset | None:
        """The prepared data set to train on: that of --dataset, or the one that the recipe file names, where the storage root has it."""
        if self.dataset is not None:
            return find_dataset(storage, self.dataset)
        ref = prepared_of(self.recipe_file, storage) if self.recipe_file and self.data_path is None else None
        if ref is not None and ("/" in ref or "\0" in ref or not ref.strip(".")):
            raise UserError(f"recipe file '{self.recipe_file}' names the prepared data set '{ref}'; give a name, or name-fingerprint")
        return find_dataset(storage, ref) if ref is not None and storage.is_file(f"{DATASETS}/{ref}/{MANIFEST}") else None

    def _listed(self) -> tuple[Recipe, ...]:
        """The recipes to choose from: the recipe file's, the ablation's or the suite's."""
        if not self.recipe_file:
            return recipes_of(ablations_of(self.suite)) if self.ablation else suite(self.suite)
        if self.ablation or self.suite != _DEFAULT_SUITE:
            other = "--ablation" if self.ablation else f"--suite {self.suite}"
            raise UserError(f"--recipe-file {self.recipe_file} and {other} both say what to train; leave one of the two out")
        return (read_recipe(self.recipe_file, Storage(self.storage)),)

    def _changed(self, recipe: Recipe) -> Recipe:
        """A recipe with what the command line sets: fields of its own, and one of each of two parts."""
        if self.likelihood is not None:
            likelihood_class(self.likelihood)  # an unknown name is told here
        given = {name: getattr(self, name) for name in _REPLACED}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None and value is not False and value != ()}
        for part, name, value in (
            ("optimizer", "learning_rate", self.learning_rate),
            ("likelihood", "name", self.likelihood),
        ):
            if value is not None:
                changes[part] = dataclasses.replace(getattr(recipe, part), **{name: value})
        if self.small_factor is not None and "small" in changes.get("condition_on", recipe.condition_on):
            changes["small_factor"] = self.small_factor
        return dataclasses.replace(recipe, **changes)


@contextmanager
def telling_options_of_training() -> Iterator[None]:
    """Tell a mistake about files with the options of training, and of options that only `prepare_data.py` has, that it has them."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"(?<![\w-])--path(?![\w-])", "--data-path", str(error))
        found = dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        others = [option for option in found if option not in ("--data-path", "--dataset", "--storage")]
        if type(error) is not UserError or (text == str(error) and not others):
            raise
        where = f" ({', '.join(others)}: of pipelines/prepare_data.py; then train on it with --dataset NAME)" if others else ""
        raise UserError(f"{text}{where}") from error


def check_images(options: TrainAll, dataset: Dataset) -> None:
    """Raise `UserError` where the files of --data-path hold other images than those that a published suite is for."""
    papers = published(options.suite)
    if papers is not None and options.data_path is not None and dataset.spec != papers.data.image:
        found, wanted = (f"{spec.height}x{spec.width} with {spec.channels} channel(s)" for spec in (dataset.spec, papers.data.image))
        raise UserError(f"'{options.data_path}' holds images of {found}, and suite '{options.suite}' is for {wanted}; give such files")


def check_channels(options: TrainAll, images_of: Iterable[tuple[Recipe, ImageSpec]]) -> None:
    """Raise `UserError` where recipes are for grey images only and theirs are not, with the options that mend it.

    Of several channels either the network or the likelihood has to order the channels, or the model is no distribution.
    """
    failing = [(recipe, spec) for recipe, spec in images_of if spec.channels > 1 and not _orders_channels(recipe)]
    if not failing:
        return
    names = [recipe.name for recipe, _ in failing]
    remedies = [] if options.ablation or options.recipe_file else ["--suite photos"]
    remedies += [] if options.ablation else ["--likelihood discretized_logistic_mixture"]
    remedies += [] if options.recipe_file else [f"--exclude {' '.join((*options.exclude, *names))}"]
    recipes, give = ", ".join(f"'{name}'" for name in names), ", or ".join(remedies)
    why = f"neither the architecture nor likelihood '{failing[0][0].likelihood.name}' orders the {failing[0][1].channels} channels"
    raise UserError(f"{recipes} of '{options.name}' cannot be trained on colour images: {why}; give {give}")


def _orders_channels(recipe: Recipe) -> bool:
    """Whether a recipe's network or its likelihood orders the channels of an image."""
    return architecture_class(architecture_of(recipe.model)).orders_channels or likelihood_class(recipe.likelihood.name).orders_channels
