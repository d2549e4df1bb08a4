"""Softmax over the levels of each channel (arXiv:1601.06759, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelmodels.likelihoods.base import Likelihood


class Categorical(Likelihood):
    """One logit for each level of each channel, channel by channel."""

    @property
    def num_params(self) -> int:
        return self.spec.channels * self.spec.levels

    @property
    def param_channels(self) -> tuple[int, ...]:
        return tuple(k for k in range(self.spec.channels) for _ in range(self.spec.levels))

    def log_prob_map(self, params_BPHW: Tensor, x_BCHW: Tensor) -> Tensor:
        logits_BCLHW = params_BPHW.unflatten(1, (self.spec.channels, self.spec.levels))
        chosen_BCHW = logits_BCLHW.gather(2, x_BCHW.long().unsqueeze(2)).squeeze(2)
        return (chosen_BCHW - logits_BCLHW.logsumexp(2)).sum(1)

    def table(self, params_BP: Tensor, channel: int, x_BC: Tensor) -> Tensor:
        return torch.log_softmax(params_BP, 1)
