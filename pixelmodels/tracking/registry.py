"""The model registry: trained models as MLflow pyfunc models, one registered model for each data set, a version for each run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelmodels.errors import MachineTrouble, UserError, first_line, unknown
from pixelmodels.models.context import ABSENT
from pixelmodels.models.files import AVERAGE, DESCRIPTION, WEIGHTS
from pixelmodels.storage import fitting
from pixelmodels.tracking.artifacts import download, names_in
from pixelmodels.tracking.client import already_exists, find, find_all, make
from pixelmodels.tracking.location import is_server, local_path
from pixelmodels.tracking.source import PACKAGE

if TYPE_CHECKING:
    from pixelmodels.tracking.runs import Tracker

CODE = "pixelmodels.zip"  # this package's source, in the folder `code` that MLflow puts on a model's path
MODEL_ARTIFACT = "model"  # name, and folder below `artifacts/`, of model.json and the weights
WEIGHT_FILES = (AVERAGE, WEIGHTS)  # in order of preference
WEIGHTS_TAG = "pixelmodels.weights_sha256"
MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))")
# What code below `pixelmodels` imports to load, sample and score; pinned to what is installed here.
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch")
CARD, PICTURE = "card.md", "samples.png"  # beside a model's weights: see `tracking.card`
_ATTEMPTS = 20
_MOST_DESCRIBED = 5000  # characters of a version's description in MLflow's database


def register(
    tracker: Tracker,
    run_id: str,
    model_folder: Path,
    registered_name: str,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
) -> str:
    """Log the model of a folder (`model.json` and weights) with a run, and make it the next version of a registered model.

    A card in the folder goes with it; `description` is the version's own, of which MLflow takes the first 5,000 characters.
    The average of the weights is taken where the folder has one. Doing it again with the same weights of the same run gives the same
    version. Returns the version. Raises `UserError` when the folder holds no model.
    """
    from mlflow.entities import LoggedModelOutput

    weights = _weights_of(model_folder)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    earlier = _version_of(tracker, run_id, registered_name, digest)
    if earlier is not None:
        return earlier
    all_tags = {**{key: str(value) for key, value in (tags or {}).items()}, WEIGHTS_TAG: digest}
    client = tracker.client
    model = client.create_logged_model(
        tracker.experiment_id, name=registered_name, source_run_id=run_id, tags=all_tags, model_type="pixelmodels"
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pyfunc"
            save_pyfunc(path, model_folder, model_id=model.model_id, run_id=run_id, artifact_path=model.artifact_location)
            client.log_model_artifacts(model.model_id, str(path))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, step=0)])
        return _create_version(tracker, registered_name, model, run_id, all_tags, _short(description))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise


def save_pyfunc(
    path: Path, model_folder: Path, *, model_id: str | None = None, run_id: str | None = None, artifact_path: str | None = None
) -> None:
    """Write an MLflow pyfunc model to a new local folder: plain files, the weights, and this package's own source beside them, packed."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ParamSchema, ParamSpec

    weights = _weights_of(model_folder)
    # No schema of inputs: images come as an array or a table, and not at all for sampling. `PixelModelPyfunc` checks them itself.
    signature = ModelSignature(
        params=ParamSchema(
            [
                ParamSpec("n", "long", 0),
                ParamSpec("seed", "long", 0),
                ParamSpec("label", "long", ABSENT),
                ParamSpec("label_name", "string", ""),
            ]
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / MODEL_ARTIFACT
        files.mkdir()
        for name in (DESCRIPTION, CARD, PICTURE):
            if (model_folder / name).is_file():
                shutil.copy(model_folder / name, files / name)
        shutil.copy(weights, files / WEIGHTS)
        code = Path(folder) / CODE
        _zip(PACKAGE, code)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about type hints and input examples
            save_model(
                path=str(path),
                python_model=str(PACKAGE / "tracking" / "pyfunc_entry.py"),
                artifacts={MODEL_ARTIFACT: str(files)},
                code_paths=[str(code)],
                signature=signature,
                pip_requirements=_requirements(),
                mlflow_model=Model(artifact_path=artifact_path, run_id=run_id, model_uuid=model_id, model_id=model_id),
            )


def _zip(package: Path, path: Path) -> None:
    """Pack the source of a package, the same source as the same bytes: one file goes to a server in one request, hundreds take minutes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.rglob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"{package.name}/{file.relative_to(package)}"), file.read_bytes(), zipfile.ZIP_DEFLATED)


def model_folder(tracker: Tracker, uri: str) -> Path:
    """Local folder with `model.json` and `model.safetensors` of `models:/name/3`, `models:/name/latest` or `models:/name@alias`.

    A model in a bucket or behind a server is fetched once for each user of this machine: a version never changes.
    Raises `UserError` for a name, version or alias that does not exist, with those that do, and for files that are gone; `MachineTrouble`
    where none can be kept here; what a store raises that cannot be reached goes through.
    """
    version = find_version(tracker, uri)
    location = tracker.client.get_model_version_download_uri(version.name, version.version)
    inside = f"artifacts/{MODEL_ARTIFACT}"
    local = local_path(location)
    if local is None:
        found = _fetch(tracker, f"{location.rstrip('/')}/{inside}", fitting(f"{version.name}-{version.version}", 255 - 17))
    else:
        found = local / inside if (local / inside / DESCRIPTION).is_file() else None
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
    registered = find(lambda: client.get_registered_model(name))
    if registered is None:
        names = [model.name for model in find_all(client.search_registered_models)]
        raise unknown("registered model", name, names, "train a model first (make train), or give the --storage that has it")
    if match["alias"] is not None:
        if match["alias"] not in registered.aliases:
            raise unknown(f"alias of registered model '{name}'", match["alias"], registered.aliases)
        return client.get_model_version_by_alias(name, match["alias"])
    versions = {str(one.version): one for one in entries_of(tracker, f"name = '{name}'")}
    wanted = match["version"]
    if wanted == "latest" and versions:
        wanted = max(versions, key=int)
    if wanted not in versions:
        raise unknown(f"version of registered model '{name}'", wanted, versions)
    return versions[wanted]


def entries_of(tracker: Tracker, condition: str) -> list[Any]:
    """MLflow's records of the versions that a condition in its language is true of."""
    return find_all(partial(tracker.client.search_model_versions, condition))


def _weights_of(model_folder: Path) -> Path:
    found = [model_folder / name for name in WEIGHT_FILES if (model_folder / name).is_file()]
    if not found or not (model_folder / DESCRIPTION).is_file():
        raise UserError(f"'{model_folder}' holds no model; give a folder with {DESCRIPTION} and {' or '.join(WEIGHT_FILES)}")
    return found[0]


def _version_of(tracker: Tracker, run_id: str, registered_name: str, digest: str) -> str | None:
    versions = entries_of(tracker, f"name = '{registered_name}' and run_id = '{run_id}'")
    return next((str(found.version) for found in versions if found.tags.get(WEIGHTS_TAG) == digest), None)


def _short(description: str | None) -> str | None:
    """A description as far as MLflow's database has room for it, cut between lines."""
    if description is None or len(description) <= _MOST_DESCRIBED:
        return description
    rest = "\n\nMore is in `card.md` beside the model's weights."
    return description[: _MOST_DESCRIBED - len(rest)].rpartition("\n")[0] + rest


def _create_version(tracker: Tracker, name: str, model: Any, run_id: str, tags: dict[str, str], description: str | None) -> str:
    client = tracker.client
    # A server looks the model up itself; without one MLflow would look for it in the database of its global state.
    source = f"models:/{model.model_id}" if is_server(tracker.uri) else model.artifact_location
    make(lambda: client.create_registered_model(name, description=f"Pixel models of the data set {name}; see any version's `predict`."))
    for attempt in range(_ATTEMPTS):  # processes that register at the same time compete for the next number
        try:
            made = client.create_model_version(
                name, source=source, run_id=run_id, tags=tags, model_id=model.model_id, await_creation_for=0, description=description
            )
            return str(made.version)
        except Exception as error:
            if attempt == _ATTEMPTS - 1 or not (already_exists(error) or "Model Version creation error" in str(error)):
                raise
    raise AssertionError("unreachable")


def _requirements() -> list[str]:
    """Pins of what is installed, without local build names such as `+cpu`, which no index knows."""
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]


def _fetch(tracker: Tracker, folder_uri: str, name: str) -> Path | None:
    """Download a model's folder into this user's cache, unless it is there; None when its files are gone from where they were."""
    place = hashlib.sha256(folder_uri.encode()).hexdigest()[:16]
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixelmodels" / "models"
        target = root / f"{name}-{place}"
        if (target / DESCRIPTION).is_file():
            return target
        root.mkdir(parents=True, exist_ok=True)
        fetching = tempfile.TemporaryDirectory(dir=root, prefix=".fetching-")
    except (OSError, RuntimeError) as error:
        remedy = "set XDG_CACHE_HOME to a folder that can be written"
        raise MachineTrouble(
            f"models of a server are kept on this machine, where nothing can be written ({first_line(error)}); {remedy}"
        ) from error
    with fetching as folder:
        names = names_in(tracker.uri, folder_uri)
        if DESCRIPTION not in names or names.isdisjoint(WEIGHT_FILES):
            return None
        got = download(tracker.uri, folder_uri, "", Path(folder) / "model")
        try:
            got.rename(target)
        except OSError:  # another process was faster
            if not (target / DESCRIPTION).is_file():
                raise
    return target
