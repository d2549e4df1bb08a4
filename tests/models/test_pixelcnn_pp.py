"""PixelCNN++ against a public PyTorch port (the same likelihoods, weights carried over by name), and its initialization from data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from pixelmodels.errors import UserError
from pixelmodels.layers import weight_norm
from pixelmodels.layers.base import Layer
from pixelmodels.layers.convolution import RowLinear
from pixelmodels.layers.pixelcnn_pp import LeftColumnConv, SplitLinear
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import Context, ContextSpec, PixelModel, build
from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig
from pixelmodels.models.pixelcnn_pp_port import from_port, port_names
from pixelmodels.shapes import ImageSpec
from tests.conformance.checks import by_pixel_passes, total_probability
from tests.conformance.conftest import small_model

REFERENCE = json.loads((Path(__file__).parent / "pixelcnn_pp_reference.json").read_text())


def build_pp(channels, num_layers, num_features, num_mixtures, height=16, width=12):
    likelihood = LikelihoodConfig("discretized_logistic_mixture", num_mixtures)
    return build(PixelCNNPPConfig(num_layers, num_features), ImageSpec(channels, height, width, 256), likelihood)


def port_state(case) -> dict[str, torch.Tensor]:
    """The port's state_dict with the values of the reference's rule: see "how" in the JSON."""
    own = build_pp(case["channels"], case["num_resnets"], case["num_filters"], case["num_mixtures"]).state_dict()
    names = port_names(case["num_resnets"])
    assert set(names.values()) == set(own)
    state = {}
    for k, name in enumerate(sorted(names)):
        shape = own[names[name]].shape
        if name.endswith("deconv.weight_g"):
            shape = shape[1:2] + shape[:1] + shape[2:]  # the port's gain is along the inputs
        v = torch.sin(1 + 0.7 * k + 0.37 * torch.arange(shape.numel(), dtype=torch.float64)).view(shape)
        state[name] = 0.6 + 0.3 * v if name.endswith("weight_g") else 0.1 * v if name.endswith("bias") else 0.5 * v
    return state


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: f"{case['channels']}-channels")
def test_reproduces_the_port(case):
    batch, channels, height, width = (case[name] for name in ("batch", "channels", "height", "width"))
    model = from_port(port_state(case), channels=channels, height=height, width=width)
    i = torch.arange(batch * channels * height * width)
    x_BCHW = ((7 * i**2 + 13 * i + 5) % 256).view(batch, channels, height, width)
    with torch.no_grad():
        nll_nats_B, params_BPHW = -model.log_prob(x_BCHW), model(x_BCHW)
    torch.testing.assert_close(nll_nats_B, torch.tensor(case["nll_nats"], dtype=torch.float64), rtol=1e-9, atol=0)
    for place, values in case["params"].items():
        r, c = map(int, place.split(","))
        torch.testing.assert_close(params_BPHW[0, :, r, c], torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "num_layers", "num_features", "parameters"), [(3, 5, 160, 53_659_080), (1, 5, 160, 53_644_220), (3, 2, 40, 1_519_320)]
)
def test_has_as_many_parameters_as_the_port(channels, num_layers, num_features, parameters):
    assert build_pp(channels, num_layers, num_features, 10).num_parameters == parameters


def test_other_weights_are_refused():
    case = REFERENCE["cases"][0]
    with pytest.raises(UserError, match="give the state_dict of a PixelCNN"):
        from_port({}, channels=3, height=8, width=8)
    state = port_state(case)
    state["more"] = torch.zeros(1)
    with pytest.raises(UserError, match="'more' is in only one of port and model"):
        from_port(state, channels=case["channels"], height=8, width=8)


# ---- data-dependent initialization


def digits(n: int, height: int = 8, width: int = 8) -> tuple[torch.Tensor, Context]:
    """Handwritten digits of 17 levels, cut to a size, with their labels."""
    read = load_digits()
    images_NCHW = torch.from_numpy(read.images[:n, :height, :width]).to(torch.uint8)[:, None]
    return images_NCHW, Context(torch.from_numpy(read.target[:n]).long())


def digits_model(height: int = 8, width: int = 8, num_classes: int = 0, dropout: float = 0.0, seed: int = 0) -> PixelModel:
    torch.manual_seed(seed)
    likelihood = LikelihoodConfig("discretized_logistic_mixture", 3)
    return build(PixelCNNPPConfig(1, 8, dropout), ImageSpec(1, height, width, 17), likelihood, ContextSpec(num_classes))


def own_outputs(model: PixelModel, x_BCHW: torch.Tensor, context: Context | None) -> dict[Layer, torch.Tensor]:
    """What each layer makes in a pass of its own inputs, without what is added to it from elsewhere; in order of use."""
    made: dict[Layer, torch.Tensor] = {}

    def keep(layer, args, output_BHWC):
        extra_BHWC = args[1] if len(args) > 1 else None
        made[layer] = output_BHWC if extra_BHWC is None else output_BHWC - extra_BHWC

    hooks = [layer.register_forward_hook(keep) for layer in model.layers()]
    with torch.no_grad():
        model.eval()(x_BCHW, context)
    for hook in hooks:
        hook.remove()
    for layer in [layer for layer in made if isinstance(layer, SplitLinear)]:
        made[layer] = made[layer] + made.pop(layer.from_above)
    return made


def check_statistics(model: PixelModel, x_BCHW: torch.Tensor, context: Context | None) -> None:
    """Mean 0 and standard deviation 1, or 0.1 at the end of a residual layer, of every feature."""
    names = {layer: name for name, layer in model.named_modules()}
    made = own_outputs(model, x_BCHW, context)
    assert set(made) == {layer for layer in model.layers() if hasattr(layer, "parametrizations")} and len(made) == 57
    for layer, own_BHWC in made.items():
        if isinstance(layer, LeftColumnConv):
            assert not own_BHWC[:, :, 0].any()
            own_BHWC = own_BHWC[:, :, 1:]
        features_FN = own_BHWC.flatten(0, 2).T
        scale_F = torch.full((len(features_FN),), 0.1 if names[layer].endswith("conv_out") else 1.0, dtype=torch.float64)
        torch.testing.assert_close(features_FN.mean(1), torch.zeros_like(scale_F), rtol=0, atol=1e-9, msg=names[layer])
        torch.testing.assert_close(features_FN.std(1, correction=0), scale_F, rtol=1e-6, atol=0, msg=names[layer])


@pytest.mark.parametrize(("height", "width", "num_classes"), [(8, 8, 0), (7, 6, 10)])
def test_initialization_gives_every_layer_its_mean_and_variance(height, width, num_classes):
    x_BCHW, labels = digits(24, height, width)
    context = labels if num_classes else None
    model = digits_model(height, width, num_classes).double()
    with pytest.raises(AssertionError):
        check_statistics(model, x_BCHW, context)
    model.initialize(x_BCHW, context)
    check_statistics(model, x_BCHW, context)


def test_layers_initialized_on_outputs_of_before_are_noticed(monkeypatch):
    after = weight_norm._Initialization.after

    def not_computed_again(self, layer, args, output_BHWC):
        after(self, layer, args, output_BHWC)
        return output_BHWC

    monkeypatch.setattr(weight_norm._Initialization, "after", not_computed_again)
    (x_BCHW, _), model = digits(24), digits_model().double()
    model.initialize(x_BCHW)
    with pytest.raises(AssertionError):
        check_statistics(model, x_BCHW, None)


def test_a_row_streams_part_that_kept_its_gain_of_before_is_noticed(monkeypatch):
    monkeypatch.setattr(weight_norm._Initialization, "after_above", lambda self, layer, args, output_BHWC: None)
    (x_BCHW, _), model = digits(24), digits_model().double()
    model.initialize(x_BCHW)
    with pytest.raises(AssertionError):
        check_statistics(model, x_BCHW, None)


def test_initialization_depends_on_weights_and_images_alone():
    x_BCHW, _ = digits(16)
    models = [digits_model(), digits_model(dropout=0.5).train()]
    for model in models:
        training, state = model.training, torch.get_rng_state()
        model.initialize(x_BCHW)
        assert model.training is training and torch.equal(torch.get_rng_state(), state)
        assert not any(module._forward_hooks for module in model.modules())
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UserError, match="0 images given"):
        models[0].initialize(x_BCHW[:0])


def test_fresh_weights_have_a_gain_for_each_output_feature():
    model = digits_model(8, 8)
    directions = torch.cat([p.flatten() for name, p in model.named_parameters() if name.endswith("original1")])
    assert directions.std().item() == pytest.approx(0.05, rel=0.05) and abs(directions.mean().item()) < 0.005
    for layer in (layer for layer in model.layers() if hasattr(layer, "parametrizations")):
        assert layer.parametrizations.weight.original0.numel() == len(layer.bias)
        assert not layer.bias.any()
    for layer, out_dim in ((model.level.grow_u, 1), (model.level.grow_ul, 1), (model.level.shrink_u, 0)):
        before = layer.weight.detach().clone()
        layer.parametrizations.weight.original0.data.view(-1)[2] *= 3
        changed = (layer.weight != before).transpose(0, out_dim).flatten(1)
        assert changed[2].all() and changed.sum() == changed.shape[1]


def test_a_constant_feature_becomes_zero_and_keeps_its_gain():
    layer = weight_norm.normed(RowLinear(3, 2)).double()
    weight = layer.weight.detach().clone()
    with torch.no_grad(), weight_norm.initializing({layer: 1.0}):
        y_BHWC = layer(torch.ones(2, 4, 4, 3, dtype=torch.float64))
    torch.testing.assert_close(y_BHWC, torch.zeros_like(y_BHWC), rtol=0, atol=1e-12)
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (1, 6), (6, 1)])
def test_an_initialized_model_is_a_distribution_with_the_same_passes(height, width):
    model = small_model("pixelcnn_pp", "discretized_logistic_mixture", 1, height, width)
    rng = torch.Generator().manual_seed(0)
    model.initialize(torch.randint(3, (16, *model.spec.shape), generator=rng))
    assert total_probability(model) == pytest.approx(1, abs=1e-9)
    x_BCHW = torch.randint(3, (4, *model.spec.shape), generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(by_pixel_passes(model, x_BCHW), model(x_BCHW), rtol=0, atol=1e-11)


def bits_after(model: PixelModel, x_NCHW: torch.Tensor, num_steps: int) -> float:
    """Bits/dim of images that the steps before have not seen."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=2e-3)
    for step in range(num_steps):
        optimizer.zero_grad()
        (-model.log_prob(x_NCHW[32 * step : 32 * step + 32]).mean() / 64).backward()
        optimizer.step()
    with torch.no_grad():
        return float(bits_per_dim(-model.log_prob(x_NCHW[-64:]).mean(), 64))


def test_an_initialized_model_begins_better_than_uniform_and_learns_faster():
    x_NCHW, _ = digits(32 * 12 + 64)
    fresh, initialized = digits_model(seed=1), digits_model(seed=1)
    initialized.initialize(x_NCHW[:32])
    assert bits_after(initialized, x_NCHW, 0) < math.log2(17)
    assert bits_after(initialized, x_NCHW, 12) < bits_after(fresh, x_NCHW, 12) - 0.1
