"""Adam with its state by parameter name, and activation checkpointing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pixelmodels.training.recipes import OptimizerConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps for each parameter


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Adam over all parameters; with `weight_decay` 0 AdamW is plain Adam."""
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay)


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """Adam's state as tensors named `<parameter>/<moment>`."""
    state = {name: optimizer.state[parameter] for name, parameter in model.named_parameters() if parameter in optimizer.state}
    return {f"{name}/{moment}": kept[moment] for name, kept in state.items() for moment in _MOMENTS}


def load_moments(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `moments` gave."""
    for name, parameter in model.named_parameters():
        if f"{name}/step" in tensors:
            kept = {moment: tensors[f"{name}/{moment}"] for moment in _MOMENTS}
            optimizer.state[parameter] = {"step": kept.pop("step"), **{moment: one.to(parameter.device) for moment, one in kept.items()}}


def checkpoint_activations(model: nn.Module) -> None:
    """Make every block of the model's lists of blocks compute its activations again in the backward pass.

    A block is what has a part in the row streams (`above`), the pixel streams (`here`), or both.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                for part in ("above", "here"):
                    if hasattr(block, part):
                        setattr(block, part, partial(checkpoint, getattr(block, part), use_reentrant=False))
