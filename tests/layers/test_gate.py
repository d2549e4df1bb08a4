"""The gate and its gradient against autograd's own."""

from __future__ import annotations

import torch

from pixelmodels.layers.gate import gate


def test_gate_and_its_gradient():
    y = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    f, g = y.chunk(2, -1)
    expected = torch.tanh(f) * torch.sigmoid(g)
    assert torch.equal(gate(y), expected)
    weight = torch.randn(2, 3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found,), (wanted,) = (torch.autograd.grad((out * weight).sum(), y) for out in (gate(y), expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(gate, (y[:1, :1, :1].detach().requires_grad_(),))
