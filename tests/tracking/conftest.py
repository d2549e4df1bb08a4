"""One tracking database for all tests of this folder: making its tables takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pixelmodels.data import Dataset
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.files import save_model
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker

SPEC = ImageSpec(channels=1, height=4, width=3, levels=5)
NUM_CLASSES = 3


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    made = Tracker(Storage(str(tmp_path_factory.mktemp("tracking"))))
    made.check()
    return made


@pytest.fixture
def dataset(tracker: Tracker) -> Dataset:
    """What a manifest says; there are no images."""
    splits = {split: {"num_images": count, "shards": []} for split, count in (("train", 90), ("validation", 5), ("test", 7))}
    manifest = {
        "name": "tiny",
        "fingerprint": "0123456789ab",
        "image": {"channels": 1, "height": 4, "width": 3, "levels": 5},
        "label_names": ["a", "b", "c"],
        "splits": splits,
    }
    return Dataset(tracker.storage, "datasets/tiny-0123456789ab", manifest)


def small_model(num_classes: int = 0, seed: int = 0, **context: Any) -> PixelModel:
    torch.manual_seed(seed)
    config = GatedPixelCNNConfig(num_layers=2, num_features=6, head_features=8)
    return build(config, SPEC, LikelihoodConfig("categorical"), ContextSpec(num_classes, **context)).eval()


def model_files(folder: Path, num_classes: int = 0, seed: int = 0, **context: Any) -> tuple[PixelModel, Path]:
    """A small model and the folder that it was saved to."""
    model = small_model(num_classes, seed, **context)
    save_model(folder, model)
    return model, folder
