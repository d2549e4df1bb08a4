"""One model in several workers, whose gradients are averaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pixelmodels.models import Context, PixelModel
from pixelmodels.training.workers import Workers


class LogProb(nn.Module):
    """A model whose `forward` is its log-probability, for wrappers that hook `forward`."""

    def __init__(self, model: PixelModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: torch.Tensor, context: Context | None = None) -> torch.Tensor:
        """Log-probabilities of a batch, in nats: shape (B,)."""
        # without `log_prob`'s check of the levels, which the data set vouches for: a GPU would be waited for
        return self.model.log_prob_map(x_BCHW, context).sum((1, 2))


def data_parallel(model: PixelModel, workers: Workers, wrap: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """The model's log-probability, its gradients averaged over the workers; `wrap` does that, torch's own wrapper unless given."""
    module: nn.Module = LogProb(model)
    if wrap is not None:
        return wrap(module)
    return DistributedDataParallel(module) if workers.count > 1 else module


def averaging_gradients(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are averaged once a step: with its last part."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    return nullcontext()
