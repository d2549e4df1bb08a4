"""What is kept of a run beside its files: MLflow runs with their metrics and pictures, and the model registry."""

from __future__ import annotations

from pixelmodels.tracking.location import tracking_uri
from pixelmodels.tracking.runs import EXPERIMENT, Tracker

__all__ = ["EXPERIMENT", "Tracker", "tracking_uri"]
