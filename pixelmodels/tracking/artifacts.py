"""The files that MLflow keeps with runs and models: what is gone is told apart from a store that cannot be reached."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from pixelmodels.tracking.client import find, patiently


def names_in(tracking_uri: str, folder_uri: str) -> set[str]:
    """Names of what lies in a folder of artifacts; none when there is no such folder, or no such bucket.

    Raises what the store raises when it cannot be reached or gives no answer.
    """
    found = find(lambda: patiently(lambda: _repository(tracking_uri, folder_uri).list_artifacts()))
    return {posixpath.basename(entry.path) for entry in found or ()}


def download(tracking_uri: str, folder_uri: str, name: str, into: Path) -> Path:
    """Copy a file of a folder of artifacts (`name` empty: all that is in it) into a local folder, which is made; returns the copy.

    Raises what the store raises, of a file that is gone too: ask `names_in` first, because not every store's error tells it.
    """
    into.mkdir(parents=True, exist_ok=True)
    return Path(patiently(lambda: _repository(tracking_uri, folder_uri).download_artifacts(name, str(into))))


def _repository(tracking_uri: str, folder_uri: str) -> Any:
    """MLflow's access to a folder. Its functions that take the whole address of a file read `#` and `?` of a local one as no part of it."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(folder_uri, tracking_uri=tracking_uri)
