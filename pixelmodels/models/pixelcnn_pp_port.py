"""Weights of public PyTorch ports of PixelCNN++, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.linalg import vector_norm

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig, build_likelihood
from pixelmodels.models.context import ContextSpec
from pixelmodels.models.pixelcnn_pp import NUM_LEVELS, PixelCNNPP, PixelCNNPPConfig
from pixelmodels.shapes import ImageSpec


def from_port(state_dict: Mapping[str, Tensor], *, channels: int, height: int, width: int) -> PixelCNNPP:
    """The model whose weights a public PyTorch port of PixelCNN++ saved (256 levels), in the type of its weights.

    Raises `UserError` where the names or shapes are not those of such a port.
    """
    try:
        num_outputs, num_features = state_dict["nin_out.lin_a.weight_v"].shape
    except (KeyError, ValueError) as error:
        raise UserError(
            "the weights have no matrix 'nin_out.lin_a.weight_v'; give the state_dict of a PixelCNN++ port, with weight_g and weight_v and "
            "without a prefix such as 'module.'"
        ) from error
    num_layers = len({name.split(".")[3] for name in state_dict if name.startswith("up_layers.0.u_stream.")})
    num_mixtures = num_outputs // (3 if channels == 1 else 1 + 3 * channels)
    spec = ImageSpec(channels, height, width, 256)
    likelihood = build_likelihood(LikelihoodConfig("discretized_logistic_mixture", num_mixtures), spec)
    model = PixelCNNPP(PixelCNNPPConfig(num_layers, num_features), spec, likelihood, ContextSpec())
    names = port_names(num_layers)
    strange = set(state_dict) ^ set(names)
    if strange:
        raise UserError(
            f"'{min(strange)}' is in only one of port and model; give the weights of a PixelCNN++ port with {channels} channel(s)"
        )
    model = model.to(state_dict["nin_out.lin_a.weight_v"].dtype)
    try:
        model.load_state_dict({names[name]: value for name, value in _gains_by_output(state_dict).items()})
    except (RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"the port's weights do not fit: {str(error).splitlines()[-1].strip()}") from error
    return model.eval()


def _gains_by_output(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the gains of transposed convolutions along their outputs, which the port has along their inputs."""
    state = dict(state_dict)
    for name in state_dict:
        if name.endswith("deconv.weight_g"):
            direction_IOHW = state_dict[name[:-1] + "v"]
            weight_IOHW = direction_IOHW * (state_dict[name] / vector_norm(direction_IOHW, dim=(1, 2, 3), keepdim=True))
            state[name], state[name[:-1] + "v"] = vector_norm(weight_IOHW, dim=(0, 2, 3), keepdim=True), weight_IOHW
    return state


def port_names(num_layers: int) -> dict[str, str]:
    """The port's name of every tensor to this module's."""
    layers = {"u_init.conv": "u_init", "ul_init.0.conv": "ul_init_above", "ul_init.1.conv": "ul_init_left", "nin_out.lin_a": "output"}
    level = "level"
    for i in range(NUM_LEVELS):
        up_index = NUM_LEVELS - 1 - i  # the port counts its way up from the coarsest level
        num_up = num_layers + (i < NUM_LEVELS - 1)
        for theirs, ours, count in ((f"up_layers.{i}", "down", num_layers), (f"down_layers.{up_index}", "up", num_up)):
            for stream, j in ((stream, j) for stream in ("u", "ul") for j in range(count)):
                there, here = f"{theirs}.{stream}_stream.{j}", f"{level}.{ours}_{stream}.{j}"
                layers |= {f"{there}.conv_input.conv": f"{here}.conv_input", f"{there}.conv_out.conv": f"{here}.conv_out"}
                if stream == "ul" or ours == "up":
                    layers[f"{there}.nin_skip.lin_a"] = f"{here}.nin_skip"
        if i < NUM_LEVELS - 1:
            for stream in ("u", "ul"):
                layers[f"downsize_{stream}_stream.{i}.conv"] = f"{level}.shrink_{stream}"
                layers[f"upsize_{stream}_stream.{up_index - 1}.deconv"] = f"{level}.grow_{stream}"
        level += ".inner"
    parts = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1", "bias": "bias"}
    return {f"{there}.{part}": f"{here}.{name}" for there, here in layers.items() for part, name in parts.items()}
