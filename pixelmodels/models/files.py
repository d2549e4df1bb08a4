"""A model as files: `model.json` says how to build it, `*.safetensors` hold its weights. No pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel, describe, from_description

DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"  # as the optimizer left them
AVERAGE = "average.safetensors"  # their running (Polyak) average: what is evaluated and sampled, where there is one


def save_model(folder: Path, model: PixelModel, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a model into a local folder; `weights` replace the module's own where given."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if weights is None else weights
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(describe(model), indent=2))


def load_model(folder: Path) -> PixelModel:
    """The model in a local folder, on the CPU in evaluation mode, with its averaged weights where there are any.

    Raises `UserError` where files are missing, cut short, or do not fit together.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        path = folder / AVERAGE if (folder / AVERAGE).exists() else folder / WEIGHTS
        state = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; give a folder that holds {DESCRIPTION} and {WEIGHTS}") from error
    except (json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"the model in {folder} cannot be read ({error}); give a complete one") from error
    model = from_description(description)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise UserError(f"the weights in {path} do not fit {DESCRIPTION} beside them (first: {[*missing, *unexpected][0]})")
    return model.eval()
