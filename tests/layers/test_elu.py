"""concat_elu is elu of [x, -x], and so is its gradient, for every layout of features that layers make."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from pixelmodels.layers.elu import concat_elu, elu


def images(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0] = 0.0  # where both halves have their kink
    return x


@pytest.mark.parametrize("layout", ["whole", "view", "permuted"])
def test_it_is_elu_of_both_signs_and_has_its_gradient(layout: str) -> None:
    x = {"whole": images(2, 3, 4, 5), "view": images(2, 3, 4, 10)[..., 2:7], "permuted": images(2, 5, 3, 4).permute(0, 2, 3, 1)}[layout]
    x = x.detach().requires_grad_()
    expected = F.elu(torch.cat([x, -x], -1))
    assert torch.equal(concat_elu(x), expected) and torch.equal(concat_elu(x.detach()), expected)
    weight = torch.randn_like(expected)
    (found,), (wanted,) = (torch.autograd.grad((out * weight).sum(), x) for out in (concat_elu(x), expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_its_gradient_is_that_of_differences() -> None:
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert gradcheck(concat_elu, (x,))


def test_nothing_is_kept_but_what_it_gives() -> None:
    kept: list[torch.Tensor] = []
    x = images(2, 3, 4, 5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = concat_elu(x)
    (one,) = kept
    assert one.data_ptr() == y.data_ptr()


def test_elu_has_the_gradient_of_its_result_and_keeps_nothing_else() -> None:
    x = images(2, 3, 4, 5).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = elu(x)
    (one,) = kept
    assert one.data_ptr() == y.data_ptr() and torch.equal(y, F.elu(x)) and torch.equal(elu(x.detach()), y)
    weight = torch.randn_like(y)
    (found,), (wanted,) = (torch.autograd.grad((out * weight).sum(), x) for out in (y, F.elu(x)))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
