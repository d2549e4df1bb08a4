"""The uniforms that an image is drawn with: a function of its own seed and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel


def noise(model: PixelModel, n: int, seed: int, first: int = 0) -> Tensor:
    """Uniforms in [0, 1) for images `first`..`first + n - 1` of `seed`; float64, shaped N H W U.

    Each image has a stream of its own, so that image i is the same however many are drawn with it.
    """
    if n < 1:
        raise UserError(f"{n} samples asked for; give 1 or more")
    if seed < 0:
        raise UserError(f"seed {seed} is negative; give 0 or more")
    images = [image_noise(model, seed, first + i) for i in range(n)]
    return torch.from_numpy(np.reshape(images, (n, *model.spec.shape[1:], model.likelihood.num_uniforms))).to(model.device)


def image_noise(model: PixelModel, seed: int, index: int) -> npt.NDArray[np.float64]:
    """Uniforms in [0, 1) for one image of a seed; H W U."""
    stream = np.random.SeedSequence(seed, spawn_key=(index,))
    return np.random.Generator(np.random.Philox(stream)).random((model.spec.height, model.spec.width, model.likelihood.num_uniforms))
