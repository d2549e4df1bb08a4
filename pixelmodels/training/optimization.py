"""The optimizer with its state by parameter name, the precision of a step, and activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pixelmodels.recipes.recipe import OptimizerConfig, Precision

NUM_MOMENTS = {"adam": 2, "rmsprop": 1}  # numbers that an optimizer keeps for each one that it trains


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a recipe over all parameters; with `weight_decay` 0 AdamW is plain Adam."""
    if config.name == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), lr=config.learning_rate, alpha=config.betas[1])
    options: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay}
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True, **options)  # one call for all parameters


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The optimizer's state as tensors named `<parameter>/<moment>`."""
    state = {name: optimizer.state[parameter] for name, parameter in model.named_parameters() if parameter in optimizer.state}
    return {f"{name}/{moment}": value for name, kept in state.items() for moment, value in kept.items()}


def load_moments(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `moments` gave."""
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        kept.setdefault(name, {})[moment] = value
    for name, parameter in model.named_parameters():
        if name in kept:  # the number of steps is on the CPU, but for what is one call on a device
            on_cpu = () if optimizer.defaults.get("fused") else ("step",)
            optimizer.state[parameter] = {
                moment: value if moment in on_cpu else value.to(parameter.device) for moment, value in kept[name].items()
            }


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The network's products in the recipe's precision. Likelihoods stay in float32 by themselves."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def block_parts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The parts of the model's outermost blocks in its lists of blocks: in the row streams (`above`), the pixel streams (`here`)."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                parts = [part for part in ("above", "here") if hasattr(block, part)]
                if parts and block not in inside:
                    inside.update(block.modules())
                    yield from ((block, part) for part in parts)


def checkpoint_activations(model: nn.Module) -> None:
    """Make every outermost block compute its activations again in the backward pass."""
    for block, part in block_parts(model):
        setattr(block, part, partial(checkpoint, getattr(block, part), use_reentrant=False))
