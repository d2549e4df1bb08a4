"""Every registered architecture with every likelihood, small enough for brute force."""

from __future__ import annotations

import itertools
from dataclasses import fields, is_dataclass

import pytest
import torch

from pixelmodels.likelihoods import LIKELIHOODS, LikelihoodConfig, likelihood_class
from pixelmodels.models import ARCHITECTURES, Context, ContextSpec, PixelModel, architecture_class, architecture_of, build, config_class
from pixelmodels.shapes import ImageSpec

SMALL = {"num_layers": 2, "num_features": 7, "head_features": 8, "first_kernel_size": 5, "dropout": 0.0}


def small_config(architecture: str):
    """An architecture's config with the fields it has of those that make it small; other fields keep their defaults."""
    kind = config_class(architecture)
    names = {field.name for field in fields(kind)}
    nested = {name: small_config(architecture_of(getattr(kind(), name))) for name in names if is_dataclass(getattr(kind(), name))}
    return kind(**nested, **{name: value for name, value in SMALL.items() if name in names})


def context_spec(kind: str, spec: ImageSpec) -> ContextSpec:
    """A kind of context, small, for images of a shape."""
    half = ImageSpec(spec.channels, *(size // 2 if size % 2 == 0 else size for size in spec.shape[1:]), spec.levels)
    return {
        "none": ContextSpec(),
        "label": ContextSpec(num_classes=3),
        "vector": ContextSpec(vector_size=2),
        "small": ContextSpec(small=half),
        "image": ContextSpec(image=ImageSpec(1, spec.height, spec.width, 5)),
        "mix": ContextSpec(num_classes=3, vector_size=2, image=half),
        "orders": ContextSpec(num_orders=8 if spec.height == spec.width else 4),
        "mix_and_orders": ContextSpec(num_classes=3, vector_size=2, image=half, num_orders=8 if spec.height == spec.width else 4),
    }[kind]


def random_context(model: PixelModel, n: int, seed: int = 4) -> Context:
    """A context of every kind that the model knows, for `n` images."""
    spec, rng = model.context_spec, torch.Generator().manual_seed(seed)
    return Context(
        label_B=torch.randint(spec.num_classes, (n,), generator=rng) if spec.num_classes else None,
        vector_BV=torch.randn(n, spec.vector_size, generator=rng, dtype=torch.float64) if spec.vector_size else None,
        image_BCHW=torch.randint(spec.image.levels, (n, *spec.image.shape), generator=rng) if spec.image else None,
        small_BCHW=torch.randint(spec.small.levels, (n, *spec.small.shape), generator=rng) if spec.small else None,
    )


def small_model(
    architecture: object, likelihood: str, channels: int, height: int, width: int, levels: int = 3, context: str = "none"
) -> PixelModel:
    """A float64 model in evaluation mode with seeded weights; `UserError` for a pair that is refused.

    Args: `architecture`, its name (made small), or a config of it.
    """
    torch.manual_seed(0)
    spec = ImageSpec(channels, height, width, 2 if likelihood == "bernoulli" else levels)
    config = LikelihoodConfig(likelihood, num_mixtures=2)
    model_config = small_config(architecture) if isinstance(architecture, str) else architecture
    model = build(model_config, spec, config, context_spec(context, spec))
    for name, parameter in model.named_parameters():  # fresh weights are small: make what the net does visible
        parameter.data.mul_(1 if "encoder." in name else 2)
        if not parameter.any():  # what begins with zeros
            parameter.data.normal_(0, 0.3)
    return model.double().eval()


def valid_pairs() -> list[tuple[str, str, int]]:
    """(architecture, likelihood, channels) wherever the model or the likelihood says that it orders the channels."""
    return [
        (architecture, likelihood, channels)
        for architecture, likelihood, channels in itertools.product(ARCHITECTURES, LIKELIHOODS, (1, 3))
        if channels == 1 or architecture_class(architecture).orders_channels or likelihood_class(likelihood).orders_channels
    ]


PAIRS = valid_pairs()
WITHOUT_SMALL = [pair for pair in PAIRS if not architecture_class(pair[0]).draws_small]  # a small image can be given to these
KINDS = ("label", "vector", "image", "mix")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    """One kind of context, or all of them."""
    return request.param


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def pair(request) -> tuple[str, str, int]:
    """One valid pair of architecture and likelihood, with a number of channels."""
    return request.param
