"""A model as files: `model.json` says how to build it, `*.safetensors` hold its weights. No pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelmodels.errors import UserError, lacks_memory
from pixelmodels.models.base import PixelModel
from pixelmodels.models.registry import describe, from_description

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
    path = folder / AVERAGE if (folder / AVERAGE).exists() else folder / WEIGHTS
    for needed in (folder / DESCRIPTION, path):
        if not needed.is_file():
            raise UserError(f"{needed} is missing; give a folder that holds {DESCRIPTION} and {WEIGHTS}")
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        state = load_file(path)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"the model in {folder} cannot be read ({error}); give a complete one") from error
    try:
        model = from_description(description).to(next(value.dtype for value in state.values() if value.is_floating_point()))
        model.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{folder / DESCRIPTION}: {error}") from error
    except (KeyError, TypeError, RuntimeError, StopIteration) as error:
        if lacks_memory(error):
            raise
        why = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(f"the weights in {path} do not fit {DESCRIPTION} beside them ({why[0].strip()}); give a complete model") from error
    return model.eval()
