"""Architectures with an improvement switched off: the same distribution properties, and the same weights where it is left on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import build
from pixelmodels.shapes import ImageSpec
from tests.conformance import test_distribution as conformance
from tests.conformance.conftest import KINDS, small_config, small_model

PAIRS = [
    (dataclasses.replace(small_config(architecture), **{switch: False}), likelihood, channels)
    for architecture, switch, likelihood in (("gated_pixelcnn", "gating", "categorical"),)
    for channels in (1, 3)
]
CHECKS = (
    conformance.test_probabilities_of_all_images_sum_to_one,
    conformance.test_depends_on_exactly_what_is_declared,
    conformance.test_raster_sampler_equals_the_reference,
    conformance.test_gradients_reach_every_tensor,
)


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{next(name for name, value in vars(pair[0]).items() if value is False)}-{pair[2]}")
def switched(request):
    return request.param


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_switched_off_it_is_a_distribution(switched, check):
    check(switched)


@pytest.mark.parametrize("size", [(5, 4), (1, 5), (5, 1), (3, 7)], ids=str)
def test_switched_off_its_passes_equal_forward(switched, size):
    conformance.test_passes_equal_forward(switched, size)


@pytest.mark.parametrize("kind", KINDS)
def test_switched_off_it_takes_any_context(switched, kind):
    conformance.test_probabilities_sum_to_one_given_any_context(switched, kind)
    conformance.test_passes_equal_forward_given_any_context(switched, kind)


def test_a_rectifier_stands_where_the_gate_was():
    model = small_model(PAIRS[0][0], "categorical", 1, 4, 5)
    layer, x_BHWC = model.gated[1], torch.randn(2, 4, 5, 7, dtype=torch.float64)
    assert layer.vertical.weight.shape[0] == layer.link.weight.shape[0] == layer.horizontal.weight.shape[0] == 7
    torch.testing.assert_close(layer.activation(x_BHWC), x_BHWC.clamp(min=0), rtol=0, atol=0)
