"""Every registered architecture with every likelihood, small enough for brute force."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest
import torch

from pixelmodels.likelihoods import LIKELIHOODS, LikelihoodConfig, likelihood_class
from pixelmodels.models import ARCHITECTURES, ContextSpec, PixelModel, architecture_class, build, config_class
from pixelmodels.shapes import ImageSpec

SMALL = {"num_layers": 2, "num_features": 7, "head_features": 8, "first_kernel_size": 5, "dropout": 0.0}


def small_config(architecture: str):
    """An architecture's config with the fields it has of those that make it small; other fields keep their defaults."""
    kind = config_class(architecture)
    return kind(**{name: value for name, value in SMALL.items() if name in {field.name for field in fields(kind)}})


def small_model(
    architecture: str, likelihood: str, channels: int, height: int, width: int, levels: int = 3, num_classes: int = 0
) -> PixelModel:
    """A float64 model in evaluation mode with seeded weights; `UserError` for a pair that is refused."""
    torch.manual_seed(0)
    levels = 2 if likelihood == "bernoulli" else levels
    config = LikelihoodConfig(likelihood, num_mixtures=2)
    model = build(small_config(architecture), ImageSpec(channels, height, width, levels), config, ContextSpec(num_classes))
    for parameter in model.parameters():  # fresh weights are small: make what the net does visible
        parameter.data.mul_(2)
    return model.double().eval()


def valid_pairs() -> list[tuple[str, str, int]]:
    """(architecture, likelihood, channels) wherever the model or the likelihood says that it orders the channels."""
    return [
        (architecture, likelihood, channels)
        for architecture, likelihood, channels in itertools.product(ARCHITECTURES, LIKELIHOODS, (1, 3))
        if channels == 1 or architecture_class(architecture).orders_channels or likelihood_class(likelihood).orders_channels
    ]


PAIRS = valid_pairs()


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def pair(request) -> tuple[str, str, int]:
    """One valid pair of architecture and likelihood, with a number of channels."""
    return request.param
