"""The end of a run: what came of it, in its folder and in MLflow."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pixelmodels.evaluation.nats import TEST_NATS, nats_table
from pixelmodels.evaluation.sample_grids import sample_context
from pixelmodels.evaluation.scores import Scores, mixed_nats
from pixelmodels.models import PixelModel, architecture_of
from pixelmodels.models.files import save_model
from pixelmodels.runs.loading import find_model
from pixelmodels.runs.result import RunResult
from pixelmodels.sampling import sample
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.versions import Version, condition_tag
from pixelmodels.training.card import card_files
from pixelmodels.training.outbox import Outbox, attempt
from pixelmodels.training.plan import RunPlan
from pixelmodels.training.state import Position

_SAMPLES_TO_TIME = 64  # images drawn to measure samples a second


def write_result(
    plan: RunPlan, position: Position, model: PixelModel, scores: Scores, nats_NK: np.ndarray, num_workers: int, outbox: Outbox
) -> RunResult:
    """Write the test's nats, MLflow's metrics, the registered model and, last, the result, by which a run is known to be finished.

    What MLflow cannot be told is left to `bring`. Args: `model`, the tested weights; `scores` and `nats_NK` (by each order), their test.
    Call it in the first worker only.
    """
    plan.check_held()
    recipe, dataset = plan.recipe, plan.dataset
    context = sample_context(dataset, model, _SAMPLES_TO_TIME)
    started = time.monotonic()
    sample(model, _SAMPLES_TO_TIME, seed=recipe.seed, context=context)
    samples_per_second = _SAMPLES_TO_TIME / (time.monotonic() - started)
    labels_N, keys = dataset.read_labels("test")
    table = nats_table(keys, labels_N, mixed_nats(nats_NK), dataset.spec.num_subpixels, nats_NK)
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
        test_raster_bits_per_dim=scores.raster_bits_per_dim,
    )
    published: list[RunResult] = []

    def tell() -> None:
        outbox.send()
        published.append(publish(plan, result, model, table))

    if plan.tracker is not None:
        attempt(plan.tracker, tell)
    if published:  # else whoever started the run tries again, and tells of it
        (result,) = published
    result.write(plan.storage, plan.folder)
    if not lacks(plan, result):
        close_run(plan.tracker, result.mlflow_run_id)
    return result


def lacks(plan: RunPlan, result: RunResult) -> bool:
    """Whether MLflow has not been told all of a finished run: epochs that wait, or the test and the model."""
    if plan.tracker is None:
        return False
    return (plan.registered_name is not None and result.model_version is None) or Outbox(plan).num_waiting > 0


def tested(plan: RunPlan) -> tuple[PixelModel, bytes]:
    """Of a finished run: the model that was tested, and the table of the test's nats; raises `UserError` where they are damaged."""
    return find_model(plan.storage.uri(plan.folder), plan.storage), plan.storage.read_bytes(f"{plan.folder}/{TEST_NATS}")


def bring(plan: RunPlan, result: RunResult, model: PixelModel, table: bytes) -> RunResult:
    """Tell MLflow what it lacks of a finished run; returns the result with the model's version.

    Args: `model` and `table`, what was tested, and what came of it. Raises what MLflow raises, of whatever kind, where it cannot be told.
    """
    result = dataclasses.replace(result, mlflow_run_id=plan.mlflow_run_id)
    Outbox(plan).send()
    result = publish(plan, result, model, table)
    result.write(plan.storage, plan.folder)
    close_run(plan.tracker, result.mlflow_run_id)
    return result


def close_run(tracker: Tracker | None, run_id: str | None) -> None:
    """Close the MLflow run of a result, where it is not closed; a run that is gone is left alone."""
    if tracker is None or run_id is None:
        return

    def close() -> None:
        if tracker.client.get_run(run_id).info.status != "FINISHED":
            tracker.finish(run_id, "FINISHED")

    attempt(tracker, close)  # the result stands, whatever the tracking server says


def publish(plan: RunPlan, result: RunResult, model: PixelModel, table: bytes) -> RunResult:
    """Write the test to MLflow and register the tested model; returns the result with its version."""
    if plan.tracker is None or plan.mlflow_run_id is None:
        return result
    names = ("test_bits_per_dim", "test_bits_per_dim_stderr", "test_nll_nats")
    metrics = {name.replace("test_", "test/", 1): getattr(result, name) for name in names}
    metrics |= {name: getattr(result, name) for name in ("samples_per_second", "train_images_per_second")}
    if result.test_raster_bits_per_dim is not None:
        metrics["test/raster_bits_per_dim"] = result.test_raster_bits_per_dim
    plan.tracker.log_metrics(plan.mlflow_run_id, metrics, result.epochs)
    plan.tracker.log_files(plan.mlflow_run_id, {TEST_NATS: table})
    if plan.registered_name is None:
        return result
    version = Version(
        name=plan.registered_name,
        number="",
        run_id=plan.mlflow_run_id,
        architecture=result.architecture,
        recipe=result.name,
        dataset=result.dataset,
        test_bits_per_dim=result.test_bits_per_dim,
        commit=plan.tracker.commit_of(plan.mlflow_run_id),
        condition_on=condition_tag(plan.recipe.condition_on, plan.recipe.small_factor),
    )
    tags = {
        **version.to_tags(),
        "run_key": plan.run_key,
        "dataset_fingerprint": plan.dataset.fingerprint,
        "test_nats": f"runs:/{plan.mlflow_run_id}/{TEST_NATS}",
    }
    with TemporaryDirectory() as folder:
        save_model(Path(folder), model)
        told = card_files(plan, result, model)
        for name, content in told.items():
            (Path(folder) / name).write_bytes(content)
        number = registry.register(plan.tracker, plan.mlflow_run_id, Path(folder), plan.registered_name, tags, told[registry.CARD].decode())
    return dataclasses.replace(result, model_version=number)
