"""Causal attention over all earlier pixels (arXiv:1712.09763, section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.base import CausalLayer, Frame, Place, State, Weights
from pixelmodels.layers.convolution import init_uniform


class CausalAttention(CausalLayer):
    """Queries from features at a pixel; keys and values from features and the image at strictly earlier pixels.

    A key holds its own pixel, so it is finished once that pixel is known: by the pass of the next column, or when
    the row is committed. The first query has nothing to attend to and gives zeros.
    """

    branches_on_column = True  # the first one finishes no key

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

    def attend(self, query_BQD: Tensor, key_BKD: Tensor, value_BKV: Tensor, allowed_BQK: Tensor) -> Tensor:
        """Softmax over the allowed keys; zeros where there are none."""
        logits_BQK = query_BQD @ key_BKD.transpose(1, 2) / math.sqrt(self.num_key)
        logits_BQK = logits_BQK.masked_fill(~allowed_BQK, float("-inf"))
        logits_BQK = logits_BQK.masked_fill(~allowed_BQK.any(-1, keepdim=True), 0.0)  # keeps NaN out of the gradient
        return (torch.softmax(logits_BQK, -1) * allowed_BQK) @ value_BKV

    def project(self, x: Tensor, image: Tensor, key_value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        key, value = F.linear(torch.cat([x, image], -1), key_value).split((self.num_key, self.num_value), -1)
        return key, value

    def forward(self, x_BHWC: Tensor, extra_BHWC: Tensor | None = None, image_BHWC: Tensor | None = None) -> Tensor:
        if image_BHWC is None:
            raise TypeError("attention reads the image")
        height, width = x_BHWC.shape[1:3]
        x_BTC = x_BHWC.flatten(1, 2)
        key, value = self.project(x_BTC, image_BHWC.flatten(1, 2), self.key_value)
        earlier = torch.ones(height * width, height * width, dtype=torch.bool, device=x_BHWC.device).tril(-1)
        y_BTV = self.attend(F.linear(x_BTC, self.query), key, value, earlier[None])
        return y_BTV.unflatten(1, (height, width))

    def prepare(self) -> Weights:
        return {"query": self.query, "key_value": self.key_value}

    def start(self, frame: Frame) -> State:
        num_pixels = frame.height * frame.width
        return {
            "key": frame.zeros(num_pixels, self.num_key),
            "value": frame.zeros(num_pixels, self.num_value),
            "length": torch.zeros(frame.batch, dtype=torch.long, device=frame.device),  # pixels of finished rows
            "row": frame.zeros(frame.width, self.query.shape[1]),  # features of this row
        }

    def _store(self, w: Weights, s: State, first: int, x_BWC: Tensor, image_BWC: Tensor) -> None:
        """Keys and values of this row's columns from `first` on; they count by the query's own position."""
        key, value = self.project(x_BWC, image_BWC, w["key_value"])
        batch = torch.arange(x_BWC.shape[0], device=x_BWC.device)[:, None]
        places = s["length"][:, None] + torch.arange(first, first + x_BWC.shape[1], device=x_BWC.device)
        s["key"][batch, places], s["value"][batch, places] = key, value

    def _allowed(self, s: State, first: int, count: int) -> Tensor:
        """Which keys the queries of columns `first`..`first + count - 1` see; B Q K."""
        position_BQ = s["length"][:, None] + torch.arange(first, first + count, device=s["key"].device)
        return torch.arange(s["key"].shape[1], device=s["key"].device) < position_BQ[:, :, None]

    def pixel(self, w: Weights, s: State, x_BC: Tensor, at: Place) -> Tensor:
        c = at.column
        s["row"][:, c] = x_BC
        if c:
            self._store(w, s, c - 1, s["row"][:, c - 1 : c], at.image_BWC[:, c - 1 : c])
        query_B1D = F.linear(x_BC, w["query"])[:, None]
        return self.attend(query_B1D, s["key"], s["value"], self._allowed(s, c, 1))[:, 0]

    def take_row(self, w: Weights, s: State, x_BKC: Tensor, at: Place) -> Tensor:
        first, count = at.column, x_BKC.shape[1]
        s["row"][:, first : first + count] = x_BKC
        self._store(w, s, first, x_BKC, at.image_BWC[:, first : first + count])
        return self.attend(F.linear(x_BKC, w["query"]), s["key"], s["value"], self._allowed(s, first, count))

    def commit(self, w: Weights, s: State, at: Place) -> None:
        self._store(w, s, 0, s["row"], at.image_BWC)
        s["length"] += s["row"].shape[1]
