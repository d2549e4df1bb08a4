"""One registry with a few tiny models, and one application of two samplers, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.files import save_model
from pixelmodels.models.gated_pixelcnn import GatedPixelCNNConfig
from pixelmodels.serving import keys
from pixelmodels.serving.client import Client
from pixelmodels.serving.settings import Settings
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.registry import register

SPEC = ImageSpec(channels=1, height=6, width=5, levels=7)
KEY = "pm_test-key"
NAME = "tiny"
FULL = "full"  # the model that is conditioned on everything
IMAGE, SMALL = ImageSpec(1, 6, 5, 256), ImageSpec(1, 3, 3, 7)  # that it is given


def small_model(seed: int, num_layers: int = 2) -> PixelModel:
    """A class-conditional model of 6 x 5 images, in float64: the same images in any batch."""
    torch.manual_seed(seed)
    config = GatedPixelCNNConfig(num_layers=num_layers, num_features=6, head_features=8)
    return build(config, SPEC, LikelihoodConfig("categorical"), ContextSpec(num_classes=3)).double().eval()


def full_model(seed: int) -> PixelModel:
    """A model that is conditioned on a class, a vector, an image and a small image, in float64."""
    torch.manual_seed(seed)
    config = GatedPixelCNNConfig(num_layers=2, num_features=6, head_features=8)
    given = ContextSpec(num_classes=3, vector_size=2, image=IMAGE, small=SMALL)
    return build(config, SPEC, LikelihoodConfig("categorical"), given).double().eval()


@dataclass
class Registry:
    """The registry that is served, and the models of its versions."""

    tracker: Tracker
    run_id: str
    folder: Path
    models: dict[str, PixelModel]  # by version; by name/version where the name is another one

    def add(self, model: PixelModel, name: str = NAME) -> str:
        """Register a model; its version."""
        files = self.folder / f"model-{len(self.models)}"
        save_model(files, model)
        version = str(register(self.tracker, self.run_id, files, name, {}))
        self.models[version if name == NAME else f"{name}/{version}"] = model
        return version

    def point(self, alias: str, version: str) -> None:
        """Set an alias."""
        self.tracker.client.set_registered_model_alias(NAME, alias, version)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("serving")
    tracker = Tracker(Storage(str(folder / "storage")))
    tracker.check()
    made = Registry(tracker, tracker.start_parent("serving", {}), folder, {})
    for seed, num_layers in enumerate((2, 2, 32)):  # the third is slow
        made.add(small_model(seed, num_layers))
    made.point("champion", "1")
    made.add(full_model(0), FULL)
    return made


def settings_of(registry: Registry, **changes: object) -> Settings:
    given: dict[str, object] = {
        "model": NAME,
        "storage": registry.tracker.storage.root,
        "cpus": 1,
        "speculation": "off",
        "slots": 8,
        "max_waiting": 64,
        "max_n": 64,
        "max_stream_rows_n": 8,
        "max_models": 2,
        "poll_s": 0.3,
        "max_image_bytes": 150_000,
        "max_body_bytes": 500_000,
        "body_timeout_s": 3.0,
        "drain_s": 10.0,
        "key_hashes": (keys.hash_of(KEY),),
    }
    return Settings(**{**given, **changes})  # type: ignore[arg-type]


@dataclass
class Service:
    """The application over HTTP."""

    client: Client
    host: str
    port: int
    registry: Registry
    handle: Any
    path: str = ""  # below which it is served


@pytest.fixture(scope="session")
def service(ray_cluster: None, registry: Registry) -> Iterator[Service]:
    from pixelmodels.serving import serve

    port = serve.free_port("127.0.0.1", 0)
    handle = serve.start(settings_of(registry, replicas=2, others=(FULL,)), "127.0.0.1", port)
    yield Service(Client(f"http://127.0.0.1:{port}", KEY, timeout_s=60), "127.0.0.1", port, registry, handle)
    serve.end()
