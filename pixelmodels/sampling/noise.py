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


def between(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    """Uniforms on the way from some to others that are independent of them: `share` in [0, 1], 0 is the first and 1 the second, exactly.

    Their normal quantiles are turned from one to the other, z = cos(a) z_1 + sin(a) z_2 with a = share pi/2, which stays normal: so what
    is drawn anywhere on the way is as exact a sample as at its ends.
    """
    if share in (0, 1):
        return second if share else first
    angle = share * np.pi / 2
    z_first, z_second = (torch.special.ndtri(torch.from_numpy(one)) for one in (first, second))
    mixed: npt.NDArray[np.float64] = torch.special.ndtr(np.cos(angle) * z_first + np.sin(angle) * z_second).numpy()
    return mixed.clip(0.0, np.nextafter(1.0, 0.0))
