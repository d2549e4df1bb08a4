"""What a run tells MLflow of its epochs, in their order. While MLflow cannot be told, it waits in the run's folder, and training goes on.

    runs/<name>-<run key>/unsent/<epoch>.json   the epoch's metrics, and when they were found
                                 <epoch>.png    the picture of its samples, where it has one

Metrics that MLflow has already are not logged again (`Tracker.log_metrics`), so what is sent twice is there once.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from pixelmodels.errors import first_line, without_logins
from pixelmodels.pictures import png_bytes
from pixelmodels.progress import Say
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.location import is_server
from pixelmodels.training.plan import RunPlan

UNSENT = "unsent"  # folder of a run
RETRY_S = 10.0  # least seconds between attempts while MLflow is away
_RETRY_SHARE = 0.1  # of a run's time that attempts may take while MLflow is away
_REASON = 200  # characters of an error in a line


@dataclass(frozen=True)
class Epoch:
    """What is told of one epoch."""

    number: int  # from 1
    time_ms: int  # when it ended, since 1970
    metrics: Mapping[str, float]
    picture_HWC: np.ndarray | None = None  # uint8, of samples


def attempt(tracker: Tracker, call: Callable[[], object]) -> str | None:
    """Make a call to MLflow; returns why it could not be made, None where it was made.

    Errors of any kind: MLflow has its own for each of its stores, and no training depends on it.
    """
    try:
        if is_server(tracker.uri):
            tracker.check_reachable()  # MLflow itself would try for minutes
        call()
    except Exception as error:
        return without_logins(first_line(error))[:_REASON]
    return None


class Outbox:
    """A run's epochs on their way to MLflow, in the run's first worker, or afterwards where the run was started from."""

    def __init__(self, plan: RunPlan, say: Say = print) -> None:
        self._plan, self._say, self._folder = plan, say, f"{plan.folder}/{UNSENT}"
        names = plan.storage.list(self._folder) if plan.tracker is not None else []
        self._waiting = sorted(PurePosixPath(name).stem for name in names if name.endswith(".json"))
        self._is_away, self._try_at = False, 0.0

    @property
    def num_waiting(self) -> int:
        """Epochs that MLflow has not been told of."""
        return len(self._waiting)

    def tell(self, epoch: Epoch) -> None:
        """Tell MLflow of an epoch, and of those that wait; what cannot be told waits. Says so once, and when it is told again."""
        tracker, started = self._plan.tracker, time.monotonic()
        if tracker is None:
            return
        if self._plan.mlflow_run_id is None or started < self._try_at:
            self._keep(epoch)
            return
        reason = attempt(tracker, lambda: self._send_with(epoch))
        if reason is not None:
            self._keep(epoch)
            self._try_at = time.monotonic() + max(RETRY_S, (time.monotonic() - started) / _RETRY_SHARE)
        name, was_away, self._is_away = self._plan.recipe.name, self._is_away, reason is not None
        if self._is_away and not was_away:
            place = self._plan.storage.uri(self._folder)
            self._say(f"{name}: MLflow cannot be told ({reason}); training goes on, and what is to be told waits in {place}")
        elif was_away and not self._is_away:
            self._say(f"{name}: MLflow can be told again, and has all {epoch.number} epochs")

    def send(self) -> None:
        """Tell MLflow of all epochs that wait; raises what MLflow raises, of whatever kind, where it cannot be told."""
        while self._waiting:
            self._log(self._read(self._waiting[0]))
            name = self._waiting.pop(0)
            for ending in ("png", "json"):  # in this order: what is left alone of a process that is killed here still waits
                self._plan.storage.delete(f"{self._folder}/{name}.{ending}")

    def _log(self, epoch: Epoch) -> None:
        tracker, run_id = self._plan.tracker, self._plan.mlflow_run_id
        assert tracker is not None and run_id is not None
        tracker.log_metrics(run_id, epoch.metrics, epoch.number, epoch.time_ms)
        if epoch.picture_HWC is not None:
            tracker.log_image(run_id, epoch.picture_HWC, "samples", epoch.number)

    def _send_with(self, epoch: Epoch) -> None:
        self.send()
        self._log(epoch)

    def _keep(self, epoch: Epoch) -> None:
        name, storage = f"{epoch.number:06d}", self._plan.storage
        if epoch.picture_HWC is not None:
            storage.write_bytes(f"{self._folder}/{name}.png", png_bytes(epoch.picture_HWC))
        content = {"time_ms": epoch.time_ms, "metrics": dict(epoch.metrics)}
        storage.write_bytes(f"{self._folder}/{name}.json", json.dumps(content).encode())
        self._waiting = sorted({*self._waiting, name})

    def _read(self, name: str) -> Epoch:
        storage, picture_HWC = self._plan.storage, None
        content = json.loads(storage.read_bytes(f"{self._folder}/{name}.json"))
        if storage.is_file(f"{self._folder}/{name}.png"):
            picture_HWC = np.asarray(Image.open(io.BytesIO(storage.read_bytes(f"{self._folder}/{name}.png"))))
        return Epoch(int(name), content["time_ms"], content["metrics"], picture_HWC)
