"""What papers published: the data they trained on, and each model's recipe with its number and where both come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pixelmodels.data import DatasetConfig
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, architecture_of
from pixelmodels.models.pixelsnail import PixelSNAILConfig
from pixelmodels.recipes.context import context_of_kinds
from pixelmodels.recipes.recipe import OptimizerConfig, Recipe
from pixelmodels.shapes import ImageSpec

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
CONDITIONAL_NOTE = "the class reaches the layers through 32 features, and a tenth of the images do without it"


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


def with_softmax(
    model: Any, dataset: DatasetConfig, paper: str, value: float, *, batch_size: int, epochs: int, accumulate: int = 1, **known: Any
) -> Published:
    """A network with a softmax over the levels, trained as those of arXiv:1601.06759 are: the entry of its test bits/dim, which was read.

    Args: `known`, the entry's gaps, unverified fields and note; and its status where that is another.
    """
    recipe = Recipe(
        name=architecture_of(model),
        dataset=dataset,
        model=model,
        likelihood=LikelihoodConfig("categorical"),
        optimizer=PIXELRNN_OPTIMIZER,
        batch_size=batch_size,
        accumulate=accumulate,
        epochs=epochs,
        precision="bfloat16",
    )
    return Published(recipe, paper, value, "bits/dim", **{"status": "read", **known})


def pixelsnail(
    dataset: DatasetConfig,
    value: float,
    *,
    num_mixtures: int,
    dropout: float,
    average_decay: float,
    epochs: int,
    gaps: tuple[str, ...],
    activation_checkpointing: bool = False,
) -> Published:
    """PixelSNAIL (arXiv:1712.09763) with what differs between data sets: the entry of its test bits/dim, which was read."""
    recipe = Recipe(
        name="pixelsnail",
        dataset=dataset,
        model=PixelSNAILConfig(num_blocks=12, num_layers=4, num_features=256, key_features=16, value_features=128, dropout=dropout),
        likelihood=LikelihoodConfig("discretized_logistic_mixture", num_mixtures=num_mixtures),
        optimizer=decayed_adam(0.999998, average_decay=average_decay),
        batch_size=64,
        epochs=epochs,
        precision="bfloat16",
        activation_checkpointing=activation_checkpointing,
    )
    note = "its public code takes 8 images on each GPU and does not say how many GPUs; Adam's epsilon is 1e-6 there, 1e-8 here"
    return Published(recipe, "1712.09763", value, "bits/dim", "read", gaps=("batch_size", "epochs", *gaps), note=note)
