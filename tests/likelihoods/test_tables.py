"""Draws from a table, and units."""

from __future__ import annotations

import math

import pytest
import torch

from pixelmodels.likelihoods.base import draw_from_table
from pixelmodels.likelihoods.bits import bits_per_dim


def test_draws_are_the_inverse_of_the_cumulative_table():
    log_probs_BL = torch.tensor([[0.5, 0.0, 0.25, 0.25]], dtype=torch.float64).log().expand(6, -1)
    u_B = torch.tensor([0.0, 0.4999, 0.5, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw_from_table(log_probs_BL, u_B).tolist() == [0, 0, 2, 2, 3, 3]  # never level 1, of probability zero


def test_bits_per_dim_of_a_uniform_image():
    assert bits_per_dim(64 * math.log(17), 64) == pytest.approx(math.log2(17), rel=1e-15)
    assert torch.equal(bits_per_dim(torch.tensor([2 * math.log(2.0)]), 2), torch.tensor([1.0]))
