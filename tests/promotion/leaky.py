"""A model with a deliberate causality bug: its first convolution has mask B, so that each pixel sees itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pixelmodels.layers.convolution import CausalConv
from pixelmodels.models.pixelcnn import PixelCNN, PixelCNNConfig


@dataclass(frozen=True)
class LeakyConfig(PixelCNNConfig):
    """As the model without the bug."""


class Leaky(PixelCNN):
    """A PixelCNN that knows the answer."""

    config_class = LeakyConfig

    def __init__(self, config: Any, *others: Any) -> None:
        super().__init__(config, *others)
        entry = self.entry
        kernel = config.first_kernel_size
        self.entry = CausalConv(entry.in_groups, entry.out_groups, (kernel // 2 + 1, kernel), "B", reads_image=True)
