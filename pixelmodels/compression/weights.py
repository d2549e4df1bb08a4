"""By what a file knows its model: a hash of the weights as they are used, in whatever files they came."""

from __future__ import annotations

import hashlib

from pixelmodels.models import PixelModel


def sha256_of(model: PixelModel) -> bytes:
    """Of all weights and buffers: names, types, shapes and numbers, in the order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
