"""Models found by whatever names them, through the registry that the driver sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelmodels.models import PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.storage import Storage
from pixelmodels.training.evaluate_run import Scorer
from pixelmodels.training.loop import build_model
from tests.training.tiny_run import TinyDataset, tiny_plan


class Registry:
    """A tracker whose registered versions are one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model_folder(self, uri: str) -> Path:
        assert uri == "models:/tiny/3"
        return self.folder


def test_an_actor_looks_versions_up_where_the_driver_does(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(tiny_plan(storage))
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", model)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")  # of the actor's host
    scorer = Scorer("models:/tiny/3", TinyDataset(), Registry(tmp_path / "model"))  # type: ignore[arg-type]
    assert isinstance(scorer._model, PixelModel) and scorer._model.config == model.config
