"""Bernoulli likelihood of binary images (arXiv:1601.06759, section 5.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.likelihoods.base import Likelihood, LikelihoodConfig
from pixelmodels.shapes import ImageSpec


class Bernoulli(Likelihood):
    """One logit for each channel of a binary image."""

    def __init__(self, spec: ImageSpec, config: LikelihoodConfig):
        super().__init__(spec, config)
        if spec.levels != 2:
            raise UserError(
                f"likelihood 'bernoulli' is for images of 2 levels, these have {spec.levels}; "
                "use categorical or discretized_logistic_mixture, or binarize the data set"
            )

    @property
    def num_params(self) -> int:
        return self.spec.channels

    @property
    def param_channels(self) -> tuple[int, ...]:
        return tuple(range(self.spec.channels))

    def log_prob_map(self, params_BPHW: Tensor, x_BCHW: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(x_BCHW > 0, params_BPHW, -params_BPHW)).sum(1)

    def table(self, params_BP: Tensor, channel: int, x_BC: Tensor) -> Tensor:
        return F.logsigmoid(torch.cat([-params_BP, params_BP], 1))

    def draw(self, params_BP: Tensor, channel: int, x_BC: Tensor, u_BU: Tensor) -> Tensor:
        # the same as the inverse of the cumulative table, [1 - p, 1], in fewer operations
        return (u_BU[:, channel] >= torch.sigmoid(-params_BP[:, 0].to(u_BU.dtype))).long()
