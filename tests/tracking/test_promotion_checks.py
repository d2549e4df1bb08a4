"""The causality check passes every architecture that declares its order truly, and catches a dependence on one sub-pixel too many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelmodels.data import Split
from pixelmodels.models import PixelModel
from pixelmodels.training.promotion_checks import _due_before, check_causality
from tests.conformance.checks import illegal
from tests.conformance.conftest import PAIRS, small_model


def images(model: PixelModel, num: int = 6) -> Split:
    rng = np.random.default_rng(0)
    return Split(
        rng.integers(0, model.spec.levels, (num, *model.spec.shape)).astype(np.uint8),
        rng.integers(0, 3, num).astype(np.int32),
        [str(i) for i in range(num)],
        rng.normal(size=(num, 2)).astype(np.float32),
    )


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
def test_every_architecture_passes(pair: tuple[str, str, int]) -> None:
    model = small_model(*pair, height=4, width=5).float()
    found = check_causality(model, images(model), num_probes=24, seed=0)
    assert found.passed, found.says


@pytest.mark.parametrize("context", ["label", "vector", "image"])
def test_conditional_models_pass(context: str) -> None:
    model = small_model("gated_pixelcnn", "categorical", 3, 4, 4, levels=5, context=context).float()
    found = check_causality(model, images(model), num_probes=24, seed=0)
    assert found.passed, found.says


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_due_before_is_what_the_order_forbids(channels: int) -> None:
    for architecture in ("gated_pixelcnn", "multiscale_pixelrnn"):
        model = small_model(architecture, "categorical", channels, 3, 4)
        illegal_GHWCHW = illegal(model)
        groups = torch.tensor(model.param_groups)
        for k, r, c in np.ndindex(*model.spec.shape):
            assert torch.equal(_due_before(model, k, r, c).bool(), illegal_GHWCHW[groups][..., k, r, c])


@pytest.mark.parametrize("leak", [(0, 0), (0, 1), (1, 0)], ids=["itself", "the next pixel", "the pixel below"])
def test_a_tiny_leak_is_found(leak: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("pixelcnn", "categorical", 1, 4, 5).float()
    network = type(model).network

    def leaky(self: PixelModel, image_BHWC: torch.Tensor, context: object) -> torch.Tensor:
        ahead_BHW = torch.roll(image_BHWC[..., 0], (-leak[0], -leak[1]), (1, 2))
        return network(self, image_BHWC, context) + 1e-9 * ahead_BHW[:, None]  # type: ignore[arg-type]

    monkeypatch.setattr(type(model), "network", leaky)
    found = check_causality(model, images(model), num_probes=24, seed=0)
    assert not found.passed and "reach parameters that are due before it, by up to 1e-09" in found.says.replace("2e-09", "1e-09")
