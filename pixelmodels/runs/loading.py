"""From what a user calls a model (a run, a checkpoint, a registered version) to the model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel
from pixelmodels.models.files import AVERAGE, DESCRIPTION, WEIGHTS, load_model
from pixelmodels.runs import checkpoints
from pixelmodels.runs.result import finished
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.client import is_of_mlflow, tracking_failure

REGISTERED = "models:/"


def locate(ref: str, storage: Storage) -> str:
    """Where the model that `ref` names is: the path or URI of a folder with its files, or a registered version.

    Args: `ref`, a run's or checkpoint's folder (a local path, an s3:// URI, or below the root of `storage`), or a registered version
    (`models:/name/3`, `models:/name@alias`). A finished run stands for the checkpoint that was tested, another one for its newest.
    Raises `UserError` when there is no such model.
    """
    if ref.startswith(REGISTERED):
        return ref
    place = next((place for place in _places(ref, storage) if place.exists()), None)
    if place is None:
        raise UserError(
            f"model '{ref}' not found; give the folder of a run or a checkpoint, or a registered version such as models:/digits/1"
        )
    if place.exists(checkpoints.CHECKPOINTS):
        return place.uri(checkpoints.folder_of("", _step_of(place)))
    if place.exists(DESCRIPTION):
        return place.uri()
    raise UserError(f"'{place.root}' holds no model; give the folder of a run or a checkpoint")


def find_model(ref: str, storage: Storage, tracker: Tracker | None = None) -> PixelModel:
    """The model that `ref` names (see `locate`), on the CPU in evaluation mode, with its averaged weights.

    Args: `tracker`, where registered versions are looked up; the one that this process's environment gives, unless given.
    Raises `UserError` when there is no such model or its files are damaged.
    """
    found = locate(ref, storage)
    if found.startswith(REGISTERED):
        return load_model(_registered(found, tracker or Tracker(storage)))
    place, files = Storage(found), {}
    if place.exists(checkpoints.CHECKPOINT) or checkpoints.is_folder_of_one(place.root):
        try:
            files = checkpoints.read(place, "").files  # what is loaded is what was checked
        except checkpoints.DamagedCheckpoint as damage:
            raise UserError(f"checkpoint '{found}' is damaged ({damage}); give the one before it, or the run's folder") from damage
    with TemporaryDirectory() as local:
        for name in (DESCRIPTION, AVERAGE, WEIGHTS):
            if name in files or place.exists(name):
                (Path(local) / name).write_bytes(files[name] if name in files else place.read_bytes(name))
        return load_model(Path(local))


def _registered(uri: str, tracker: Tracker) -> Path:
    """The folder of a registered version; raises `UserError` also where MLflow fails before it tells whether there is one."""
    try:
        return registry.model_folder(tracker, uri)
    except UserError:
        raise
    except Exception as error:
        if not is_of_mlflow(error):
            raise
        raise tracking_failure(tracker.uri, error) from error


def _places(ref: str, storage: Storage) -> list[Storage]:
    """Where a folder of this name may be: as it stands, and below the storage root."""
    inside = [] if "://" in ref or ref.startswith("/") or ".." in ref.split("/") else [Storage(storage.uri(ref))]
    return [Storage(ref), *inside]


def _step_of(run: Storage) -> int:
    result = finished(run, "")
    if result is not None:
        return result.best_step
    newest = checkpoints.latest(run, "", print)
    if newest is None:
        raise UserError(f"run '{run.root}' has no whole checkpoint yet; let it train, or give another model")
    return newest.step
