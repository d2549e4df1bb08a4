"""By what a file knows its model: a hash of the weights as they are used, in whatever files they came."""

from __future__ import annotations

import hashlib

import torch

from pixelmodels.models import PixelModel


def sha256_of(model: PixelModel) -> bytes:
    """Of all weights and buffers: names, types, shapes and numbers, in the order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # of types, too, that NumPy does not have
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode() + plain.numpy().tobytes())
    return digest.digest()
