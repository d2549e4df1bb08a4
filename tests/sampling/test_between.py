"""Noise on the way from one seed to another: as uniform as at both ends, which are theirs exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import Context, ContextBlend, ContextSpec, build
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from pixelmodels.sampling.noise import between
from pixelmodels.shapes import ImageSpec

SPEC = ImageSpec(1, 4, 4, 5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_it_is_uniform(share: float) -> None:
    first, second = np.random.default_rng(0).random((2, 200_000))
    found = between(first, second, share)
    counts, _ = np.histogram(found, 20, (0, 1))
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)
    assert (found < 1).all() and (found >= 0).all()


def test_its_ends_are_those_given() -> None:
    first, second = np.random.default_rng(0).random((2, 100))
    assert np.array_equal(between(first, second, 0), first) and np.array_equal(between(first, second, 1), second)
    near = between(first, second, 1e-3)
    assert np.abs(near - first).max() < 0.01


def test_the_least_and_greatest_uniforms_stay_numbers() -> None:
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    for one in ends:
        found = between(np.full(2, one), ends, 0.5)
        assert ((found >= 0) & (found < 1)).all()


def test_images_between_two_seeds_and_classes() -> None:
    torch.manual_seed(0)
    config = GatedPixelCNNConfig(num_layers=1, num_features=4, head_features=4)
    model = build(config, SPEC, LikelihoodConfig("categorical"), ContextSpec(num_classes=2)).double().eval()

    def drawn(**options: object) -> list[list[int]]:
        return draw_all(model, Request(n=3, **options)).flatten(1).tolist()  # type: ignore[arg-type]

    zero, one = (Context(label_B=torch.tensor([label])) for label in (0, 1))
    assert drawn(seed=1, toward_seed=2, toward_share=0.0) == drawn(seed=1)
    assert drawn(seed=1, toward_seed=2, toward_share=1.0) == drawn(seed=2)
    assert drawn(seed=1, toward_seed=1, toward_share=0.5) == drawn(seed=1)
    assert drawn(seed=1, toward_seed=2, toward_share=0.5) not in (drawn(seed=1), drawn(seed=2))
    for share, context in ((0.0, zero), (1.0, one)):
        assert drawn(seed=1, context=ContextBlend(zero, one, torch.tensor([share]))) == drawn(seed=1, context=context)
