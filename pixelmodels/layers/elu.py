"""ELU (arXiv:1511.07289) and the activation of PixelCNN++ (arXiv:1701.05517, its public code), as training wants them.

Both keep what they give, which the next layer keeps anyway, and not what they were given: autograd's own would keep both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _elu_backward(grad: Tensor, y: Tensor) -> Tensor:
    """From the result of elu."""
    result: Tensor = torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, y)
    return result


class _ELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.elu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _elu_backward(grads[0], *ctx.saved_tensors)


class _ConcatELU(torch.autograd.Function):
    """elu([x, -x]), whose backward pass is one half of what autograd's own costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.elu_(torch.cat([x, -x], -1))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        of_x, of_minus_x = _elu_backward(grads[0], *ctx.saved_tensors).chunk(2, -1)
        return of_x - of_minus_x


def _as_it_is(x: Tensor) -> bool:
    """No gradient is asked for, or what compiles finds a backward pass of its own."""
    return not x.requires_grad or torch.compiler.is_compiling()


def elu(x: Tensor) -> Tensor:
    """x where it is positive, else exp(x) - 1."""
    if _as_it_is(x):
        return F.elu(x)
    result: Tensor = _ELU.apply(x)
    return result


def concat_elu(x: Tensor) -> Tensor:
    """elu of [x, -x] along the features, which are the last dimension."""
    if _as_it_is(x):
        return F.elu(torch.cat([x, -x], -1))
    result: Tensor = _ConcatELU.apply(x)
    return result
