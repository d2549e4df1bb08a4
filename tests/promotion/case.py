"""A data set of small structured images on disk, models trained on it for a moment, and versions of them in a real registry."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixelmodels.data import Dataset
from pixelmodels.data.dataset import FORMAT_VERSION
from pixelmodels.data.rows import Rows
from pixelmodels.data.shards import encode_shard
from pixelmodels.evaluation.nats import nats_table
from pixelmodels.evaluation.scores import score_rows, summarize
from pixelmodels.likelihoods import LikelihoodConfig
from pixelmodels.models import ContextSpec, PixelModel, build
from pixelmodels.models.context_images import context_of
from pixelmodels.models.pixelcnn import PixelCNNConfig
from pixelmodels.promotion.options import Promote
from pixelmodels.promotion.outcome import Decision
from pixelmodels.promotion.promote import promote
from pixelmodels.runs.result import RunResult
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.training.finish import publish
from pixelmodels.training.plan import RunPlan
from tests.training.tiny_run import tiny_recipe

SPEC = ImageSpec(1, 4, 3, 5)
SIZES = {"train": 96, "validation": 8, "test": 48}
SMALL = {"num_layers": 1, "num_features": 6, "first_kernel_size": 3, "head_features": 8}
CPU = torch.device("cpu")


def write_dataset(storage: Storage, fingerprint: str, seed: int = 0) -> Dataset:
    """A prepared data set `tiny`: each pixel is likely to be as the one above it."""
    folder, splits = f"datasets/tiny-{fingerprint}", {}
    for number, (split, size) in enumerate(SIZES.items()):
        rng = np.random.default_rng([seed, number])
        images_NHWC = rng.integers(0, SPEC.levels, (size, SPEC.height, SPEC.width, 1)).astype(np.uint8)
        for row in range(1, SPEC.height):
            kept = rng.random((size, SPEC.width, 1)) < 0.8
            images_NHWC[:, row][kept] = images_NHWC[:, row - 1][kept]
        data = encode_shard(images_NHWC, [None] * size, [f"{split}/{seed}/{i}" for i in range(size)], SPEC.levels)
        storage.write_bytes(f"{folder}/{split}-00000.parquet", data)
        shard = {"file": f"{split}-00000.parquet", "num_images": size, "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        splits[split] = {"num_images": size, "num_unlabelled": size, "shards": [shard]}
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": "tiny",
        "fingerprint": fingerprint,
        "image": dataclasses.asdict(SPEC),
        "label_names": [],
        "train_images_are_grey": False,
        "skipped": {"count": 0},
        "splits": splits,
    }
    storage.write_bytes(f"{folder}/manifest.json", json.dumps(manifest).encode())
    return Dataset.load(storage, folder)


def trained(
    dataset: Dataset,
    steps: int,
    config: Any = PixelCNNConfig(**SMALL),  # type: ignore[arg-type]  # noqa: B008
    seed: int = 0,
    context: ContextSpec = ContextSpec(),  # noqa: B008
) -> PixelModel:
    """A model after some steps on all train images, each of one size for all weights: `torch.optim` takes a second to be imported."""
    torch.manual_seed(seed)
    model = build(config, dataset.spec, LikelihoodConfig("categorical"), context)
    x_BCHW = torch.from_numpy(dataset.read("train").images_NCHW).long()
    given = context_of(context, x_BCHW)
    for _ in range(steps):
        weights = list(model.parameters())
        loss = -model.log_prob(x_BCHW, given).mean()
        for weight, grad in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            weight.data -= 1e-2 * (0 if grad is None else grad.sign())
    return model.eval()


def nats_of(model: PixelModel, dataset: Dataset) -> np.ndarray:
    """Nats of each test image."""
    return score_rows(model, Rows(dataset.read("test").images_NCHW), CPU)


def registered(
    tracker: Tracker,
    dataset: Dataset,
    name: str,
    model: PixelModel,
    recipe: str,
    nll_nats_N: np.ndarray | None = None,
    condition_on: tuple[str, ...] = (),
) -> str:
    """The number of a new version, published as a finished run does it; `nll_nats_N`, what it says of itself (the truth unless given)."""
    nll_nats_N = nats_of(model, dataset) if nll_nats_N is None else nll_nats_N
    scores = summarize(nll_nats_N, dataset.spec.num_subpixels)
    run_key = hashlib.sha256(f"{name} {recipe}".encode()).hexdigest()[:10]
    run_id = tracker.start_or_resume_child(recipe, parent_run_id=None, run_key=run_key, params={}, dataset=dataset)
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(RunResult)}
    values |= {"name": recipe, "run_key": run_key, "dataset": f"{dataset.name}-{dataset.fingerprint}", "architecture": "pixelcnn"}
    values |= {"test_nll_nats": scores.nll_nats, "test_bits_per_dim": scores.bits_per_dim, "mlflow_run_id": run_id}
    of_kinds = tiny_recipe(name=recipe, condition_on=condition_on)
    plan = RunPlan(of_kinds, dataset, dataset.storage, run_key, tracker, run_id, registered_name=name)
    result = publish(plan, RunResult(**values), model, nats_table(dataset.read("test").keys, None, nll_nats_N, dataset.spec.num_subpixels))
    tracker.finish(run_id)
    assert result.model_version is not None
    return result.model_version


def decide(tracker: Tracker, name: str, version: str | None = None, **options: object) -> Decision:
    """What `promote` makes of a version, with few resamples."""
    given = {"version": None if version is None else int(version), "name": name, "storage": tracker.storage.root, "resamples": 1000}
    return promote(Promote(**{**given, **options}))  # type: ignore[arg-type]


def make_champion(tracker: Tracker, name: str, version: str) -> None:
    """As a user does it by hand: nothing is checked."""
    tracker.client.set_registered_model_alias(name, "champion", version)


def state_of(tracker: Tracker, name: str) -> dict[str, Any]:
    """All that a decision may change of a registered model: aliases, its tags and its versions', and how many runs there are."""
    client = tracker.client
    model = client.get_registered_model(name)
    tags = {str(one.version): dict(one.tags) for one in client.search_model_versions(f"name = '{name}'")}
    runs = len(client.search_runs([tracker.experiment_id], max_results=1000))
    return {"aliases": {key: str(value) for key, value in model.aliases.items()}, "tags": model.tags, "versions": tags, "runs": runs}


def files_of(tracker: Tracker, run_id: str, folder: Path) -> dict[str, bytes]:
    """A run's artifacts."""
    local = Path(tracker.client.download_artifacts(run_id, "", str(folder)))
    return {file.name: file.read_bytes() for file in local.iterdir() if file.is_file()}
