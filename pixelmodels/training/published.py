"""What papers published: the data they trained on, and each model's recipe with its number and where both come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from pixelmodels.models import ContextSpec
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.conditioning import context_of_kinds
from pixelmodels.training.recipes import OptimizerConfig, Recipe

# arXiv:1601.06759 trains with RMSProp and sets its learning rates by hand; it gives none of these.
PIXELRNN_OPTIMIZER = OptimizerConfig(
    name="rmsprop", learning_rate=1e-3, betas=(0.0, 0.99), schedule="cosine", warmup_steps=500, average_decay=0.999
)
PIXELRNN_GAPS = (
    "optimizer.learning_rate",
    "optimizer.betas",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.clip_norm",
    "optimizer.average_decay",
    "epochs",
)


@dataclass(frozen=True)
class PublishedData:
    """A data set as papers know it: what a model of it costs can be told before anybody has the files."""

    image: ImageSpec  # of its images
    num_train: int  # training images, those that a recipe sets aside for validation included
    num_test: int  # test images
    num_classes: int = 0  # of its labels; 0: none
    has_validation: bool = False  # whether it has validation images of its own

    def num_training(self, recipe: Recipe) -> int:
        """Images that a recipe trains on, about: a share of the training images is set aside by hash where there is no own validation."""
        return self.num_train if self.has_validation else round(self.num_train * (1 - recipe.dataset.validation_share))

    def context(self, recipe: Recipe) -> ContextSpec:
        """The context of a recipe's model on these data; raises `UserError` where they do not have what it asks for."""
        return context_of_kinds(recipe, recipe.dataset.dataset_name(), self.image, self.num_classes, vector_size=0)


@dataclass(frozen=True)
class Published:
    """One published model: its recipe, the number that its paper gives, and what the paper leaves open."""

    recipe: Recipe
    paper: str  # arXiv number
    value: float | None  # test likelihood; None: the paper has none on these data
    unit: Literal["bits/dim", "nats"]  # of `value`: bits a sub-pixel, or nats an image
    status: Literal["read", "unverified"]  # whether the number was read in its source, or is from memory
    parameters: int | None = None  # trained numbers of the published model, where they are known
    gaps: tuple[str, ...] = ()  # fields of the recipe (`model.dropout`) that the paper does not give and this project chose
    unverified: tuple[str, ...] = ()  # fields that are thought to be the paper's, and were not read again
    note: str = ""  # what else keeps the two from being the same


@dataclass(frozen=True)
class PublishedSuite:
    """Published models of one data set."""

    data: PublishedData
    entries: tuple[Published, ...]

    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes of all entries."""
        return tuple(entry.recipe for entry in self.entries)

    def entry(self, name: str) -> Published:
        """The entry of a recipe's name."""
        return next(entry for entry in self.entries if entry.recipe.name == name)


def decayed_adam(decay: float, average_decay: float) -> OptimizerConfig:
    """Adam as the public code of PixelCNN++ and PixelSNAIL has it: the learning rate falls by a factor each step."""
    return OptimizerConfig(
        learning_rate=1e-3,
        betas=(0.95, 0.9995),
        schedule="exponential",
        decay=decay,
        warmup_steps=0,
        clip_norm=0.0,
        average_decay=average_decay,
    )


def has_field(recipe: Recipe, path: str) -> bool:
    """Whether a recipe has a field: `epochs`, `model.dropout`, or `model.*` for all of a part's."""
    value: object = recipe
    for name in path.removesuffix(".*").split("."):
        if not dataclasses.is_dataclass(value) or name not in {field.name for field in dataclasses.fields(value)}:
            return False
        value = getattr(value, name)
    return True
