"""Activations of every architecture: of earlier pixels alone, all that the output is made of, and the same each time."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from pixelmodels.errors import UserError
from pixelmodels.layers.channel_groups import even_groups
from pixelmodels.layers.wiring import Forward
from pixelmodels.models import ARCHITECTURES, Context, PixelModel
from tests.conformance.conftest import PAIRS, small_model

# one likelihood for each architecture and number of groups: features know nothing of the likelihood but whether it orders the channels
ORDERS = sorted({(architecture, channels): likelihood for architecture, likelihood, channels in PAIRS}.items())


@pytest.fixture(params=ORDERS, ids=lambda item: f"{item[0][0]}-{item[0][1]}")
def pair_of_order(request) -> tuple[str, str, int]:
    """One valid pair for each architecture and number of channels."""
    (architecture, channels), likelihood = request.param
    return architecture, likelihood, channels


def images(model: PixelModel, n: int) -> torch.Tensor:
    return torch.randint(model.spec.levels, (n, *model.spec.shape), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def seen(model: PixelModel, h_FHW: torch.Tensor, image_BHWC: torch.Tensor) -> torch.Tensor:
    """Which sub-pixels a map of features depends on, by gradients: booleans G H W (map) by C H W (image)."""
    channels, height, width = model.spec.shape
    groups = torch.tensor(even_groups(len(h_FHW), model.num_groups))
    found = torch.zeros(model.num_groups, *h_FHW.shape[1:], channels, height, width, dtype=torch.bool)
    mix_FHW = torch.rand(h_FHW.shape, generator=torch.Generator().manual_seed(0), dtype=h_FHW.dtype) + 0.5
    for g, r, c in itertools.product(range(model.num_groups), *map(range, h_FHW.shape[1:])):
        (grad_BHWC,) = torch.autograd.grad((h_FHW * mix_FHW)[groups == g, r, c].sum(), image_BHWC, retain_graph=True)
        found[g, r, c] = grad_BHWC[0, :, :, :channels].permute(2, 0, 1) != 0
    return found


def allowed(model: PixelModel, rows: int, columns: int) -> torch.Tensor:
    """What raster order allows of a map of this size, shaped as `seen` gives it."""
    channels, height, width = model.spec.shape
    stride = height // rows
    order = torch.arange(height * width).view(height, width)
    result = torch.zeros(model.num_groups, rows, columns, channels, height, width, dtype=torch.bool)
    for g, r, c, k in itertools.product(range(model.num_groups), range(rows), range(columns), range(channels)):
        here = order[stride * r, stride * c]
        result[g, r, c, k] = (order < here) | ((order == here) & (k < g))
    return result


def test_a_feature_depends_on_earlier_pixels_alone(pair_of_order):
    for stage in small_model(*pair_of_order, height=4, width=8).stages():
        model = stage.model
        image_BHWC = model.inputs(images(model, 1)).requires_grad_()
        maps = model.network_features(image_BHWC, None)
        assert tuple(maps) == model.feature_names()
        for name, h_BFHW in maps.items():
            found = seen(model, h_BFHW[0], image_BHWC)
            assert not (found & ~allowed(model, *h_BFHW.shape[2:])).any(), f"{name} depends on a later sub-pixel"
            assert found.any(), f"{name} depends on nothing"


def test_the_output_is_made_of_the_last_layer(pair_of_order, monkeypatch):
    feature = Forward.feature
    for stage in small_model(*pair_of_order, height=4, width=6).stages():
        model = stage.model
        names, image_BHWC = model.feature_names(), model.inputs(images(model, 1)).requires_grad_()
        expected, cut = model.network(image_BHWC, None), []

        def without_its_past(self, name, h_BHWC, last=names[-1], cut=cut):
            cut.append(name)
            return feature(self, name, h_BHWC.detach() if name == last else h_BHWC)

        monkeypatch.setattr(Forward, "feature", without_its_past)
        params_BPHW = model.network(image_BHWC, None)
        monkeypatch.undo()
        assert tuple(cut) == names
        torch.testing.assert_close(params_BPHW, expected, rtol=0, atol=0)
        (grad_BHWC,) = torch.autograd.grad(params_BPHW.sum(), image_BHWC, allow_unused=True)
        assert grad_BHWC is None


@pytest.mark.parametrize("size", [(5, 6), (1, 3), (7, 2)], ids=str)
def test_names_indices_shapes_and_context(pair_of_order, size):
    model = small_model(*pair_of_order, *size, context="label")
    x_BCHW, context = images(model, 2), Context(torch.tensor([2, 0]))
    names = model.feature_names()
    maps = model.all_features(x_BCHW, context)
    assert tuple(maps) == names and names[0].endswith("entry") and len(names) >= 2
    for i, name in enumerate(names):
        h_BFHW = model.features(x_BCHW, name, context)
        assert torch.equal(h_BFHW, maps[name])
        assert torch.equal(h_BFHW, model.features(x_BCHW, i, context)) and torch.equal(
            h_BFHW, model.features(x_BCHW, i - len(names), context)
        )
        assert len(h_BFHW) == 2 and h_BFHW.shape[2:] in {(-(-size[0] // stride), -(-size[1] // stride)) for stride in (1, 2, 4)}
    other = model.features(x_BCHW, -1, Context(torch.tensor([2, 1])))
    assert torch.equal(other[0], maps[names[-1]][0]) and not torch.equal(other[1], maps[names[-1]][1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unknown_layers_are_told_with_the_choices(architecture):
    model = small_model(architecture, "categorical", 1, 4, 4)
    names, x_BCHW = model.feature_names(), images(model, 1)
    mistyped = names[0].replace("entry", "entri")
    with pytest.raises(UserError, match=rf"layer '{mistyped}' unknown; have .*; did you mean '{names[0]}'") as error:
        model.features(x_BCHW, mistyped)
    assert all(name in str(error.value) for name in names)
    for index in (len(names), -len(names) - 1):
        with pytest.raises(UserError, match=f"layer {index} is out of range; give -{len(names)}..{len(names) - 1}, or one of {names[0]}, "):
            model.features(x_BCHW, index)
    with pytest.raises(UserError, match="images of shape"):
        model.features(F.pad(x_BCHW, (0, 1)), "entry")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_asking_for_names_draws_nothing(architecture):
    model = small_model(architecture, "categorical", 1, 4, 4).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    before = torch.get_rng_state()
    names = model.feature_names()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and names == model.eval().feature_names()
