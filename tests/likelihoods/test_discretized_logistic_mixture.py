"""Exact bins, at every scale, for few levels and many."""

from __future__ import annotations

import math

import pytest
import torch
from mpmath import mp, mpf

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig, build_likelihood
from pixelmodels.likelihoods.discretized_logistic_mixture import MIN_LOG_SCALE
from pixelmodels.shapes import ImageSpec


def mixture(levels: int, channels: int = 1, num_mixtures: int = 1):
    return build_likelihood(LikelihoodConfig("discretized_logistic_mixture", num_mixtures), ImageSpec(channels, 1, 1, levels))


def exact_log_bin(level: int, levels: int, mean: float, log_scale: float) -> float:
    """The same bin in so many digits that the differences of tails are exact."""
    with mp.workdps(2100):
        step, scale = mpf(2) / (levels - 1), mp.exp(mpf(max(log_scale, MIN_LOG_SCALE)))
        centre = level * step - 1

        def cdf(x):
            return 1 / (1 + mp.exp(-(x - mpf(mean)) / scale))

        lower = mpf(0) if level == 0 else cdf(centre - step / 2)
        upper = mpf(1) if level == levels - 1 else cdf(centre + step / 2)
        return float(mp.log(upper - lower))


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("log_scale", [-9.0, -7.0, -3.0, 0.0, 4.0])
@pytest.mark.parametrize("mean", [-3.0, -0.37, 0.0, 0.9, 1.5])
def test_bins_equal_a_high_precision_reference(levels, log_scale, mean):
    head = mixture(levels)
    params_BP = torch.tensor([[0.3, mean, log_scale]], dtype=torch.float64)
    table_L = head.table(params_BP, 0, torch.zeros(1, 1))[0]
    some = sorted({0, 1, levels // 3, levels // 2, levels - 1})
    expected = torch.tensor([exact_log_bin(level, levels, mean, log_scale) for level in some], dtype=torch.float64)
    torch.testing.assert_close(table_L[some], expected, rtol=1e-9, atol=1e-9)
    assert float(table_L.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_channels_are_coupled_as_in_the_paper():
    # one component: green's mean moves by tanh(a) * red, blue's by tanh(b) * red + tanh(c) * green
    head = mixture(256, channels=3)
    red, green, blue = 200, 40, 90
    a, b, c = 0.5, -0.7, 1.1
    means, log_scales = (0.1, -0.2, 0.3), (-1.0, -2.0, -1.5)
    blocks = zip(means, log_scales, (a, b, c), strict=True)
    params_P = torch.tensor([0.0, *(value for block in blocks for value in block)], dtype=torch.float64)
    x_BCHW = torch.tensor([red, green, blue]).view(1, 3, 1, 1)
    scaled = [v * 2 / 255 - 1 for v in (red, green, blue)]
    moved = (means[0], means[1] + math.tanh(a) * scaled[0], means[2] + math.tanh(b) * scaled[0] + math.tanh(c) * scaled[1])
    levels = zip((red, green, blue), moved, log_scales, strict=True)
    expected = sum(exact_log_bin(level, 256, mean, log_scale) for level, mean, log_scale in levels)
    assert float(head.log_prob_map(params_P.view(1, -1, 1, 1), x_BCHW)) == pytest.approx(expected, rel=1e-10)


def test_gradients_are_finite_and_alive_far_out_in_the_tails():
    head = mixture(256)
    for mean, log_scale in ((40.0, -7.0), (-40.0, -6.9), (0.0, 5.0), (0.0, 200.0), (3.0, -2.0)):
        params_BPHW = torch.tensor([0.0, mean, log_scale]).view(1, 3, 1, 1).requires_grad_()
        for level in (0, 1, 128, 254, 255):
            (gradient,) = torch.autograd.grad(head.log_prob_map(params_BPHW, torch.tensor(level).view(1, 1, 1, 1)).sum(), params_BPHW)
            assert torch.isfinite(gradient).all()
            if level in (1, 128, 254) and log_scale < 100:
                assert gradient[0, 1, 0, 0] != 0


def test_draws_invert_the_distribution():
    # with one component the draw is the smallest level whose cumulative probability exceeds the uniform
    head = mixture(17)
    generator = torch.Generator().manual_seed(0)
    params_BP = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    u_BU = torch.rand(500, 2, generator=generator, dtype=torch.float64)
    cumulative_BL = head.table(params_BP, 0, torch.zeros(500, 1)).exp().cumsum(1)
    expected_B = (cumulative_BL <= u_BU[:, 1:]).sum(1).clamp(max=16)
    assert torch.equal(head.draw(params_BP, 0, torch.zeros(500, 1), u_BU), expected_B)
    edges = torch.tensor([[0.0, 0.0], [0.0, 1 - 2**-53]], dtype=torch.float64)
    assert head.draw(params_BP[:2] * 0, 0, torch.zeros(2, 1), edges).tolist() == [0, 16]


def test_other_channel_counts_and_no_components_are_refused():
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        mixture(8, channels=2)
    with pytest.raises(UserError, match="num_mixtures 0"):
        mixture(8, num_mixtures=0)
