"""PixelCNN++ against a public PyTorch port: the same parameters, the same likelihoods, weights carried over by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import build
from pixelmodels.models.pixelcnn_pp import PixelCNNPPConfig, from_port, port_names
from pixelmodels.shapes import ImageSpec

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
