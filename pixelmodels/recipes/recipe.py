"""A recipe is one run: dataset, model, likelihood, optimizer, schedule and seed, as frozen dataclasses.

A recipe goes to JSON and back (`to_dict`, `from_dict`), so that every checkpoint carries its own, and it names its
run: `run_key` is a hash of everything in it that can change the result, together with the dataset's fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pixelmodels.data import DatasetConfig
from pixelmodels.errors import UserError, check_seed, unknown
from pixelmodels.hashed_fields import hashed_fields
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import architecture_class, architecture_of, config_class, config_to_plain
from pixelmodels.models.turns import NUMBERS
from pixelmodels.plain import FieldsOf, _plain, construct, from_plain
from pixelmodels.storage import check_length

Schedule = Literal["constant", "cosine", "exponential"]
OptimizerName = Literal["adam", "rmsprop"]
Precision = Literal["float32", "tf32", "bfloat16"]
MOST_GRIDS = 20  # sample grids of a run: all other workers wait while one is drawn
ContextKind = Literal["label", "vector", "grey", "small"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam or RMSProp, the learning rate by step, gradient clipping and the averaging of the weights."""

    name: OptimizerName = "adam"  # rmsprop is what arXiv:1601.06759 trains with
    learning_rate: float = 1e-3  # step size at the top of the schedule
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the gradient's first and second moments; RMSProp keeps the second only
    weight_decay: float = 0.0  # decoupled from the gradient (AdamW); 0 is plain Adam, and the only value for RMSProp
    schedule: Schedule = "cosine"  # of the learning rate by step: constant, cosine down to 0, or exponential
    warmup_steps: int = 50  # steps over which the learning rate grows linearly from 0
    decay: float = 0.999995  # factor a step of the exponential schedule
    clip_norm: float = 1.0  # largest norm of the gradient (of nats a sub-pixel); 0 does not clip
    average_decay: float = 0.999  # Polyak averaging of the weights, a step; 0 keeps the last weights

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "decay")
        _not_negative(self, "weight_decay", "warmup_steps", "clip_norm", "average_decay")
        if self.schedule not in get_args(Schedule):
            raise unknown("schedule", self.schedule, get_args(Schedule))
        if self.name not in get_args(OptimizerName):
            raise unknown("optimizer", self.name, get_args(OptimizerName))
        if self.name == "rmsprop" and self.weight_decay:
            raise UserError(f"weight_decay is {self.weight_decay} and optimizer rmsprop has none; give 0, or optimizer adam")
        if not all(0 <= beta < 1 for beta in (*self.betas, self.average_decay)):
            raise UserError(f"betas {self.betas} and average_decay {self.average_decay} must lie in [0, 1)")

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of step `step` (from 0) of `total_steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "exponential":
            return self.learning_rate * self.decay**step
        if self.schedule == "cosine":
            done = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.learning_rate


@dataclass(frozen=True)
class Recipe:
    """One run, by everything that can change its result (the number of workers is not part of it)."""

    name: str  # of the run on boards and in folders; by habit the architecture's
    dataset: DatasetConfig  # the images; a run is known by their fingerprint
    model: Any  # the config of a registered architecture
    likelihood: LikelihoodConfig  # how a sub-pixel's value is distributed
    condition_on: tuple[ContextKind, ...] = ()  # label, vector (of the dataset), grey (to be coloured), small (to be enlarged)
    small_factor: int = 2  # of `small`: pixels along a side for which one pixel of the given, sub-sampled image stands
    context_drop_rate: float = 0.1  # share of training images that do without each kind, so that the model learns to do without
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # with its schedule
    batch_size: int = 64  # images a step, over all workers
    accumulate: int = 1  # parts that a worker's share of a step is scored in, to save memory
    epochs: int = 20  # passes over the training images
    shift: int = 0  # most pixels by which training images are moved, anew each epoch, up or down and to either side
    mirror: bool = False  # mirror every second training image, by chance, left to right
    augmented_share: float = 0.8  # share of the steps whose images are moved or mirrored; those after it see images as they are
    mutated_share: float = 0.0  # chance of a training sub-pixel to become a random level: for background models (docs/anomalies.md)
    orders: int = (
        1  # of the pixels, one drawn anew for each image of a step: 1 raster, 2 also from the end, 4 mirrored too, 8 by columns too
    )
    patience: int = 0  # epochs without a better validation likelihood until the run stops; 0 never stops early
    seed: int = 0  # of the weights, the order of images, dropout and sample grids
    activation_checkpointing: bool = False  # compute activations again in the backward pass, to save memory
    compile: bool = False  # the training step, by `torch.compile`: some minutes when a run begins, for GPUs above all
    precision: Precision = "float32"  # of products in training (tf32: on GPUs only); weights, likelihood and scores are float32 always
    evaluation_batch_size: int = 128  # images scored at a time by a worker
    num_samples: int = 16  # images in a sample grid
    sample_every: int = 1  # epochs between sample grids, at least: a run draws no more than `MOST_GRIDS`, and one at its end

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "accumulate", "epochs", "evaluation_batch_size", "sample_every")
        _not_negative(self, "patience", "num_samples", "shift")
        if not 0 <= self.augmented_share <= 1:
            raise UserError(f"augmented_share is {self.augmented_share}; give a share of the steps, 0 to 1")
        if not 0 <= self.mutated_share <= 1:
            raise UserError(f"mutated_share is {self.mutated_share}; give a share of the sub-pixels, 0 to 1")
        check_seed("seed", self.seed)
        check_length("recipe name", self.name)
        if not self.name or "/" in self.name:
            raise UserError(f"recipe name '{self.name}' must be a plain folder name")
        if self.precision not in get_args(Precision):
            raise unknown("precision", self.precision, get_args(Precision))
        self._check_context(architecture_of(self.model))

    def _check_context(self, architecture: str) -> None:
        for kind in self.condition_on:
            if kind not in get_args(ContextKind):
                raise unknown("kind of condition_on", kind, get_args(ContextKind))
        if len(set(self.condition_on)) < len(self.condition_on):
            raise UserError(f"condition_on is {', '.join(self.condition_on)}; give each kind once")
        if "small" in self.condition_on and architecture_class(architecture).draws_small:
            raise UserError(
                f"recipe '{self.name}' is conditioned on 'small' and {architecture} draws a small image of its own; "
                f"leave it out with --exclude {self.name}, or train without --condition-on small"
            )
        if self.orders not in NUMBERS:
            raise unknown("number of orders", str(self.orders), map(str, NUMBERS))
        if self.orders > 1 and "small" in self.condition_on:
            raise UserError(
                f"recipe '{self.name}' has {self.orders} orders and is conditioned on 'small', which is no sub-sampling of a turned image; "
                "give --orders 1, or train without --condition-on small"
            )
        if self.small_factor < 2:
            raise UserError(f"small_factor is {self.small_factor}; give 2 or more")
        if not 0 <= self.context_drop_rate < 1:
            raise UserError(f"context_drop_rate is {self.context_drop_rate}; give 0 or more, and less than 1")

    def draws_grid(self, epoch: int) -> bool:
        """Whether a sample grid is drawn at the end of an epoch (from 1)."""
        every = max(self.sample_every, math.ceil(self.epochs / MOST_GRIDS))
        return self.num_samples > 0 and (epoch % every == 0 or epoch == self.epochs)

    def to_dict(self, fields_of: FieldsOf = dataclasses.fields) -> dict[str, Any]:
        """The recipe as plain values for JSON; `from_dict` is its inverse.

        Args: `fields_of`, which fields of it and of its parts are given: all of them, unless told.
        """
        plain = {spec.name: _plain(getattr(self, spec.name), fields_of) for spec in fields_of(self) if spec.name != "model"}
        return {**plain, "model": config_to_plain(self.model, fields_of)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values; raises `UserError` for an unknown name or a value of the wrong type."""
        given = dict(values)
        model = given.pop("model", None)
        if not isinstance(model, Mapping) or set(model) != {"architecture", "config"}:
            raise UserError("a recipe's model must have exactly the entries architecture, config")
        config = from_plain(config_class(model["architecture"]), model["config"], "model")
        return construct(cls, given, "recipe", model=config)


def run_key(recipe: Recipe, fingerprint: str) -> str:
    """What a run is known by: a short hash of the recipe (its seed included) and the dataset's fingerprint; see `hashed_fields`."""
    values = recipe.to_dict(hashed_fields)
    del values["dataset"]  # the fingerprint says what came of it
    text = json.dumps({**values, "fingerprint": fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} is {getattr(config, name)}; give more than 0")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 0:
            raise UserError(f"{name} is {getattr(config, name)}; give 0 or more")
