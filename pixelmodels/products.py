"""How a GPU multiplies float32: as IEEE has it, or by TF32, with 10 bits of mantissa (torch's own choice for convolutions).

The setting is the process's: threads that need one kind (those of a service all score and draw in IEEE) share it until the last one leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

Products = Literal["ieee", "tf32"]
_CUDNN: Any = torch.backends.cudnn  # whose types leave its parts out
_SETTINGS: tuple[Any, ...] = (torch.backends.cuda.matmul, _CUDNN.conv)
_LOCK = threading.Lock()
_entered: list[Products] = []  # and not left, by any thread
_before: list[str] = []  # the settings as they were before the first of them


@contextmanager
def products(kind: Products, device: torch.device) -> Iterator[None]:
    """While it is entered, products and convolutions of float32 on a GPU are of this kind. Nothing is set for other devices."""
    if device.type != "cuda":
        yield
        return
    with _LOCK:
        if not _entered:
            _before[:] = [one.fp32_precision for one in _SETTINGS]
        _entered.append(kind)
        _set([kind] * len(_SETTINGS))
    try:
        yield
    finally:
        with _LOCK:
            _entered.remove(kind)
            _set([_entered[-1]] * len(_SETTINGS) if _entered else _before)


def _set(kinds: Sequence[str]) -> None:
    for one, kind in zip(_SETTINGS, kinds, strict=True):
        one.fp32_precision = kind
