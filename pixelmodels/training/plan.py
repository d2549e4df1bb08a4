"""What the driver tells every worker of a run, and what a finished run says of itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pixelmodels.data import Dataset
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.training.recipes import Recipe

RUNS = "runs"
RESULT = "result.json"
FAILURE = "failed.json"
TEST_NATS = "test_nats.parquet"


class Hopeless(RuntimeError):
    """A failure that another try would only repeat; the message is the reason and the remedy, in one line."""


@dataclass(frozen=True)
class RunPlan:
    """One run as its workers need it; sent to them by Ray, never stored."""

    recipe: Recipe  # what to train
    dataset: Dataset  # its images
    storage: Storage  # where checkpoints and the result go
    run_key: str  # the run's hash
    tracker: Tracker | None = None  # MLflow; None tracks nothing
    mlflow_run_id: str | None = None  # the child run that is written
    registered_name: str | None = None  # registered model that the result becomes a version of
    checkpoint_every_s: float = 0.0  # seconds between checkpoints inside an epoch; 0: at the end of epochs only
    report_every_s: float = 10.0  # least seconds between reports to Ray Train
    report_epochs: bool = False  # report to Ray Train at the end of every epoch, and at no other time
    num_threads: int = 0  # torch's threads in each worker; 0 leaves them alone
    place: str = RUNS  # folder of the storage root in which the run's own folder is

    @property
    def folder(self) -> str:
        """The run's folder below the storage root."""
        return run_folder(self.recipe.name, self.run_key, self.place)


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run, as its `result.json` holds it."""

    name: str  # the recipe's
    run_key: str  # the run's hash
    dataset: str  # name and fingerprint
    architecture: str
    likelihood: str
    parameters: int  # trained numbers
    epochs: int  # done
    steps: int  # done
    best_step: int  # of the checkpoint that was tested
    val_bits_per_dim: float  # of that checkpoint's averaged weights
    test_nll_nats: float  # mean nats an image
    test_bits_per_dim: float
    test_bits_per_dim_stderr: float
    train_images_per_second: float  # over all workers, while training
    samples_per_second: float  # drawn by one worker
    seconds: float  # of all the run's sessions, from the first step to the test score
    num_workers: int
    mlflow_run_id: str | None
    model_version: str | None  # of the registered model

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def run_folder(name: str, run_key: str, place: str = RUNS) -> str:
    """The folder of a run below the storage root."""
    return f"{place}/{name}-{run_key}"


def finished(storage: Storage, folder: str) -> RunResult | None:
    """The result of a run that is finished, else None."""
    try:
        return RunResult(**json.loads(storage.read_bytes(f"{folder}/{RESULT}")))
    except FileNotFoundError:
        return None
