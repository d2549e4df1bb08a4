"""The table of architectures, and models built by name: from configs, and from the plain values of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from pixelmodels.errors import UserError
from pixelmodels.likelihoods import LikelihoodConfig, build_likelihood
from pixelmodels.models.base import PixelModel
from pixelmodels.models.context import ContextSpec
from pixelmodels.plain import FieldsOf, construct, load
from pixelmodels.shapes import ImageSpec

ARCHITECTURES = {
    "gated_pixelcnn": "pixelmodels.models.gated_pixelcnn:GatedPixelCNN",
    "multiscale_pixelrnn": "pixelmodels.models.multiscale_pixelrnn:MultiscalePixelRNN",
    "pixelcnn": "pixelmodels.models.pixelcnn:PixelCNN",
    "pixelcnn_pp": "pixelmodels.models.pixelcnn_pp:PixelCNNPP",
    "pixelrnn_diagonal_bilstm": "pixelmodels.models.pixelrnn_diagonal_bilstm:PixelRNNDiagonalBiLSTM",
    "pixelrnn_row_lstm": "pixelmodels.models.pixelrnn_row_lstm:PixelRNNRowLSTM",
    "pixelsnail": "pixelmodels.models.pixelsnail:PixelSNAIL",
}


def architecture_class(name: str) -> type[PixelModel]:
    """The class registered under `name`; `UserError` with the choices if there is none."""
    found: type[PixelModel] = load(ARCHITECTURES, name, "model")
    return found


def config_class(name: str) -> type[Any]:
    """The config dataclass of a registered architecture."""
    return architecture_class(name).config_class


def architecture_of(config: Any) -> str:
    """The registered name of the architecture that a config belongs to."""
    home = f"{type(config).__module__}:"
    for name in sorted(ARCHITECTURES, key=lambda name: not ARCHITECTURES[name].startswith(home)):  # so that no other is imported
        if config_class(name) is type(config):
            return name
    raise TypeError(f"{type(config).__name__} is not the config of a registered architecture")


def build(config: Any, image_spec: ImageSpec, likelihood: LikelihoodConfig, context: ContextSpec = ContextSpec()) -> PixelModel:  # noqa: B008
    """A module with fresh weights, drawn from torch's global generator.

    Raises `UserError` where likelihood and images do not fit, or nobody orders the channels.
    """
    model_class = architecture_class(architecture_of(config))
    return model_class(config, image_spec, build_likelihood(likelihood, image_spec), context)


def config_to_plain(config: Any, fields_of: FieldsOf = fields) -> dict[str, Any]:
    """A config as plain JSON values: the name of its architecture, and its fields (those that are configs likewise).

    Args: `fields_of`, which fields of a config are given: all of them, unless told.
    """
    values = {field.name: getattr(config, field.name) for field in fields_of(config)}
    plain = {name: config_to_plain(value, fields_of) if is_dataclass(value) else value for name, value in values.items()}
    return {"architecture": architecture_of(config), "config": plain}


def config_from_plain(values: Mapping[str, Any]) -> Any:
    """The inverse of `config_to_plain`; `UserError` for an architecture or a field that this version does not know, or a wrong type."""
    if set(values) != {"architecture", "config"}:
        raise UserError(f"a model's config has the entries {', '.join(sorted(values))}; give exactly architecture, config")
    return _of_file(config_class(values["architecture"]), values["config"])


def describe(model: PixelModel) -> dict[str, Any]:
    """All that is needed to build the model again but its weights, and its classes' names, as plain JSON values."""
    later = {"class_names": (), "num_orders": 1}  # fields that models of before do not have, which stay described as they were
    context = {name: value for name, value in asdict(model.context_spec).items() if name not in later or value != later[name]}
    return {
        **config_to_plain(model.config),
        "image_spec": asdict(model.spec),
        "likelihood": asdict(model.likelihood.config),
        "context": context,
    }


def from_description(description: Mapping[str, Any]) -> PixelModel:
    """The inverse of `describe`, with fresh weights; `UserError` for a field that this version does not know, or a wrong type."""
    return build(
        config_from_plain({name: description[name] for name in ("architecture", "config")}),
        _of_file(ImageSpec, description["image_spec"]),
        _of_file(LikelihoodConfig, description["likelihood"]),
        _context_spec(description["context"]),
    )


def _context_spec(values: Mapping[str, Any]) -> ContextSpec:
    images = {name: _of_file(ImageSpec, values[name]) for name in ("image", "small") if values.get(name)}
    spec: ContextSpec = _of_file(ContextSpec, {name: value for name, value in values.items() if name not in images}, **images)
    return spec


def _of_file(kind: type[Any], values: Mapping[str, Any], **ready: Any) -> Any:
    strange = set(values) - {field.name for field in fields(kind)}
    if strange:
        raise UserError(f"{kind.__name__} has no field '{min(strange)}'; the model was saved by another version of pixelmodels")
    return construct(kind, values, kind.__name__, **ready)
