"""A run's folder and its result, as other runs and other commands read them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pixelmodels.storage import Storage

RUNS = "runs"
RESULT = "result.json"
FAILURE = "failed.json"


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
    test_raster_bits_per_dim: float | None = None  # of a model of several orders, by the raster order alone; the test is of their mixture

    def write(self, storage: Storage, folder: str) -> None:
        """Write it into the run's folder: from then on the run counts as finished."""
        storage.write_bytes(f"{folder}/{RESULT}", json.dumps(asdict(self), indent=1).encode())


def run_folder(name: str, run_key: str, place: str = RUNS) -> str:
    """The folder of a run below the storage root."""
    return f"{place}/{name}-{run_key}"


def finished(storage: Storage, folder: str) -> RunResult | None:
    """The result of a run that is finished, else None."""
    try:
        return RunResult(**json.loads(storage.read_bytes(f"{folder}/{RESULT}")))
    except FileNotFoundError:
        return None
