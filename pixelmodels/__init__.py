"""Autoregressive pixel models: exact likelihoods, exact samples, trained on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixelmodels.models import PixelModel

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path_or_uri: str, storage: str | None = None) -> PixelModel:
    """The model of a run, a checkpoint or a registered version, on the CPU in evaluation mode.

    `path_or_uri` is a run's or checkpoint's folder (local or s3://), or `models:/name/3` or `models:/name@alias`;
    the registry is the one of the storage root (the folder `storage` unless given) or MLFLOW_TRACKING_URI.
    Averaged weights are taken where there are any. Raises `UserError` where there is no such model.
    """
    from pixelmodels.runs.loading import find_model
    from pixelmodels.storage import DEFAULT_STORAGE, Storage

    return find_model(str(path_or_uri), Storage(storage or DEFAULT_STORAGE))
