"""`train_all --dry-run`: what each recipe of a suite costs, and whether the cluster has room; nothing is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pixelmodels import ray_cluster
from pixelmodels.data import Dataset, find_prepared, prepare
from pixelmodels.data.sources import SHIPPED, check_has_files
from pixelmodels.errors import UserError
from pixelmodels.models import ContextSpec
from pixelmodels.progress import Say
from pixelmodels.ray_cluster import WorkerNeeds, cluster_nodes, has_memory, room
from pixelmodels.recipes.context import context_spec
from pixelmodels.recipes.recipe import Recipe
from pixelmodels.recipes.suites import published
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training.cost import Cost, batch_of_a_part, cost, weight_bytes
from pixelmodels.training.options import TrainAll, check_channels, check_images, telling_options_of_training
from pixelmodels.training.scale import GPUS, NUMBERS, Scale

GIB = 1 << 30


@dataclass(frozen=True)
class _Images:
    """What is known of the images that a recipe would train on."""

    spec: ImageSpec
    context: ContextSpec
    num_train: int
    origin: str  # where that is known from, in words


def dry_run(options: TrainAll, say: Say = print) -> None:
    """Say for each recipe: parameters, memory of a worker, steps, and whether the cluster has room.

    Raises `UserError` for names and data as `train_all` does, and when the cluster can never give what a recipe needs: CPUs,
    GPUs, or memory by the estimate of `cost`. A GPU's memory is known where the driver has one.
    """
    recipes, needs, storage = options.recipes(say), options.needs, Storage(options.storage)
    images = [_images(options, recipe, storage) for recipe in recipes]
    check_channels(options, zip(recipes, (one.spec for one in images), strict=True))
    ray_cluster.connect()
    nodes = cluster_nodes(needs)
    at_once = room(needs, nodes)
    for origin in dict.fromkeys(one.origin for one in images):
        say(origin)
    shares = f"{needs.num_workers} worker(s) of {needs.each}"
    say(f"{shares} for each model: room for {at_once} model(s) at a time")
    lacking: list[str] = []
    for recipe, found in zip(recipes, images, strict=True):
        cost_of_it = cost(recipe, found.spec, found.context)
        line, lack = _line(recipe, found, cost_of_it, needs, nodes)
        say(line)
        if needs.use_gpu or published(options.suite) is not None:
            say(_scaled(recipe, found, cost_of_it))
        lacking += [lack] if lack else []
    if lacking:
        raise UserError(lacking[0])


def check_weights_fit(
    recipe: Recipe, num_parameters: int, needs: WorkerNeeds, nodes: list[dict[str, float]], gpu_bytes: int | None = None
) -> None:
    """Raise `UserError` where no node holds even the weights of a model: what can be known at once, however long an estimate takes.

    Args: `gpu_bytes`, memory of the largest GPU among the nodes, where that is known.
    """
    asked = weight_bytes(recipe, num_parameters)
    has, of_it = _memory(asked, needs, nodes, gpu_bytes)
    if not has:
        raise UserError(
            f"recipe '{recipe.name}' needs {asked / GIB:.1f} GiB for each worker's weights, gradients and moments alone, and {of_it}; "
            "give it fewer features or layers, or use larger machines"
        )


def _images(options: TrainAll, recipe: Recipe, storage: Storage) -> _Images:
    """Of the data set that is named or prepared already, else as the papers have it; what comes with a package is prepared."""
    if (chosen := options.chosen_dataset(storage)) is not None:
        return _prepared(recipe, chosen)
    papers, config = published(options.suite), recipe.dataset
    if config.path is not None or config.source in SHIPPED:
        check_has_files(config)
        with telling_options_of_training():
            dataset = find_prepared(config, storage)
        if dataset is not None:
            check_images(options, dataset)
            return _prepared(recipe, dataset)
    if papers is not None:
        count = papers.data.num_training(recipe)
        origin = f"{config.source}, not prepared yet: about {count:,} training images, as published"
        return _Images(papers.data.image, papers.data.context(recipe), count, origin)
    check_has_files(config)
    with telling_options_of_training():
        dataset = prepare(config, storage, lambda _: None, ray_cluster.join)
    return _prepared(recipe, dataset)


def _prepared(recipe: Recipe, dataset: Dataset) -> _Images:
    return _Images(dataset.spec, context_spec(recipe, dataset), dataset.num_images("train"), dataset.summary())


def _line(recipe: Recipe, images: _Images, spent: Cost, needs: WorkerNeeds, nodes: list[dict[str, float]]) -> tuple[str, str | None]:
    """One recipe's line, and what it lacks."""
    batch = batch_of_a_part(recipe, needs.num_workers)
    asked = spent.worker_bytes(batch)
    steps = recipe.epochs * -(-images.num_train // recipe.batch_size)
    how = f"{batch} image(s) at a time, {recipe.precision}"
    how += f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    how += ", activations computed again" if recipe.activation_checkpointing else ""
    has, of_it = _memory(asked, needs, nodes)
    line = f"{recipe.name}: {spent.parameters:,} parameters; {asked / GIB:.2f} GiB a worker ({how}); {steps:,} steps; {of_it}"
    if has:
        return line, None
    remedy = "give --activation-checkpointing" if not recipe.activation_checkpointing else "use a larger machine"
    if batch > 1:
        remedy = f"give --accumulate {recipe.accumulate * 2} or more, or --activation-checkpointing"
    return line, f"recipe '{recipe.name}' needs about {asked / GIB:.1f} GiB for each worker, and {of_it}; {remedy}"


def _scaled(recipe: Recipe, images: _Images, spent: Cost) -> str:
    """What a step costs on some numbers of GPUs, in a line."""
    scale, told = Scale(recipe, spent, images.spec), []
    for number in NUMBERS:
        if number <= recipe.batch_size:
            step = scale.step(number)
            sends = f", {step.sent_bytes / 1e6:,.3g} MB sent by each" if number > 1 else ""
            reads = f"{step.read_bytes_per_s / 1e6:,.3g} MB/s read"
            told.append(f"{number}: {1e3 * step.seconds:,.3g} ms a step, {step.memory_bytes / GIB:.1f} GiB each, {reads}{sends}")
    return f"  estimated, not measured, on {GPUS.name}: {'; '.join(told)}; docs/scaling.md has what is assumed"


def _memory(asked: float, needs: WorkerNeeds, nodes: list[dict[str, float]], gpu_bytes: int | None = None) -> tuple[bool, str]:
    """Whether a worker's memory is there, as far as is known, and of how much."""
    if needs.use_gpu:
        if gpu_bytes is None and torch.cuda.is_available():
            gpu_bytes = torch.cuda.get_device_properties(0).total_memory
        if gpu_bytes is None:
            return True, "the GPUs' memory is not known here"
        have = float(gpu_bytes) * needs.gpus
        share = "a GPU" if needs.gpus == 1 else f"{needs.gpus:g} of a GPU"
        return asked <= have, f"{share} has {have / GIB:.1f} GiB" + ("" if asked <= have else ": no room")
    largest = max((node.get("memory", 0.0) for node in nodes), default=0.0)
    has = has_memory(needs, asked, nodes)
    if math.isinf(largest):
        return has, "the memory of nodes that the cluster may add is not known"
    return has, f"the largest node has {largest / GIB:.1f} GiB" + ("" if has else f": no room for {needs.num_workers}")
