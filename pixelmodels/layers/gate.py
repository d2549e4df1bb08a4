"""The gated activation of Gated PixelCNN (eq. 2, arXiv:1606.05328), and what stands in its place without gating."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Gate(torch.autograd.Function):
    """tanh * sigmoid whose backward pass writes both halves into one tensor (autograd's own would concatenate them)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        f, g = y.chunk(2, -1)
        t, s = torch.tanh(f), torch.sigmoid(g)
        ctx.save_for_backward(t, s)
        return t * s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        t, s = ctx.saved_tensors
        result = torch.empty(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype, device=t.device)
        for_f, for_g = result.chunk(2, -1)
        torch.ops.aten.tanh_backward.grad_input(grad * s, t, grad_input=for_f)
        torch.ops.aten.sigmoid_backward.grad_input(grad * t, s, grad_input=for_g)
        return result


def gate(y: Tensor) -> Tensor:
    """tanh(first half of the features) * sigmoid(second half), the features in the last dimension."""
    f, g = y.chunk(2, -1)
    if not y.requires_grad:
        return torch.tanh(f).mul_(torch.sigmoid(g))
    if torch.compiler.is_compiling():  # which finds a backward pass of its own
        return torch.tanh(f) * torch.sigmoid(g)
    result: Tensor = _Gate.apply(y)
    return result


def rectify(y: Tensor) -> Tensor:
    """max(0, y) of every feature, as PixelCNN has it."""
    return torch.relu(y)
