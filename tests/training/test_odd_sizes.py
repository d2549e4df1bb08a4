"""Images of one row, one pixel or an odd size, all blank but one pixel: every architecture trains, scores and draws them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from pixelmodels.data import Split
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ARCHITECTURES
from pixelmodels.runs.loading import find_model
from pixelmodels.sampling import sample
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from tests.conformance.conftest import small_config
from tests.training.tiny_run import TinyDataset, tiny_plan, tiny_recipe


@dataclasses.dataclass(frozen=True)
class OneLitPixel(TinyDataset):
    """All images are blank but the fourth of the training images, of which the last pixel is lit."""

    def read(self, split: str) -> Split:
        whole = super().read(split)
        x_NCHW = np.zeros_like(whole.images_NCHW)
        x_NCHW[3, :, -1, -1] = self.spec.levels - 1 if split == "train" else 0
        return dataclasses.replace(whole, images_NCHW=x_NCHW)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("spec", "likelihood"),
    [
        (ImageSpec(1, 1, 9, 2), "bernoulli"),
        (ImageSpec(3, 1, 1, 256), "discretized_logistic_mixture"),
        (ImageSpec(1, 7, 5, 17), "categorical"),
        (ImageSpec(1, 9, 1, 2), "discretized_logistic_mixture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value.shape)),
)
def test_odd_and_nearly_blank_images(architecture: str, spec: ImageSpec, likelihood: str, storage: Storage) -> None:
    changes: dict[str, Any] = {"model": small_config(architecture), "likelihood": LikelihoodConfig(likelihood, 2), "epochs": 2}
    dataset = OneLitPixel(spec=spec)
    plan = tiny_plan(storage, tiny_recipe(condition_on=(), num_samples=2, **changes), dataset)
    result = train(plan, say=lambda _: None)
    numbers = (result.test_nll_nats, result.test_bits_per_dim, result.test_bits_per_dim_stderr)
    assert all(math.isfinite(number) and math.copysign(1, number) == 1 for number in numbers)
    model = find_model(plan.folder, storage)
    with torch.no_grad():
        log_prob_B = model.log_prob(torch.from_numpy(dataset.read("train").images_NCHW))
    assert log_prob_B.isfinite().all() and (log_prob_B <= 0).all()
    drawn = sample(model, 2, seed=0)
    assert drawn.shape == (2, *spec.shape) and int(drawn.max()) < spec.levels
