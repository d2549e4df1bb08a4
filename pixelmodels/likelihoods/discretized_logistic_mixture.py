"""Discretized mixture of logistics with coupled channels (arXiv:1701.05517, section 2.1 and 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.likelihoods.base import Likelihood, LikelihoodConfig, Tables
from pixelmodels.likelihoods.mixture_tables import MAX_LOG_SCALE, MIN_LOG_SCALE, MixtureTables
from pixelmodels.shapes import ImageSpec


class DiscretizedLogisticMixture(Likelihood):
    """K logistics, cut into bins around the levels; the edge bins take the whole tails.

    Levels lie evenly on [-1, 1]. A component is shared by the channels of a pixel; its mean moves linearly with
    the channels before (coefficients in (-1, 1)). Parameters: K logits of the components, then for each channel
    K means and K log-scales, and with more than one channel K coefficients: for RGB those of green on red, blue
    on red and blue on green (the order of public PixelCNN++ implementations).
    """

    orders_channels = True

    def __init__(self, spec: ImageSpec, config: LikelihoodConfig):
        super().__init__(spec, config)
        if spec.channels not in (1, 3):
            raise UserError(f"likelihood 'discretized_logistic_mixture' is for 1 or 3 channels, not {spec.channels}; use categorical")
        if config.num_mixtures < 1:
            raise UserError(f"num_mixtures {config.num_mixtures} is too small; give 1 or more")
        self.step = spec.step

    @property
    def num_params(self) -> int:
        return self.config.num_mixtures * (3 if self.spec.channels == 1 else 1 + 3 * self.spec.channels)

    @property
    def num_uniforms(self) -> int:
        return 1 + self.spec.channels  # the component, then each channel

    def split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits [..., K], means, log-scales and coefficients [..., C, K] from parameters in the last dimension."""
        num_mixtures, channels = self.config.num_mixtures, self.spec.channels
        logits, rest = params[..., :num_mixtures], params[..., num_mixtures:]
        rest = rest.unflatten(-1, (channels, -1))
        means, log_scales = rest[..., :num_mixtures], rest[..., num_mixtures : 2 * num_mixtures]
        return logits, means, log_scales.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE), torch.tanh(rest[..., 2 * num_mixtures :])

    def mean(self, channel: int, means: Tensor, coefficients: Tensor, x: Tensor) -> Tensor:
        """Means [..., K] of one channel, moved by the channels before; `x` [..., C] scaled to [-1, 1]."""
        mean = means[..., channel, :]
        if channel == 1:
            mean = mean + coefficients[..., 0, :] * x[..., 0, None]
        elif channel == 2:
            mean = mean + coefficients[..., 1, :] * x[..., 0, None] + coefficients[..., 2, :] * x[..., 1, None]
        return mean

    def log_bin(self, level: Tensor, scaled: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Exact log-probability of a level's bin under each logistic."""
        inverse = torch.exp(-log_scale)
        return self._log_bin(level, scaled, mean, inverse, self._log_width(inverse))

    def _log_width(self, inverse: Tensor) -> Tensor:
        """What of a bin's log-probability its width and the scale decide; `inverse` scales."""
        return torch.log(-torch.expm1(-self.step * inverse))

    def _log_bin(self, level: Tensor, scaled: Tensor, mean: Tensor, inverse: Tensor, log_width: Tensor) -> Tensor:
        upper = (scaled + self.step / 2 - mean) * inverse
        lower = (scaled - self.step / 2 - mean) * inverse
        # log(sigmoid(upper) - sigmoid(lower)), exact however narrow the bin, with a gradient everywhere
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + log_width
        edge = torch.where(level == self.spec.levels - 1, F.logsigmoid(-lower), inside)
        return torch.where(level == 0, F.logsigmoid(upper), edge)

    def log_prob_map(self, params_BPHW: Tensor, x_BCHW: Tensor) -> Tensor:
        logits, means, log_scales, coefficients = self.split(params_BPHW.permute(0, 2, 3, 1))
        level = x_BCHW.permute(0, 2, 3, 1)
        scaled = self.spec.scaled(level, params_BPHW.dtype)
        joint_BHWK = torch.log_softmax(logits, -1)
        for k in range(self.spec.channels):
            mean = self.mean(k, means, coefficients, scaled)
            joint_BHWK = joint_BHWK + self.log_bin(level[..., k, None], scaled[..., k, None], mean, log_scales[..., k, :])
        log_prob_BHW = joint_BHWK.logsumexp(-1)
        return log_prob_BHW - log_prob_BHW.detach().clamp(min=0)  # rounding may lift what is certain above 0; gradients stay as they are

    def table(self, params_BP: Tensor, channel: int, x_BC: Tensor) -> Tensor:
        logits, means, log_scales, coefficients = self.split(params_BP)
        scaled_BC = self.spec.scaled(x_BC, params_BP.dtype)
        weight_BK = torch.log_softmax(logits, -1)
        for k in range(channel):  # the channels before make some components likelier
            mean = self.mean(k, means, coefficients, scaled_BC)
            weight_BK = weight_BK + self.log_bin(x_BC[:, k, None], scaled_BC[:, k, None], mean, log_scales[:, k])
        weight_BK = torch.log_softmax(weight_BK, -1)
        levels_L1 = torch.arange(self.spec.levels, device=params_BP.device)[:, None]
        mean = self.mean(channel, means, coefficients, scaled_BC)
        bins_BLK = self.log_bin(levels_L1, self.spec.scaled(levels_L1, params_BP.dtype), mean[:, None], log_scales[:, None, channel])
        return (weight_BK[:, None] + bins_BLK).logsumexp(-1)

    def tables(self, params_BP: Tensor) -> Tables:
        return MixtureTables(self.spec, self.config.num_mixtures, params_BP)

    def draw(self, params_BP: Tensor, channel: int, x_BC: Tensor, u_BU: Tensor) -> Tensor:
        # The first uniform chooses the component, the same for all channels; the others invert its logistic, and
        # the nearest level is the bin that the point falls in: the same distribution as the table's.
        logits, means, log_scales, coefficients = self.split(params_BP)
        cumulative_BK = torch.softmax(logits.to(u_BU.dtype), -1).cumsum(-1)
        chosen_B1 = torch.searchsorted(cumulative_BK, u_BU[:, :1] * cumulative_BK[:, -1:], right=True)
        chosen_B1 = chosen_B1.clamp_(max=self.config.num_mixtures - 1)
        mean_B1 = self.mean(channel, means, coefficients, self.spec.scaled(x_BC, params_BP.dtype)).gather(1, chosen_B1)
        scale_B1 = torch.exp(log_scales[:, channel].gather(1, chosen_B1))
        point_B1 = mean_B1 + scale_B1 * torch.logit(u_BU[:, 1 + channel, None])
        return torch.round((point_B1 + 1) / self.step).clamp_(0, self.spec.levels - 1).long()[:, 0]
