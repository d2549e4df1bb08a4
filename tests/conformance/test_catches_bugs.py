"""Deliberate bugs, one a test: the conformance checks must see each of them."""

from __future__ import annotations

import pytest
import torch

from pixelmodels.layers.convolution import CausalConv
from pixelmodels.layers.recurrent import DiagonalLSTM
from pixelmodels.models import base
from pixelmodels.sampling import reference_sample, sample
from pixelmodels.shapes import ImageSpec
from tests.conformance.checks import by_pixel_passes, by_taking_rows, declared, dependencies, illegal, total_probability
from tests.conformance.conftest import small_model
from tests.layers.test_contract import DiagonalToy

ARCHITECTURES = ("pixelcnn", "gated_pixelcnn")


def entry_of(model) -> CausalConv:
    return next(layer for layer in model.layers() if isinstance(layer, CausalConv) and layer.reads_image)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mask_off_by_one(architecture):
    model = small_model(architecture, "categorical", 1, 2, 2)
    entry_of(model).mask[:, :, -1, entry_of(model).left] = 1  # mask B where mask A belongs
    assert (dependencies(model) & illegal(model)).any()
    assert abs(total_probability(model) - 1) > 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_green_that_sees_blue(architecture):
    model = small_model(architecture, "categorical", 3, 1, 2)
    mask = entry_of(model).mask
    mask[:, :, -1, entry_of(model).left] = mask[:, :, -1, entry_of(model).left].flip(0)
    assert (dependencies(model) & illegal(model)).any()
    assert abs(total_probability(model) - 1) > 1e-6


def test_a_missing_shift_of_the_vertical_stack(monkeypatch):
    monkeypatch.setattr(base, "shifted_down", lambda image_BHWC: image_BHWC)
    model = small_model("gated_pixelcnn", "categorical", 1, 2, 2)
    assert (dependencies(model) & illegal(model)).any()
    assert abs(total_probability(model) - 1) > 1e-6


def test_a_blind_spot_that_is_not_declared():
    model = small_model("gated_pixelcnn", "categorical", 1, 5, 7)
    for layer in model.gated:  # the horizontal stack no longer takes anything from the vertical one to its right
        layer.vertical.weight.data[..., layer.vertical.side + 1 :] = 0
    assert not (dependencies(model) & illegal(model)).any()
    assert not torch.equal(dependencies(model), declared(model))


def test_a_kernel_that_looks_down(monkeypatch):
    torch.manual_seed(0)
    toy = DiagonalToy(ImageSpec(1, 4, 4, 3), "categorical").double()
    scan = DiagonalLSTM.scan_diagonals
    monkeypatch.setattr(DiagonalLSTM, "scan_diagonals", lambda self, gates_BHWG: scan(self, gates_BHWG.flip(1)).flip(1))
    assert (dependencies(toy) & illegal(toy)).any()


def test_a_row_that_is_not_recorded(monkeypatch):
    model = small_model("pixelcnn", "categorical", 1, 4, 4)
    x_BCHW = torch.randint(3, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    expected = model(x_BCHW)
    monkeypatch.setattr(CausalConv, "commit", lambda self, w, s, at: None)
    for passes in (by_pixel_passes, by_taking_rows):
        assert not torch.allclose(passes(model, x_BCHW), expected, atol=1e-6)
    assert not torch.equal(sample(model, 8, seed=0), reference_sample(model, 8, seed=0))
