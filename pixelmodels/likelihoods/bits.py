"""Nats to bits per dimension: the only place where the units change."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

Nats = TypeVar("Nats", float, Tensor)


def bits_per_dim(nats: Nats, num_subpixels: int) -> Nats:
    """Nats of a whole image (or a mean of them) to bits per sub-pixel, `nats / (ln 2 * num_subpixels)`; never -0."""
    return nats / (math.log(2) * num_subpixels) + 0.0
