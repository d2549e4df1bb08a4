"""Causal attention over all earlier pixels (arXiv:1712.09763, section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.base import CausalLayer, Frame, Place, State, Weights, column
from pixelmodels.layers.convolution import init_uniform


class CausalAttention(CausalLayer):
    """Queries from features at a pixel; keys and values from features and the image at strictly earlier pixels.

    A key holds its own pixel, so it is finished once that pixel is known: by the pass of the next column, or when
    the row is committed. The first query has nothing to attend to and gives zeros.
    """

    def __init__(self, num_features: int, num_image: int, num_key: int, num_value: int):
        super().__init__()
        self.num_key, self.num_value = num_key, num_value
        self.query = nn.Parameter(torch.empty(num_key, num_features))
        self.key_value = nn.Parameter(torch.empty(num_key + num_value, num_features + num_image))
        init_uniform(self.query, num_features)
        init_uniform(self.key_value, num_features + num_image)

    @property
    def num_active_weights(self) -> int:
        return self.query.numel() + self.key_value.numel()

    def active_flops(self, num_pixels: float) -> float:
        num_pairs = num_pixels * (num_pixels - 1) / 2  # of a query and an earlier pixel
        return super().active_flops(num_pixels) + 2.0 * num_pairs * (self.num_key + self.num_value)

    def project(self, x: Tensor, image: Tensor, key_value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        key, value = F.linear(torch.cat([x, image], -1), key_value).split((self.num_key, self.num_value), -1)
        return key, value

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        if image_BHWC is None:
            raise TypeError("attention reads the image")
        height, width = x_BHWC.shape[1:3]
        x_BTC = x_BHWC.flatten(1, 2)
        of_x, of_image = self.key_value.split((x_BTC.shape[-1], image_BHWC.shape[-1]), 1)  # apart, or autograd would keep a copy of x
        key_value_BTF = F.linear(x_BTC, of_x) + F.linear(image_BHWC.flatten(1, 2), of_image)
        key_BTD, value_BTV = key_value_BTF.split((self.num_key, self.num_value), -1)
        # Query t reads the keys before it: without the first query and the last key, query i reads the keys up to i, and no T x T tensor
        # is needed. Fused kernels want keys as wide as values; zeros change no product.
        # The first query is left out only once it is made: of a part of x autograd would keep a copy.
        wide = max(self.num_key, self.num_value)
        query, key, value = (
            F.pad(part_BTF, (0, wide - part_BTF.shape[-1]))[:, None]
            for part_BTF in (F.linear(x_BTC, self.query)[:, 1:], key_BTD[:, :-1], value_BTV[:, :-1])
        )
        y_BTV = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1 / math.sqrt(self.num_key))[:, 0]
        return F.pad(y_BTV[..., : self.num_value], (0, 0, 1, 0)).unflatten(1, (height, width))

    def prepare(self) -> Weights:
        return {"query": self.query, "key_value": self.key_value}

    def start(self, frame: Frame) -> State:
        num_pixels = frame.height * frame.width
        return {
            "key": frame.zeros(num_pixels, self.num_key),  # of finished rows
            "value": frame.zeros(num_pixels, self.num_value),
            "length": torch.zeros(frame.batch, dtype=torch.long, device=frame.device),  # pixels of finished rows
            # of this row, each a column late: what is not there yet is at the first place, and counts for nobody
            "row": frame.zeros(1 + frame.width, self.query.shape[1]),  # features
            "row_key": frame.zeros(frame.width, self.num_key),
            "row_value": frame.zeros(frame.width, self.num_value),
        }

    def _attend(self, w: Weights, s: State, x_BQC: Tensor, at: Place) -> Tensor:
        """What the columns from `at.column` on get of finished rows and of the columns before them."""
        query_BQD, first, device = F.linear(x_BQC, w["query"]), at.column, x_BQC.device
        width = s["row_key"].shape[1]
        num_keys = s["key"].shape[1] if at.num_rows is None else at.num_rows * width
        torch._check(num_keys <= s["key"].shape[1])  # for what is compiled, where it is a number that is only known as it runs
        key_BKD, value_BKV = s["key"].narrow(1, 0, num_keys), s["value"].narrow(1, 0, num_keys)
        logits_BQK = torch.cat([query_BQD @ key_BKD.transpose(1, 2), query_BQD @ s["row_key"].transpose(1, 2)], 2) / math.sqrt(self.num_key)
        finished_B1K = torch.arange(num_keys, device=device) < s["length"][:, None, None]
        column_W, query_Q1 = torch.arange(width, device=device), torch.arange(x_BQC.shape[1], device=device)[:, None]
        before_QW = (column_W > 0) & (column_W <= first + query_Q1)
        batch, count = x_BQC.shape[0], x_BQC.shape[1]
        allowed_BQK = torch.cat([finished_B1K.expand(-1, count, -1), before_QW.expand(batch, -1, -1)], 2)
        weights_BQK = _weights(logits_BQK, allowed_BQK)
        return weights_BQK.narrow(2, 0, num_keys) @ value_BKV + weights_BQK.narrow(2, num_keys, width) @ s["row_value"]

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        c = at.column
        key_BD, value_BV = self.project(column(s["row"], c), column(at.shifted_BWC, c), w["key_value"])  # of the column before
        column(s["row"], 1 + c).copy_(x_BC)
        column(s["row_key"], c).copy_(key_BD)
        column(s["row_value"], c).copy_(value_BV)
        return self._attend(w, s, x_BC[:, None], at)[:, 0]

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        first, end = at.column, at.column + x_BKC.shape[1]
        s["row"][:, 1 + first : 1 + end] = x_BKC
        s["row_key"][:, first:end], s["row_value"][:, first:end] = self.project(
            s["row"][:, first:end], at.shifted_BWC[:, first:end], w["key_value"]
        )
        return self._attend(w, s, x_BKC, at)

    def commit(self, w: Weights, s: State, at: Place) -> None:
        key_BWD, value_BWV = self.project(s["row"][:, 1:], at.image_BWC, w["key_value"])
        images_B1 = torch.arange(key_BWD.shape[0], device=key_BWD.device)[:, None]
        places_BW = s["length"][:, None] + torch.arange(key_BWD.shape[1], device=key_BWD.device)
        s["key"][images_B1, places_BW], s["value"][images_B1, places_BW] = key_BWD, value_BWV
        s["length"] += key_BWD.shape[1]


def _weights(logits_BQK: Tensor, allowed_BQK: Tensor) -> Tensor:
    """Softmax over what is allowed; zeros where nothing is."""
    logits_BQK = logits_BQK.masked_fill(~allowed_BQK, float("-inf"))
    logits_BQK = logits_BQK.masked_fill(~allowed_BQK.any(-1, keepdim=True), 0.0)  # keeps NaN out of the gradient
    return torch.softmax(logits_BQK, -1) * allowed_BQK
