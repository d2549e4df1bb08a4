"""Architectures with an improvement switched off: a distribution as before, with passes that fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pixelmodels.errors import UserError
from tests.conformance import test_distribution as conformance
from tests.conformance.conftest import KINDS, small_config, small_model

PAIRS = [
    (dataclasses.replace(small_config(architecture), **{switch: False}), likelihood, channels)
    for architecture, switch, likelihood in (
        ("gated_pixelcnn", "gating", "categorical"),
        ("pixelcnn_pp", "shortcuts", "discretized_logistic_mixture"),
        ("pixelcnn_pp", "weight_norm", "discretized_logistic_mixture"),
    )
    for channels in (1, 3)
]
CHECKS = (
    conformance.test_probabilities_of_all_images_sum_to_one,
    conformance.test_depends_on_exactly_what_is_declared,
    conformance.test_samples_equal_the_reference,
)


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{next(name for name, value in vars(pair[0]).items() if value is False)}-{pair[2]}")
def switched(request):
    return request.param


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_switched_off_it_is_a_distribution(switched, check):
    check(switched)


def test_switched_off_gradients_reach_every_tensor(switched):
    # without short-cuts a pixel's left neighbour is seen by later cells of the coarsest level only: there must be some
    conformance.check_gradients(small_model(*switched, height=5, width=8, context="mix"))


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


def test_without_shortcuts_nothing_of_the_way_down_is_taken_in():
    configs = small_config("pixelcnn_pp"), PAIRS[2][0]
    with_them, without = (small_model(config, "discretized_logistic_mixture", 1, 8, 8) for config in configs)
    skips = [[name for name in model.state_dict() if ".up_u." in name and "nin_skip" in name] for model in (with_them, without)]
    assert skips[0] and not skips[1]
    # at odd rows and columns the coarser levels know less: the nearest pixels are reached through short-cuts alone
    reached, left = with_them.reach()[5, 5, 0], without.reach()[5, 5, 0]
    assert reached[5, 4] and not left[5, 4] and not (left & ~reached).any()


def test_plain_weights_take_nothing_from_the_first_images():
    model = small_model(PAIRS[4][0], "discretized_logistic_mixture", 1, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not any("parametrizations" in name for name in before)
    model.initialize(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="0 images given"):
        model.initialize(torch.zeros(0, 1, 4, 4, dtype=torch.uint8))
