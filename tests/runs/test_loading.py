"""Models found by whatever names them, through the registry that the driver sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelmodels.errors import UserError
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.evaluate import Scorer
from pixelmodels.models import PixelModel
from pixelmodels.models.files import save_model
from pixelmodels.models.registry import describe
from pixelmodels.runs import checkpoints
from pixelmodels.runs.loading import find_model
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.training.plan import build_model
from tests.training.tiny_run import TinyDataset, tiny_plan


def test_an_actor_looks_versions_up_where_the_driver_does(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(tiny_plan(storage))
    save_model(tmp_path / "model", model)
    tracker = Tracker(storage)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")  # of the actor's host
    folders = {("models:/tiny/3", tracker.uri): tmp_path / "model"}
    monkeypatch.setattr(registry, "model_folder", lambda asked, uri: folders[uri, asked.uri])
    scorer = Scorer(Actors("models:/tiny/3", tracker), TinyDataset())
    assert isinstance(scorer._model, PixelModel) and scorer._model.config == model.config


@pytest.mark.parametrize("gone", [["checkpoint.json"], ["checkpoint.json", "average.safetensors"], ["average.safetensors"], ["model.json"]])
def test_a_checkpoint_that_is_half_removed_is_no_model(gone: list[str], storage: Storage) -> None:
    """Its weights without their average would be another model than the one that was trained."""
    plan = tiny_plan(storage)
    weights = build_model(plan).state_dict()
    documents = {"model.json": describe(build_model(plan))}
    folder = checkpoints.save(storage, "runs/one", 7, {"model.safetensors": weights, "average.safetensors": weights}, documents)
    assert isinstance(find_model(folder, storage), PixelModel) and isinstance(find_model("runs/one", storage), PixelModel)
    for name in gone:
        storage.delete(f"{folder}/{name}")
    with pytest.raises(UserError, match=r"damaged|holds no model"):
        find_model(folder, storage)
    with pytest.raises(UserError, match="no whole checkpoint"):
        find_model("runs/one", storage)
