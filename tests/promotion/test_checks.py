"""The causality check passes every architecture that declares its order truly, and catches a dependence on one sub-pixel too many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelmodels.data import Split
from pixelmodels.models import PixelModel
from pixelmodels.promotion.checks import _due_before, _places, _Probe, allowed_nats, check_causality
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
    assert found.says == f"{8 * pair[2] + 24} sub-pixels changed, and all from each of 4 rows on: nothing before them did"


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
    assert not found.passed and "are due before what was changed, by up to 1e-09" in found.says.replace("2e-09", "1e-09")


ALONG = slice(1, -1)  # an edge without its corners
ENDS = [(r, c) for r in (0, -1) for c in (0, -1)]
EDGES = [*ENDS, (0, ALONG), (-1, ALONG), (ALONG, 0), (ALONG, -1)]


@pytest.mark.parametrize("k", range(3))
@pytest.mark.parametrize("place", EDGES, ids=str)
def test_a_leak_of_one_corner_or_edge_is_found(k: int, place: tuple[int | slice, int | slice], monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("pixelcnn", "categorical", 3, 12, 13).float()
    network = type(model).network

    def leaky(self: PixelModel, image_BHWC: torch.Tensor, context: object) -> torch.Tensor:
        params_BPHW = network(self, image_BHWC, context).clone()  # type: ignore[arg-type]
        params_BPHW[:, :, 0, 0] += 1e-3 * image_BHWC[:, *place, k].reshape(len(image_BHWC), -1).sum(1)[:, None]
        return params_BPHW

    assert check_causality(model, images(model), num_probes=1, seed=0).passed
    monkeypatch.setattr(type(model), "network", leaky)
    found = check_causality(model, images(model), num_probes=1, seed=0)
    assert not found.passed and f"the first is of channel {k} of row " in found.says


@pytest.mark.parametrize(("k", "r", "c"), [(0, 6, 7), (1, 1, 11), (2, 10, 1), (0, 5, 6)])
def test_a_leak_of_one_inner_sub_pixel_to_an_earlier_row_is_found(k: int, r: int, c: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("pixelcnn", "categorical", 3, 12, 13).float()
    network = type(model).network

    def leaky(self: PixelModel, image_BHWC: torch.Tensor, context: object) -> torch.Tensor:
        params_BPHW = network(self, image_BHWC, context).clone()  # type: ignore[arg-type]
        params_BPHW[:, :, r - 1, 9] += 1e-3 * image_BHWC[:, r, c, k, None]
        return params_BPHW

    monkeypatch.setattr(type(model), "network", leaky)
    for seed in range(5):
        found = check_causality(model, images(model), num_probes=1, seed=seed)
        assert not found.passed and "1 of 37 changes reach" in found.says and f"the first is of all from row {r}, column 0 on" in found.says


@pytest.mark.parametrize(("architecture", "channels"), [("gated_pixelcnn", 3), ("multiscale_pixelrnn", 1)])
def test_of_each_row_all_that_comes_from_its_first_pixel_on_is_changed(architecture: str, channels: int) -> None:
    model = small_model(architecture, "categorical", channels, 4, 6)
    order_HW = model.pixel_ranks()
    for r in range(4):
        changed_CHW = _Probe(0, r, 0, onwards=True).changed(model)
        assert torch.equal(changed_CHW, (order_HW >= order_HW[r, 0]).expand(channels, -1, -1))
        early_PHW = _due_before(model, 0, r, 0).bool()
        assert not (early_PHW & changed_CHW[0])[torch.tensor(model.param_groups) > 0].any()
        assert early_PHW[0].sum() == order_HW[r, 0] + 1, "pixels before it, and what comes first of its own parameters"
    alone_CHW = _Probe(channels - 1, 2, 3).changed(model)
    assert alone_CHW.nonzero().tolist() == [[channels - 1, 2, 3]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 7), (3, 4, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_corners_and_edges_of_each_channel_come_before_the_random_places(shape: tuple[int, int, int], seed: int) -> None:
    channels, height, width = shape
    places = _places(shape, 200, np.random.default_rng(seed))
    assert len(places) == 8 * channels + 200 and all(np.all(np.less(place, shape)) and min(place) >= 0 for place in places)
    for k in range(channels):
        of_channel = places[8 * k : 8 * (k + 1)]
        assert {one[0] for one in of_channel} == {k}
        assert of_channel[:4] == [(k, r % height, c % width) for r, c in ENDS]
        if height > 2 and width > 2:
            assert len(set(of_channel)) == 8, "edges without their corners"
        assert [of_channel[4][1], of_channel[5][1], of_channel[6][2], of_channel[7][2]] == [0, height - 1, 0, width - 1]
    assert {place[1:] for place in places[8 * channels :]} == set(np.ndindex(height, width)), "any place may come"


def test_nats_may_be_off_by_a_share_of_them_and_of_one_nat_at_least() -> None:
    np.testing.assert_allclose(allowed_nats(np.array([0.0, 0.5, 1.0, 40.0]), 1e-4), [1e-4, 1e-4, 1e-4, 4e-3], rtol=1e-12)
