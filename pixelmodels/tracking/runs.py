"""MLflow runs: one parent for a call of a pipeline, one child for each model, which a resumed training goes on with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking import location, source
from pixelmodels.tracking.client import already_exists, make_client, patiently, tracking_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

    from pixelmodels.data import Dataset

T = TypeVar("T")
EXPERIMENT = "pixelmodels"
PARENT_TAG = "mlflow.parentRunId"
RUN_KEY_TAG = "pixelmodels.run_key"
KIND_TAG = "pixelmodels.kind"  # "call" of a pipeline, or "model"
RESUMED_TAG = "pixelmodels.resumed"  # how often this run went on after an interruption
MAX_PARAMS = 100  # MLflow takes this many parameters, tags and metrics in one call
MAX_PARAM_CHARACTERS = 6000
MAX_DIGEST_CHARACTERS = 36
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Runs and models in MLflow; picklable, because it holds addresses only: each process makes its own client when it first writes.

    Args: `storage`, under whose root the artifacts go (and the SQLite database, see `tracking_uri`); `experiment`, MLflow's name for
    all runs.
    Several processes of one machine may write at once. Processes of several machines need an MLflow server in `MLFLOW_TRACKING_URI`.
    """

    def __init__(self, storage: Storage, experiment: str = EXPERIMENT) -> None:
        self.storage = storage
        self.experiment = experiment
        self.uri = location.tracking_uri(storage)
        # A server decides itself where artifacts go.
        self.artifact_root = None if location.is_server(self.uri) else storage.uri("artifacts")
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    def __repr__(self) -> str:
        return f"Tracker({self.uri!r}, experiment={self.experiment!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, made when first asked for."""
        if self._client is None:
            self._client = make_client(self.uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment, which is made (or brought back, if somebody deleted it) when first asked for."""
        if self._experiment_id is None:
            self._experiment_id = self._find_or_create_experiment()
        return self._experiment_id

    def check(self) -> None:
        """Make the database and the experiment if they are not there, and see that both can be written.

        Call it before other processes start: they then find everything made. Raises `UserError` in one line.
        """
        location.check_reachable(self.uri)
        try:
            self._call(lambda: self.client.set_experiment_tag(self.experiment_id, "pixelmodels.storage", self.storage.root))
        except UserError:
            raise
        except Exception as error:
            raise tracking_failure(self.uri, error) from error

    def start_parent(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Start the run that stands for one call of a pipeline; returns its id.

        Calls that were killed on this machine before, and their models, are closed as `KILLED`, so that the list shows what is alive.
        """
        self._close_abandoned()
        run_id = self._create_run(name, {KIND_TAG: "call", **(tags or {})})
        self._log_params(run_id, params)
        return run_id

    def start_or_resume_child(
        self,
        name: str,
        *,
        parent_run_id: str | None,
        run_key: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        dataset: Dataset | None = None,
        fresh: bool = False,
    ) -> str:
        """Start the run of one model, or go on with the newest one of the same `run_key` if it is not finished; returns its id.

        Args:
            name: what a reader sees in the list.
            parent_run_id: run of the pipeline's call; a resumed run moves under the new call.
            run_key: what training is the same one: recipe, data and seed, as a short hash.
            params: the recipe, nested mappings allowed; logged flat (`optimizer.learning_rate`).
            dataset: shown by name and fingerprint as the run's input.
            fresh: never go on with an earlier run.
        """
        own_tags = {KIND_TAG: "model", RUN_KEY_TAG: run_key, **(tags or {})}
        if parent_run_id is not None:
            own_tags[PARENT_TAG] = parent_run_id
        earlier = None if fresh else self._newest(f"tags.`{RUN_KEY_TAG}` = '{run_key}'")
        if earlier is not None and earlier.info.status != "FINISHED":
            run_id: str = earlier.info.run_id
            own_tags[RESUMED_TAG] = str(int(earlier.data.tags.get(RESUMED_TAG, "0")) + 1)
            self._call(lambda: self.client.update_run(run_id, status="RUNNING"))
            self.set_tags(run_id, {**source.source_tags(), **own_tags})
            return run_id
        run_id = self._create_run(name, own_tags)
        self._log_params(run_id, params)
        if dataset is not None:
            self._log_dataset(run_id, dataset)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log values by name (`val/bits_per_dim`) at one step of a run's charts."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        entities = [Metric(key, float(value), now_ms, step) for key, value in metrics.items()]
        for part in _parts(entities, MAX_PARAMS):
            self._call(partial(self.client.log_batch, run_id, metrics=part))

    def log_image(self, run_id: str, image_HWC: npt.NDArray[np.uint8], key: str, step: int) -> None:
        """Log a picture (H, W, 1 or 3), uint8, as one step of a series that MLflow shows with a slider."""
        self._call(lambda: self.client.log_image(run_id, image_HWC, key=key, step=step, synchronous=True))

    def log_artifact(self, run_id: str, local_path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Store a local file, or all files of a local folder, with a run."""
        if Path(local_path).is_dir():
            self._call(lambda: self.client.log_artifacts(run_id, os.fspath(local_path), folder))
        else:
            self._call(lambda: self.client.log_artifact(run_id, os.fspath(local_path), folder))

    def log_text(self, run_id: str, text: str, artifact_path: str) -> None:
        """Store a text as a file of that name with a run."""
        self._call(lambda: self.client.log_text(run_id, text, artifact_path))

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; those of the same name are replaced."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, str(value)) for key, value in tags.items()]
        for part in _parts(entities, MAX_PARAMS):
            self._call(partial(self.client.log_batch, run_id, tags=part))

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """Close a run, with how it ended."""
        self._call(lambda: self.client.set_terminated(run_id, status=status))

    def run_page(self, run_id: str) -> str | None:
        """Address of the run's page when a server is used, else `None` (`make ui` shows it then)."""
        if not self.uri.startswith("http"):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def register(self, run_id: str, model_folder: Path, registered_name: str, tags: Mapping[str, str] | None = None) -> str:
        """Log a trained model with its run and make it the next version of a registered model; see `registry.register`."""
        from pixelmodels.tracking import registry

        return registry.register(self, run_id, Path(model_folder), registered_name, dict(tags or {}))

    def model_folder(self, uri: str) -> Path:
        """Local folder with `model.json` and weights of `models:/name/3` or `models:/name@alias`; see `registry.model_folder`."""
        from pixelmodels.tracking import registry

        return registry.model_folder(self, uri)

    def _call(self, call: Callable[[], T]) -> T:
        return patiently(call)

    def _find_or_create_experiment(self) -> str:
        client = self.client
        found = self._call(lambda: client.get_experiment_by_name(self.experiment))
        if found is None:
            try:
                return str(self._call(lambda: client.create_experiment(self.experiment, artifact_location=self.artifact_root)))
            except Exception as error:
                if not already_exists(error):
                    raise
                found = self._call(lambda: client.get_experiment_by_name(self.experiment))
        if found.lifecycle_stage == "deleted":
            self._call(lambda: client.restore_experiment(found.experiment_id))
        return str(found.experiment_id)

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        all_tags = {key: str(value) for key, value in {**source.source_tags(), **tags}.items()}
        run = self._call(lambda: self.client.create_run(self.experiment_id, run_name=name, tags=all_tags))
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, text[:MAX_PARAM_CHARACTERS]) for key, text in flatten(params)]
        for part in _parts(entities, MAX_PARAMS):
            self._call(partial(self.client.log_batch, run_id, params=part))

    def _log_dataset(self, run_id: str, dataset: Dataset) -> None:
        from mlflow.entities import Dataset as DatasetEntity
        from mlflow.entities import DatasetInput, InputTag

        spec = dataset.spec
        entity = DatasetEntity(
            name=dataset.name,
            digest=dataset.fingerprint[:MAX_DIGEST_CHARACTERS],
            source_type="local" if self.storage.is_local else "s3",
            source=json.dumps({"uri": self.storage.uri(dataset.folder)}),
            profile=json.dumps(
                {
                    "channels": spec.channels,
                    "height": spec.height,
                    "width": spec.width,
                    "levels": spec.levels,
                    "classes": dataset.num_classes,
                    **{f"{split}_images": dataset.num_images(split) for split in ("train", "validation", "test")},
                }
            ),
        )
        inputs = [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])]
        self._call(lambda: self.client.log_inputs(run_id, datasets=inputs))
        self.set_tags(run_id, {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint})

    def _newest(self, condition: str) -> Any:
        found = self._call(lambda: self.client.search_runs([self.experiment_id], condition, max_results=1, order_by=["start_time DESC"]))
        return found[0] if found else None

    def _close_abandoned(self) -> None:
        """Close runs of earlier calls whose process has ended without doing so, with the models below them."""
        filter_calls = f"attributes.status = 'RUNNING' AND tags.`{KIND_TAG}` = 'call'"
        for call in self._call(lambda: self.client.search_runs([self.experiment_id], filter_calls, max_results=100)):
            if not source.is_gone(call.data.tags.get(source.HOST_TAG), call.data.tags.get(source.PROCESS_TAG)):
                continue
            filter_models = f"attributes.status = 'RUNNING' AND tags.`{PARENT_TAG}` = '{call.info.run_id}'"
            for child in self._call(partial(self.client.search_runs, [self.experiment_id], filter_models)):
                self.finish(child.info.run_id, "KILLED")
            self.finish(call.info.run_id, "KILLED")


def flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as pairs of dotted name and text; lists and everything else as their JSON or text."""
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield name, json.dumps(value, default=str)
        else:
            yield name, str(value)


def _parts(entities: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(entities), size):
        yield entities[start : start + size]
