"""Dropout whose masks are a function of a key for each image and of the layer, and of nothing else.

A training step gives every image a key by (seed, step, its place in the step): whichever worker scores it, in whichever part of the
step, on whatever device, and again in the backward pass where activations are computed anew, it loses the same features. So the
number of workers changes no step but by the order of its sums. The bits are a hash of a counter (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011, describe the kind): 32-bit multiplications and shifts, which every device has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_GOLDEN_64, _GOLDEN_32 = 0x9E3779B97F4A7C15, 0x9E3779B9  # 2^64 and 2^32 over the golden ratio, odd: multiples spread evenly
_MIX_64 = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # rounds of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)
_MIX_32 = ((16, 0x7FEB352D), (15, 0x846CA68B))  # rounds of a 32-bit hash with little bias (Wellons, "hash-prospector", 2018)
_LAST_64, _LAST_32 = 31, 16  # the shifts that end them


def image_keys(seed: int, step: int, places_B: np.ndarray) -> Tensor:
    """A key for each image of a step: int64, shape (B,). Args: `places_B`, of the images among all of the step, from 0."""
    with np.errstate(over="ignore"):
        keys_B = np.zeros(len(places_B), np.uint64)
        for values in (np.uint64(seed % 2**64), np.uint64(step), places_B.astype(np.uint64)):
            keys_B = _mixed_64(keys_B + values)
    return torch.from_numpy(keys_B.view(np.int64))


def keep_masks(keys_B: Tensor, stream: int, num: int, rate: float) -> Tensor:
    """Which of `num` features of each image are kept, each with probability 1 - rate: bool, shape (B, num), on the keys' device.

    Args: `stream`, whose masks they are: those of different streams are independent, those of one stream always the same.
    """
    first_B, second_B = (_signed_32(half_B) for half_B in _halves(keys_B, stream))
    padded = 16 * math.ceil(num / 16)  # Inductor (torch 2.13) writes whole vectors of such numbers, also beyond the end of the tensor
    x_BN = torch.arange(padded, dtype=torch.int32, device=keys_B.device) * _as_signed(_GOLDEN_32, 32) + first_B[:, None]
    for number, (shift, factor) in enumerate(_MIX_32):
        _xor_shift(x_BN, shift)
        if number:
            x_BN ^= second_B[:, None]  # both halves of a key: two images would share a shifted mask by half a key's chance
        x_BN *= _as_signed(factor, 32)
    _xor_shift(x_BN, _LAST_32)
    return x_BN[:, :num] >= round(rate * 2**32) - 2**31


def _factor(kept: Tensor, dtype: torch.dtype, rate: float) -> Tensor:
    return kept.to(dtype).div_(1 - rate)


class _Kept(torch.autograd.Function):
    """x times what is kept, over 1 - rate, of which the backward pass needs the booleans only: a quarter of the memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, rate: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.rate = rate
        return x * _factor(kept, x.dtype, rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), (kept,) = grads, ctx.saved_tensors
        return grad * _factor(kept, grad.dtype, ctx.rate), None, None


class Dropout(nn.Module):
    """Features of shape (B, ...) kept with probability 1 - rate, and divided by it; as they are where the module does not train.

    The keys are those that `use_keys` gave last; without any, each call draws new ones from torch's global generator.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate, self.stream = rate, 0  # the second: its number among a model's
        self.keys_B: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Args: `x`, features of images, images first."""
        if not self.training or not self.rate:
            return x
        keys_B = self.keys_B
        if keys_B is None:
            keys_B = torch.randint(2**63 - 1, (len(x),)).to(x.device)
        with torch.no_grad():
            kept = keep_masks(keys_B, self.stream, math.prod(x.shape[1:]), self.rate).reshape(x.shape)
        if not x.requires_grad or torch.compiler.is_compiling():
            return x * _factor(kept, x.dtype, self.rate)
        result: Tensor = _Kept.apply(x, kept, self.rate)
        return result

    def extra_repr(self) -> str:
        """Shown inside the brackets of the module's name."""
        return f"rate={self.rate:g}"


def use_keys(model: nn.Module, keys_B: Tensor | None) -> None:
    """Draw the masks of a model's next passes, forward and backward, by these keys (see `image_keys`); None: by torch's generator.

    Each of its dropout layers gets masks of its own, by the order of registration.
    """
    for number, layer in enumerate(module for module in model.modules() if isinstance(module, Dropout)):
        layer.stream, layer.keys_B = number, keys_B


def _mixed_64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(_GOLDEN_64)
    for shift, factor in _MIX_64:
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(_LAST_64))


def _halves(keys_B: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """The keys of one stream, mixed, as two numbers of 32 bits in int64."""
    x_B = keys_B + _as_signed((stream + 1) * _GOLDEN_64, 64)
    for shift, factor in _MIX_64:
        x_B = (x_B ^ _shifted_64(x_B, shift)) * _as_signed(factor, 64)
    x_B = x_B ^ _shifted_64(x_B, _LAST_64)
    return x_B & 0xFFFFFFFF, _shifted_64(x_B, 32)


def _shifted_64(x: Tensor, shift: int) -> Tensor:
    """Shifted to the right, zeros coming in: torch's own shift brings in the sign."""
    return (x >> shift) & (2 ** (64 - shift) - 1)


def _xor_shift(x: Tensor, shift: int) -> None:
    x ^= (x >> shift).bitwise_and_(2 ** (32 - shift) - 1)


def _signed_32(x_B: Tensor) -> Tensor:
    return torch.where(x_B < 2**31, x_B, x_B - 2**32).to(torch.int32)


def _as_signed(value: int, bits: int) -> int:
    """The number that the low bits are in two's complement."""
    value %= 2**bits
    return value - 2**bits if value >= 2 ** (bits - 1) else value
