"""How a GPU multiplies float32: as IEEE has it, or by TF32, with 10 bits of mantissa (torch's own choice for convolutions)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Products = Literal["ieee", "tf32"]
_CUDNN: Any = torch.backends.cudnn  # whose types leave its parts out
_SETTINGS: tuple[Any, ...] = (torch.backends.cuda.matmul, _CUDNN.conv)


@contextmanager
def products(kind: Products, device: torch.device) -> Iterator[None]:
    """While it is entered, products and convolutions of float32 on a GPU are of this kind. Other devices know IEEE only."""
    if device.type != "cuda":
        yield
        return
    before = [one.fp32_precision for one in _SETTINGS]
    try:
        for one in _SETTINGS:
            one.fp32_precision = kind
        yield
    finally:
        for one, was in zip(_SETTINGS, before, strict=True):
            one.fp32_precision = was
