"""Weight normalization, and its initialization from data (arXiv:1602.07868, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pixelmodels.layers.base import Layer
from pixelmodels.layers.pixelcnn_pp import LeftColumnConv, SplitLinear
from pixelmodels.layers.strided import GrowConv

DIRECTION_STD = 0.05  # of fresh directions, as section 3 has it
MIN_VARIANCE = 1e-10  # added to a feature's variance; one that varies less counts as constant

L = TypeVar("L", bound=Layer)


def normed(layer: L) -> L:
    """`layer` with its weight as a direction, drawn anew, times a gain for each output feature; its bias is 0."""
    nn.init.normal_(layer.weight, std=DIRECTION_STD)
    nn.init.zeros_(layer.bias)
    out_dim = 1 if isinstance(layer, GrowConv) else 0  # weights of transposed convolutions are (in, out, ...)
    normalized: L = weight_norm(layer, dim=out_dim)
    return normalized


@contextmanager
def initializing(scales: Mapping[Layer, float]) -> Iterator[None]:
    """While it lasts, each of the layers sets its gain and bias when it is called, and gives the output that these make.

    Afterwards every feature of its own output, without what it adds from elsewhere, has mean 0 and the given standard
    deviation over the batch and its positions; one that was constant is 0. Call the layers in their order of use, without gradients.
    """
    with ExitStack() as hooks:
        for layer, scale in scales.items():
            step = _Initialization(scale)
            hooks.callback(layer.register_forward_hook(step.after).remove)
            if isinstance(layer, SplitLinear):
                hooks.callback(layer.from_above.register_forward_hook(step.after_above).remove)
        yield


@dataclass
class _Initialization:
    """What happens to one layer: forward hooks."""

    scale: float
    above: tuple[Tensor, Tensor] | None = None  # a SplitLinear's input from the row stream, and what was made of it

    def after_above(self, _: nn.Module, args: tuple[Tensor, ...], output_BHWC: Tensor) -> None:
        """The row stream's part of a SplitLinear has no gain of its own: it waits for the other part."""
        self.above = args[0], output_BHWC

    def after(self, layer: Any, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
        """Set gain and bias by the layer's own output; the output that counts is the one computed again."""
        own_BHWC = layer.forward(args[0]) if self.above is None else layer.forward(args[0]) + self.above[1]
        if isinstance(layer, LeftColumnConv):
            own_BHWC = own_BHWC[:, :, 1:]  # column 0 is no output of the convolution
        var_F, mean_F = torch.var_mean(own_BHWC.flatten(0, -2), 0, correction=0)
        # a feature that is the same everywhere (row streams of low images have some) tells nothing of its scale: it keeps its gain
        factor_F = torch.where(var_F > MIN_VARIANCE, self.scale / torch.sqrt(var_F + MIN_VARIANCE), 1.0)
        gain = layer.parametrizations.weight.original0
        gain.mul_(factor_F.view_as(gain))
        layer.bias.sub_(mean_F).mul_(factor_F)
        again_BHWC: Tensor = layer.forward(*args)
        if self.above is None:
            return again_BHWC
        x_BHWC, added_BHWC = self.above  # was added to another layer's output with the gain of before: make good the difference
        return again_BHWC + (layer.from_above.forward(x_BHWC) - added_BHWC)
