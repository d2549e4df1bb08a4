"""The end of a run: what came of it, in its folder and in MLflow."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pixelmodels.models import PixelModel, architecture_of
from pixelmodels.models.files import save_model
from pixelmodels.sampling import sample
from pixelmodels.tracking.promotion_versions import CONDITION_TAG, condition_tag
from pixelmodels.training.evaluation import Scores, nats_table
from pixelmodels.training.plan import RESULT, TEST_NATS, RunPlan, RunResult
from pixelmodels.training.sample_grids import sample_context
from pixelmodels.training.state import Position

_SAMPLES_TO_TIME = 64  # images drawn to measure samples a second


def write_result(
    plan: RunPlan, position: Position, model: PixelModel, scores: Scores, nll_nats_N: np.ndarray, num_workers: int
) -> RunResult:
    """Write the test's nats, MLflow's metrics, the registered model and, last, the result, by which a run is known to be finished.

    Args: `model`, the weights that were tested; `scores` and `nll_nats_N`, their test. Call it in the first worker only.
    """
    recipe, dataset = plan.recipe, plan.dataset
    context = sample_context(dataset, model, _SAMPLES_TO_TIME)
    started = time.monotonic()
    sample(model, _SAMPLES_TO_TIME, seed=recipe.seed, context=context)
    samples_per_second = _SAMPLES_TO_TIME / (time.monotonic() - started)
    labels_N, keys = dataset.read_labels("test")
    table = nats_table(keys, labels_N, nll_nats_N, dataset.spec.num_subpixels)
    plan.storage.write_bytes(f"{plan.folder}/{TEST_NATS}", table)
    result = RunResult(
        name=recipe.name,
        run_key=plan.run_key,
        dataset=f"{dataset.name}-{dataset.fingerprint}",
        architecture=architecture_of(recipe.model),
        likelihood=recipe.likelihood.name,
        parameters=model.num_parameters,
        epochs=position.epoch,
        steps=position.step,
        best_step=position.best_step,
        val_bits_per_dim=position.best_bits_per_dim,
        test_nll_nats=scores.nll_nats,
        test_bits_per_dim=scores.bits_per_dim,
        test_bits_per_dim_stderr=scores.bits_per_dim_stderr,
        train_images_per_second=position.train_images / max(1e-9, position.train_seconds),
        samples_per_second=samples_per_second,
        seconds=position.seconds,
        num_workers=num_workers,
        mlflow_run_id=plan.mlflow_run_id,
        model_version=None,
    )
    result = publish(plan, result, model, table)
    plan.storage.write_bytes(f"{plan.folder}/{RESULT}", json.dumps(result.to_dict(), indent=1).encode())
    if plan.tracker is not None and plan.mlflow_run_id is not None:
        plan.tracker.finish(plan.mlflow_run_id, "FINISHED")
    return result


def publish(plan: RunPlan, result: RunResult, model: PixelModel, table: bytes) -> RunResult:
    """Write the test to MLflow and register the tested model; returns the result with its version."""
    if plan.tracker is None or plan.mlflow_run_id is None:
        return result
    names = ("test_bits_per_dim", "test_bits_per_dim_stderr", "test_nll_nats")
    metrics = {name.replace("test_", "test/", 1): getattr(result, name) for name in names}
    metrics |= {name: getattr(result, name) for name in ("samples_per_second", "train_images_per_second")}
    plan.tracker.log_metrics(plan.mlflow_run_id, metrics, result.epochs)
    with TemporaryDirectory() as folder:
        (Path(folder) / TEST_NATS).write_bytes(table)
        plan.tracker.log_artifact(plan.mlflow_run_id, Path(folder) / TEST_NATS)
        if plan.registered_name is None:
            return result
        model_folder = Path(folder) / "model"
        model_folder.mkdir()
        save_model(model_folder, model)
        tags = {
            "run_key": plan.run_key,
            "recipe": result.name,
            "architecture": result.architecture,
            CONDITION_TAG: condition_tag(plan.recipe.condition_on, plan.recipe.small_factor),
            "dataset": result.dataset,
            "dataset_fingerprint": plan.dataset.fingerprint,
            "test_bits_per_dim": f"{result.test_bits_per_dim:.6f}",
            "test_nats": f"runs:/{plan.mlflow_run_id}/{TEST_NATS}",
            **plan.tracker.commit_tag(plan.mlflow_run_id),
        }
        version = plan.tracker.register(plan.mlflow_run_id, model_folder, plan.registered_name, tags)
    return dataclasses.replace(result, model_version=version)
