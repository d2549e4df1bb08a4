"""MLflow runs: one parent for a call of a pipeline, one child for each model, which a resumed training goes on with."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pixelmodels.errors import UserError, shown
from pixelmodels.storage import Storage
from pixelmodels.tracking import location, source
from pixelmodels.tracking.client import find, find_all, make, make_client, tracking_failure
from pixelmodels.tracking.entities import dataset_input, param_entities, parts

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pixelmodels.data import Dataset

EXPERIMENT = "pixelmodels"
PARENT_TAG = "mlflow.parentRunId"
RUN_KEY_TAG = "pixelmodels.run_key"
KIND_TAG = "pixelmodels.kind"  # "call" of a pipeline, or "model"
STORAGE_TAG = "pixelmodels.storage"  # storage root of the run's files
STORAGE_ID_TAG = "pixelmodels.storage_id"  # what is in the root's STORAGE_ID file
STORAGE_ID = ".storage-id"  # file in a storage root: tells it from every other one, at the same path of another machine too
RESUMED_TAG = "pixelmodels.resumed"  # how often this run went on after an interruption
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Runs and models in MLflow; picklable, because it holds addresses only: each process makes its own client when it first writes.

    Args: `storage`, under whose root the artifacts go (and the SQLite database, see `tracking_uri`), unless a server decides;
    `experiment`, MLflow's name for all runs. Where several storage roots share one database, the first has that name and each other
    one a name of its own (`pixelmodels-1a2b3c4d`), because all artifacts of an experiment lie below one root.
    A login in the address is kept apart from it: MLflow, whose errors name whole addresses, gets it in the environment of each process.
    Several processes of one machine may write at once. Processes of several machines need an MLflow server in `MLFLOW_TRACKING_URI`.
    """

    def __init__(self, storage: Storage, experiment: str = EXPERIMENT) -> None:
        self.storage = storage
        self.experiment = experiment
        self.uri, self._login = location.tracking_address(storage)
        # A server decides itself where artifacts go.
        self.artifact_root = None if location.is_server(self.uri) else location.artifact_uri(storage.uri("artifacts"))
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._storage_id: str | None = None
        self._logged: dict[str, dict[str, set[int]]] = {}  # steps of each metric of the runs that this process logs to

    def __repr__(self) -> str:
        return f"Tracker({shown(self.uri)!r}, experiment={self.experiment!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None, "_logged": {}}

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, made when first asked for."""
        if self._client is None:
            location.use(self._login)
            self._client = make_client(self.uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment, which is made (or brought back, if somebody deleted it) when first asked for."""
        if self._experiment_id is None:
            self._experiment_id = self._find_or_create_experiment()
        return self._experiment_id

    @property
    def storage_id(self) -> str:
        """A name of the storage root that no other root has, kept in a file in it."""
        if self._storage_id is None:
            if not self.storage.is_file(STORAGE_ID):
                self.storage.write_bytes(STORAGE_ID, uuid.uuid4().hex.encode())
            self._storage_id = self.storage.read_bytes(STORAGE_ID).decode().strip()
        return self._storage_id

    def check(self) -> None:
        """Make the database and the experiment if they are not there, and see that both can be written.

        Call it before other processes start: they then find everything made. Raises `UserError` in one line.
        """
        self.check_reachable()
        try:
            self.client.set_experiment_tag(self.experiment_id, "pixelmodels.version", source.package_version())
        except UserError:
            raise
        except Exception as error:
            raise tracking_failure(self.uri, error) from error

    def check_reachable(self) -> None:
        """Raise `UserError`, in one line within seconds, where MLflow itself would try to reach its place for minutes."""
        location.use(self._login)
        location.check_reachable(self.uri)

    def start_parent(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str] | None = None, run_id: str | None = None) -> str:
        """Start the run that stands for one call of a pipeline; returns its id.

        Args: `run_id`, the run of an earlier call that this one goes on with, if it is still there; its parameters stay.
        Runs whose process was killed on this machine before are closed as `KILLED`, so that the list shows what is alive.
        """
        self._close_abandoned()
        if run_id is not None and self.is_there(run_id):
            self._go_on(run_id, {KIND_TAG: "call", **(tags or {})})
            return run_id
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
        """Start the run of one model, or go on with the newest one of the same `run_key` and storage root if it is not finished.

        Returns the run's id.

        Args:
            name: what a reader sees in the list.
            parent_run_id: run of the pipeline's call; a resumed run moves under the new call.
            run_key: what training is the same one: recipe, data and seed, as a short hash.
            params: the recipe, nested mappings allowed; logged flat (`optimizer.learning_rate`).
            dataset: shown by name and fingerprint as the run's input.
            fresh: never go on with an earlier run.
        """
        own_tags = {KIND_TAG: "model", RUN_KEY_TAG: run_key, **self._storage_tags(), **(tags or {})}
        if parent_run_id is not None:
            own_tags[PARENT_TAG] = parent_run_id
        earlier = None if fresh else self._newest(run_key)
        if earlier is not None and earlier.info.status != "FINISHED":
            run_id, known_params = str(earlier.info.run_id), earlier.data.params
            own_tags[RESUMED_TAG] = str(int(earlier.data.tags.get(RESUMED_TAG, "0")) + 1)
            self._go_on(run_id, own_tags)
        else:
            run_id, known_params = self._create_run(name, own_tags), {}
        # In a run that goes on too: whoever made it may have been killed before it came this far.
        self._log_params(run_id, params, known_params)
        if dataset is not None:
            self._log_dataset(run_id, dataset)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0, time_ms: int | None = None) -> None:
        """Log values by name (`val/bits_per_dim`) at one step of a run's charts; a step that a chart has already stays as it is.

        So a training that goes on from a checkpoint, and does the steps after it again, leaves no point twice.
        Args: `time_ms`, when they were found, since 1970; now, unless given.
        """
        from mlflow.entities import Metric

        logged = self._logged_steps(run_id)
        found_ms = int(time.time() * 1000) if time_ms is None else time_ms
        entities = [Metric(key, float(value), found_ms, step) for key, value in metrics.items() if step not in logged.get(key, ())]
        for part in parts(entities):
            try:
                self.client.log_batch(run_id, metrics=part)
            except Exception:
                self._logged.pop(run_id, None)  # it may have come through: who tries again has to look
                raise
            for metric in part:
                logged.setdefault(metric.key, set()).add(step)

    def log_image(self, run_id: str, image_HWC: npt.NDArray[np.uint8], key: str, step: int) -> None:
        """Log a picture (H, W, 1 or 3), uint8, as one step of a series that MLflow shows with a slider; one that is there stays.

        MLflow itself would show the pictures of a step that is logged again beside those that are there.
        """
        series = key.replace("/", "~")
        is_it = re.compile(rf"{re.escape(series)}(?P<mark>[+%])step(?P=mark){step}(?P=mark).*\.webp")  # written last, after the .png file
        if any(is_it.fullmatch(PurePosixPath(entry.path).name) for entry in self.client.list_artifacts(run_id, "images")):
            return
        self.client.log_image(run_id, image_HWC, key=key, step=step, synchronous=True)

    def log_artifact(self, run_id: str, local_path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Store a local file, or all files of a local folder, with a run."""
        log = self.client.log_artifacts if Path(local_path).is_dir() else self.client.log_artifact
        log(run_id, os.fspath(local_path), folder)

    def log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store files with a run, by their names and contents."""
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self.log_artifact(run_id, folder)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; those of the same name are replaced."""
        from mlflow.entities import RunTag

        for part in parts([RunTag(key, str(value)) for key, value in tags.items()]):
            self.client.log_batch(run_id, tags=part)

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """Close a run, with how it ended."""
        self.client.set_terminated(run_id, status=status)

    def close_runs_of(self, identity: str) -> None:
        """Close as `KILLED` what a process left `RUNNING` of which somebody else knows that it is gone, on whatever machine it was."""
        condition = f"attributes.status = 'RUNNING' AND tags.`{source.IDENTITY_TAG}` = '{identity}'"
        for run in find_all(partial(self.client.search_runs, [self.experiment_id], condition)):
            self.finish(run.info.run_id, "KILLED")

    def commit_of(self, run_id: str) -> str | None:
        """The commit of the code that a run was started from; None where that is not known."""
        commit: str | None = self.client.get_run(run_id).data.tags.get(source.COMMIT_TAG)
        return commit

    def _find_or_create_experiment(self) -> str:
        found = self._experiment(self.experiment)
        if self.artifact_root is not None and found.artifact_location != self.artifact_root:  # another storage root made it
            found = self._experiment(f"{self.experiment}-{hashlib.sha256(self.storage.root.encode()).hexdigest()[:8]}")
        return str(found.experiment_id)

    def _experiment(self, name: str) -> Any:
        """The experiment of this name, made or brought back if need be."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            make(lambda: self.client.create_experiment(name, artifact_location=self.artifact_root))
            found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found

    def _storage_tags(self) -> dict[str, str]:
        return {STORAGE_TAG: self.storage.root, STORAGE_ID_TAG: self.storage_id}

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        all_tags = {key: str(value) for key, value in {**source.source_tags(), **tags}.items()}
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=all_tags).info.run_id)

    def _go_on(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.update_run(run_id, status="RUNNING")
        self.set_tags(run_id, {**source.source_tags(), **tags})

    def _log_params(self, run_id: str, params: Mapping[str, Any], known: Container[str] = ()) -> None:
        """Log what is not known yet: MLflow refuses to change a parameter."""
        for part in parts([param for param in param_entities(params) if param.key not in known]):
            self.client.log_batch(run_id, params=part)

    def _log_dataset(self, run_id: str, dataset: Dataset) -> None:
        inputs = [dataset_input(dataset, self.storage)]
        if not make(lambda: self.client.log_inputs(run_id, datasets=inputs)):
            # Another run has added the same data set at this very moment. Now it is there, and the run is only tied to it.
            self.client.log_inputs(run_id, datasets=inputs)
        self.set_tags(run_id, {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint})

    def _logged_steps(self, run_id: str) -> dict[str, set[int]]:
        """Steps of each metric of a run; read once, because one process logs a run's metrics."""
        if run_id not in self._logged:
            keys = self.client.get_run(run_id).data.metrics
            self._logged[run_id] = {key: {point.step for point in self.client.get_metric_history(run_id, key)} for key in keys}
        return self._logged[run_id]

    def _newest(self, run_key: str) -> Any:
        condition = f"tags.`{RUN_KEY_TAG}` = '{run_key}' AND tags.`{STORAGE_ID_TAG}` = '{self.storage_id}'"
        found = self.client.search_runs([self.experiment_id], condition, max_results=1, order_by=["start_time DESC"])
        return found[0] if found else None

    def is_there(self, run_id: str) -> bool:
        """Whether MLflow has a run, and nobody has deleted it."""
        run = find(lambda: self.client.get_run(run_id))
        return run is not None and bool(run.info.lifecycle_stage == "active")

    def _close_abandoned(self) -> None:
        """Close runs of calls and of models whose process, on this machine, has ended without doing so."""
        for run in find_all(partial(self.client.search_runs, [self.experiment_id], "attributes.status = 'RUNNING'")):
            if source.has_ended(run.data.tags):
                self.finish(run.info.run_id, "KILLED")
