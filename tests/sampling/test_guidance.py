"""Guidance and blends of contexts: exact tables, and noise that stays where it was."""

from __future__ import annotations

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextBlend
from pixelmodels.sampling import reference_sample, sample
from pixelmodels.sampling.choosing import Choice, choose
from tests.conformance.conftest import PAIRS, random_context, small_model


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def test_guided_samples_equal_the_reference(pair):
    model = small_model(*pair, height=3, width=4, levels=8, context="label")
    context = random_context(model, 3)
    guided = sample(model, 3, seed=1, context=context, guidance=1.5)
    assert torch.equal(guided, reference_sample(model, 3, seed=1, context=context, guidance=1.5))


def test_guided_draws_follow_the_extrapolated_table():
    model = small_model("pixelcnn", "categorical", 1, 2, 2, levels=5, context="label")
    given_B, without_B = (torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    n, weight = 20001, 2.0
    u_BU = ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    params = [params_B.expand(n, -1) for params_B in (given_B, without_B)]
    drawn = choose(model.likelihood, params, 0, torch.zeros(n, 1), u_BU, Choice.of([(weight, 1.0, 1.0)] * n, model.device))
    probability = torch.softmax(given_B, -1) ** (1 + weight) / torch.softmax(without_B, -1) ** weight
    expected = (probability / probability.sum())[0]
    torch.testing.assert_close(torch.bincount(drawn, minlength=5) / n, expected.float(), rtol=0, atol=2e-4)


def test_guidance_is_of_models_with_context():
    model = small_model("pixelcnn", "categorical", 1, 2, 2)
    with pytest.raises(UserError, match=r"guidance 1 asked of a model without context"):
        sample(model, 1, seed=0, guidance=1)
    for guidance in (-0.5, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"guidance {guidance} is negative or not finite"):
            sample(small_model("pixelcnn", "categorical", 1, 2, 2, context="label"), 1, seed=0, guidance=guidance)


def test_the_way_between_two_contexts_begins_and_ends_at_them_with_the_same_noise():
    model = small_model("gated_pixelcnn", "categorical", 1, 4, 4, levels=16, context="label")
    first, second = (Context(label_B=torch.full((3,), label)) for label in (0, 2))
    steps = [sample(model, 3, seed=5, context=ContextBlend(first, second, torch.full((3,), share))) for share in (0.0, 0.4, 1.0)]
    assert torch.equal(steps[0], sample(model, 3, seed=5, context=first))
    assert torch.equal(steps[-1], sample(model, 3, seed=5, context=second))
    assert not torch.equal(steps[1], steps[0])
