"""Polyak averaging: a second copy of the weights that follows the trained ones; it is what scores and samples."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class Average(Generic[Model]):
    """The running average of a model's weights, in float32 beside the model.

    The decay of step t is `min(decay, (1 + t) / (10 + t))`, so that the first steps are soon forgotten. Every worker
    keeps its own copy: the workers' weights are equal after each step, and so are their averages. Buffers of models are
    constants, which the copy has.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model: Model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move the average towards `model` after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [average.detach() for average in self.model.parameters()]
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in model.parameters()], 1 - decay)
