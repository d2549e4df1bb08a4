"""No likelihood gives a probability above 1, however certain it is, and what is cut off of rounding leaves the gradient alone."""

from __future__ import annotations

import pytest
import torch

from pixelmodels.likelihoods import LIKELIHOODS, LikelihoodConfig, build_likelihood
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.shapes import ImageSpec


def certain(likelihood, dtype, batch=40):
    """Parameters that are more and more certain of level 0; B P H W."""
    rng = torch.Generator().manual_seed(0)
    params_BPHW = (
        torch.randn(batch, likelihood.num_params, 8, 8, dtype=dtype, generator=rng) * torch.logspace(-1, 2, batch)[:, None, None, None]
    )
    if likelihood.orders_channels:
        _, means, log_scales = params_BPHW[:, :30].split(10, 1)
        means.abs_().neg_().sub_(1)
        log_scales.abs_().neg_().sub_(3)
    return params_BPHW.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "levels"), [(name, levels) for name in LIKELIHOODS for levels in (2, 256) if (name, levels) != ("bernoulli", 256)]
)
def test_no_log_probability_is_above_0(name, levels, dtype):
    likelihood = build_likelihood(LikelihoodConfig(name, 10), ImageSpec(1, 8, 8, levels))
    params_BPHW = certain(likelihood, dtype)
    x_BCHW = torch.zeros(len(params_BPHW), 1, 8, 8, dtype=torch.uint8)
    found = likelihood.log_prob_map(params_BPHW, x_BCHW)
    assert (found <= 0).all() and found.isfinite().all()
    impossible = likelihood.log_prob_map(params_BPHW, x_BCHW + levels - 1)
    assert (impossible <= 0).all() and not impossible.isnan().any()


def test_the_gradient_of_a_mixture_is_that_of_its_sum():
    likelihood = build_likelihood(LikelihoodConfig("discretized_logistic_mixture", 10), ImageSpec(1, 8, 8, 256))
    params_BPHW = certain(likelihood, torch.float32).requires_grad_()
    x_BCHW = torch.zeros(len(params_BPHW), 1, 8, 8, dtype=torch.uint8)
    log_prob_BHW = likelihood.log_prob_map(params_BPHW, x_BCHW)
    logits, means, log_scales, _ = likelihood.split(params_BPHW.permute(0, 2, 3, 1))
    scaled = likelihood.spec.scaled(x_BCHW.permute(0, 2, 3, 1), torch.float32)
    bins_BHWK = likelihood.log_bin(x_BCHW[:, 0, ..., None], scaled, means[..., 0, :], log_scales[..., 0, :])
    sum_BHW = (torch.log_softmax(logits, -1) + bins_BHWK).logsumexp(-1)
    assert (sum_BHW > 0).any(), "rounding lifts some of them"
    assert torch.equal(log_prob_BHW, sum_BHW.clamp(max=0))
    grads = [torch.autograd.grad(value.sum(), params_BPHW)[0] for value in (log_prob_BHW, sum_BHW)]
    assert torch.equal(*grads)


def test_no_bits_are_not_minus_none():
    assert str(bits_per_dim(-0.0, 5)) == "0.0" and bits_per_dim(-1.5, 5) == -bits_per_dim(1.5, 5)
    assert not torch.signbit(bits_per_dim(torch.tensor([-0.0, 0.0]), 5)).any()
