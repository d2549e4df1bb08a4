"""The model registry: trained models as MLflow pyfunc models, one registered model for each data set, a version for each run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelmodels.errors import UserError, unknown
from pixelmodels.tracking.artifacts import download, names_in
from pixelmodels.tracking.client import already_exists, is_missing, patiently
from pixelmodels.tracking.location import is_server
from pixelmodels.tracking.source import PACKAGE

if TYPE_CHECKING:
    from pixelmodels.tracking.runs import Tracker

MODEL_ARTIFACT = "model"  # name, and folder below `artifacts/`, of model.json and the weights
NO_LABEL = -1  # `label` of a pyfunc call without one
DESCRIPTION_FILE = "model.json"
WEIGHT_FILES = ("average.safetensors", "model.safetensors")  # in order of preference
WEIGHTS_TAG = "pixelmodels.weights_sha256"
MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))")
# What code below `pixelmodels` imports to load, sample and score; pinned to what is installed here.
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch")
_ATTEMPTS = 20


def register(tracker: Tracker, run_id: str, model_folder: Path, registered_name: str, tags: dict[str, str]) -> str:
    """Log the model of a folder (`model.json` and weights) with a run, and make it the next version of a registered model.

    The average of the weights is taken where the folder has one. Doing it again with the same weights of the same run gives the same
    version. Returns the version. Raises `UserError` when the folder holds no model.
    """
    weights = _weights_of(model_folder)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    earlier = _version_of(tracker, run_id, registered_name, digest)
    if earlier is not None:
        return earlier
    all_tags = {**{key: str(value) for key, value in tags.items()}, WEIGHTS_TAG: digest}
    client = tracker.client
    model = patiently(
        lambda: client.create_logged_model(
            tracker.experiment_id, name=registered_name, source_run_id=run_id, tags=all_tags, model_type="pixelmodels"
        )
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pyfunc"
            save_pyfunc(path, model_folder, model_id=model.model_id, run_id=run_id, artifact_path=model.artifact_location)
            patiently(lambda: client.log_model_artifacts(model.model_id, str(path)))
        patiently(lambda: client.finalize_logged_model(model.model_id, "READY"))
        patiently(lambda: client.log_outputs(run_id, models=[_output(model.model_id)]))
        return _create_version(tracker, registered_name, model, run_id, all_tags)
    except BaseException:
        patiently(lambda: client.finalize_logged_model(model.model_id, "FAILED"))
        raise


def save_pyfunc(
    path: Path, model_folder: Path, *, model_id: str | None = None, run_id: str | None = None, artifact_path: str | None = None
) -> None:
    """Write an MLflow pyfunc model to a new local folder: plain files, the weights, and this package's own source beside them."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ParamSchema, ParamSpec

    weights = _weights_of(model_folder)
    # No schema of inputs: images come as an array or a table, and not at all for sampling. `PixelModelPyfunc` checks them itself.
    signature = ModelSignature(
        params=ParamSchema([ParamSpec("n", "long", 0), ParamSpec("seed", "long", 0), ParamSpec("label", "long", NO_LABEL)]),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / MODEL_ARTIFACT
        files.mkdir()
        shutil.copy(model_folder / DESCRIPTION_FILE, files / DESCRIPTION_FILE)
        shutil.copy(weights, files / "model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about type hints and input examples
            save_model(
                path=str(path),
                python_model=str(PACKAGE / "tracking" / "pyfunc_entry.py"),
                artifacts={MODEL_ARTIFACT: str(files)},
                code_paths=[str(PACKAGE)],
                signature=signature,
                pip_requirements=_requirements(),
                mlflow_model=Model(artifact_path=artifact_path, run_id=run_id, model_uuid=model_id, model_id=model_id),
            )
    for cache in path.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)


def model_folder(tracker: Tracker, uri: str) -> Path:
    """Local folder with `model.json` and `model.safetensors` of `models:/name/3`, `models:/name/latest` or `models:/name@alias`.

    A model in a bucket or behind a server is fetched once for each user of this machine: a version never changes.
    Raises `UserError` for a name, version or alias that does not exist, with those that do, and for files that are gone; what a store
    raises that cannot be reached goes through.
    """
    version = find_version(tracker, uri)
    client = tracker.client
    location = patiently(lambda: client.get_model_version_download_uri(version.name, version.version))
    inside = f"artifacts/{MODEL_ARTIFACT}"
    local = Path(location.removeprefix("file://")) if location.startswith(("/", "file://")) else None
    if local is None:
        found = _fetch(tracker, f"{location.rstrip('/')}/{inside}", f"{version.name}-{version.version}")
    else:
        found = local / inside if (local / inside / DESCRIPTION_FILE).is_file() else None
    if found is None:
        remedy = "register the model again, or bring the storage root back to its place"
        raise UserError(f"the files of '{uri}' are gone from '{local or location}'; {remedy}")
    return found


def find_version(tracker: Tracker, uri: str) -> Any:
    """MLflow's record of the version that an address names; raises `UserError` with the choices."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        raise UserError(f"'{uri}' does not name a registered model; give models:/name/version, models:/name/latest or models:/name@alias")
    client, name = tracker.client, match["name"]
    try:
        registered = patiently(lambda: client.get_registered_model(name))
    except Exception as error:
        if not is_missing(error):
            raise
        raise unknown("registered model", name, [model.name for model in patiently(client.search_registered_models)]) from None
    if match["alias"] is not None:
        if match["alias"] not in registered.aliases:
            raise unknown(f"alias of registered model '{name}'", match["alias"], registered.aliases)
        return patiently(lambda: client.get_model_version_by_alias(name, match["alias"]))
    versions = {str(found.version): found for found in patiently(lambda: client.search_model_versions(f"name = '{name}'"))}
    wanted = match["version"]
    if wanted == "latest" and versions:
        wanted = max(versions, key=int)
    if wanted not in versions:
        raise unknown(f"version of registered model '{name}'", wanted, versions)
    return versions[wanted]


def _weights_of(model_folder: Path) -> Path:
    found = [model_folder / name for name in WEIGHT_FILES if (model_folder / name).is_file()]
    if not found or not (model_folder / DESCRIPTION_FILE).is_file():
        raise UserError(f"'{model_folder}' holds no model; give a folder with {DESCRIPTION_FILE} and {' or '.join(WEIGHT_FILES)}")
    return found[0]


def _version_of(tracker: Tracker, run_id: str, registered_name: str, digest: str) -> str | None:
    condition = f"name = '{registered_name}' and run_id = '{run_id}'"
    versions = patiently(lambda: tracker.client.search_model_versions(condition))
    return next((str(found.version) for found in versions if found.tags.get(WEIGHTS_TAG) == digest), None)


def _create_version(tracker: Tracker, name: str, model: Any, run_id: str, tags: dict[str, str]) -> str:
    client = tracker.client
    # A server looks the model up itself; without one MLflow would look for it in the database of its global state.
    source = f"models:/{model.model_id}" if is_server(tracker.uri) else model.artifact_location
    try:
        patiently(
            lambda: client.create_registered_model(name, description=f"Pixel models of the data set {name}; see any version's `predict`.")
        )
    except Exception as error:
        if not already_exists(error):
            raise
    for attempt in range(_ATTEMPTS):  # processes that register at the same time compete for the next number
        try:
            made = patiently(
                lambda: client.create_model_version(
                    name, source=source, run_id=run_id, tags=tags, model_id=model.model_id, await_creation_for=0
                )
            )
            return str(made.version)
        except Exception as error:
            if attempt == _ATTEMPTS - 1 or not (already_exists(error) or "Model Version creation error" in str(error)):
                raise
    raise AssertionError("unreachable")


def _output(model_id: str) -> Any:
    from mlflow.entities import LoggedModelOutput

    return LoggedModelOutput(model_id, step=0)


def _requirements() -> list[str]:
    """Pins of what is installed, without local build names such as `+cpu`, which no index knows."""
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]


def _fetch(tracker: Tracker, folder_uri: str, name: str) -> Path | None:
    """Download a model's folder into this user's cache, unless it is there; None when its files are gone from where they were."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixelmodels" / "models"
    place = hashlib.sha256(folder_uri.encode()).hexdigest()[:16]
    target = root / f"{name}-{place}"
    if (target / DESCRIPTION_FILE).is_file():
        return target
    names = names_in(tracker, folder_uri)
    if DESCRIPTION_FILE not in names or names.isdisjoint(WEIGHT_FILES):
        return None
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as folder:
        got = download(tracker, folder_uri, "", Path(folder) / "model")
        try:
            got.rename(target)
        except OSError:  # another process was faster
            if not (target / DESCRIPTION_FILE).is_file():
                raise
    return target
