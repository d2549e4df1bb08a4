"""Checkpoints of a run: a folder of plain files each, whole once its `checkpoint.json` is there and true.

    runs/<name>-<run key>/checkpoints/<step>/   model.safetensors      the weights that the optimizer changes
                                                average.safetensors    their running average
                                                optimizer.safetensors  Adam's moments, by the parameter's name
                                                model.json             what the model is built from
                                                state.json             recipe, step, place in the data, scores so far
                                                checkpoint.json        written last: sha256 of each file above

The newest folder whose files all have their digests is the one that a run goes on from. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pixelmodels.storage import Storage

CHECKPOINT = "checkpoint.json"
CHECKPOINTS = "checkpoints"  # folder of a run
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"  # beside a model's own files

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read whole and found true."""

    folder: str  # below the storage root
    step: int  # optimizer steps done
    files: dict[str, bytes]  # the content of each file, by its name

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one safetensors file, by name, on the CPU."""
        return load_tensors(self.files[name])

    def json(self, name: str) -> dict[str, Any]:
        """The content of one JSON file."""
        content: dict[str, Any] = json.loads(self.files[name])
        return content


class DamagedCheckpoint(Exception):
    """A checkpoint folder that is not whole; the message says what is wrong with it."""


def save(storage: Storage, run_folder: str, step: int, tensors: Mapping[str, Tensors], documents: Mapping[str, Any]) -> str:
    """Write a checkpoint of `step`: the files first, and `checkpoint.json` with their digests last.

    Args: `tensors`, by file name, tensors by name; `documents`, by file name, what becomes JSON. Returns its folder.
    """
    folder = folder_of(run_folder, step)
    storage.delete(folder)  # what a killed run may have left there
    contents = {
        name: save_tensors({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}) for name, group in tensors.items()
    }
    contents |= {name: json.dumps(document, indent=1).encode() for name, document in documents.items()}
    for name, content in contents.items():
        storage.write_bytes(f"{folder}/{name}", content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    storage.write_bytes(f"{folder}/{CHECKPOINT}", json.dumps({"step": step, "sha256": digests}, indent=1).encode())
    return folder


def load(storage: Storage, run_folder: str, step: int) -> Checkpoint:
    """Read the checkpoint of `step`; raises `DamagedCheckpoint` when a file is missing, cut short or changed."""
    return read(storage, folder_of(run_folder, step))


def read(storage: Storage, folder: str) -> Checkpoint:
    """Read the checkpoint in a folder; raises `DamagedCheckpoint` when a file is missing, cut short or changed."""
    try:
        manifest = json.loads(storage.read_bytes(f"{folder}/{CHECKPOINT}"))
        step, digests = int(manifest["step"]), manifest["sha256"]
        files = {name: storage.read_bytes(f"{folder}/{name}") for name in digests}
    except FileNotFoundError as error:
        raise DamagedCheckpoint("a file is missing: it was never finished") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{CHECKPOINT} cannot be read") from error
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise DamagedCheckpoint(f"{name} is cut short or changed")
    return Checkpoint(folder, step, files)


def latest(storage: Storage, run_folder: str, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; each newer one that is not is named in a line and passed over."""
    for step in reversed(steps(storage, run_folder)):
        try:
            return load(storage, run_folder, step)
        except DamagedCheckpoint as damage:
            say(f"checkpoint {storage.uri(folder_of(run_folder, step))} is damaged ({damage}); using the one before it")
    return None


def steps(storage: Storage, run_folder: str) -> list[int]:
    """Steps that have a folder, whole or not, in ascending order."""
    return sorted(int(name) for name in storage.list(f"{run_folder}/{CHECKPOINTS}") if name.isdigit())


def newest(storage: Storage, run_folder: str) -> int:
    """The newest step whose checkpoint was written to its end; 0 where there is none."""
    written = (step for step in reversed(steps(storage, run_folder)) if storage.is_file(f"{folder_of(run_folder, step)}/{CHECKPOINT}"))
    return next(written, 0)


def prune(storage: Storage, run_folder: str, keep: set[int]) -> None:
    """Remove the checkpoints of all steps but `keep`, whatever a killed run has left of them."""
    for step in steps(storage, run_folder):
        if step not in keep:
            folder = folder_of(run_folder, step)
            storage.delete(f"{folder}/{CHECKPOINT}")  # first, so that a half-removed folder is never taken for whole
            storage.delete(folder)


def folder_of(run_folder: str, step: int) -> str:
    """The folder of the checkpoint of `step`, below the storage root."""
    return f"{run_folder}/{CHECKPOINTS}/{step:08d}"


def is_folder_of_one(address: str) -> bool:
    """Whether a path or URI is that of a run's checkpoint, whole or not: half removed, it still is no model of another kind."""
    *_, parent, name = ["", "", *address.rstrip("/").split("/")]
    return parent == CHECKPOINTS and name.isdigit()
