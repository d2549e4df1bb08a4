"""What a sweep has on record below the storage root, from which a killed one goes on.

    sweeps/<name>/sweep.json        settings, id, and the MLflow run of the whole
    sweeps/<name>/trials/003.json   one trial: its values, its recipe, how it stands, its curve
    sweeps/<name>/runs/...          checkpoints of trials that have not ended

A trial is written down before it begins and whenever it gets on. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from pixelmodels.errors import UserError
from pixelmodels.runs.lock import RUNNING
from pixelmodels.storage import Storage
from pixelmodels.tuning.space import Values

SWEEPS = "sweeps"
SWEEP, TRIALS, TRIAL_RUNS = "sweep.json", "trials", "runs"
State = Literal["unfinished", "finished", "stopped", "failed"]  # stopped: by ASHA; unfinished: goes on with the next call


@dataclass
class TrialRecord:
    """One trial."""

    number: int  # from 0, in the order in which trials began
    values: Values  # of the space's parameters
    recipe: dict[str, Any]  # as it is trained, plain
    architecture: str
    parameters: int  # trained numbers
    is_default: bool = False  # whether it is the suite's own recipe
    state: State = "unfinished"
    reason: str | None = None  # why it failed
    curve: dict[int, float] = field(default_factory=dict)  # validation bits/dim by epoch, from 1
    deaths: int = 0  # times that the process which waits for its workers died, with its machine perhaps
    mlflow_run_id: str | None = None
    too_large: list[Values] = field(default_factory=list)  # values that were drawn before these, and not trained: too many parameters

    def __post_init__(self) -> None:
        self.curve = {int(epoch): bits for epoch, bits in self.curve.items()}  # JSON's keys are text

    @property
    def epochs(self) -> int:
        """Epochs that it trained, and was validated after."""
        return max(self.curve, default=0)

    @property
    def best_bits_per_dim(self) -> float | None:
        """Of its validation images, after the best epoch; none before the first."""
        return min(self.curve.values(), default=None)

    @property
    def best_by_epoch(self) -> dict[int, float]:
        """The fewest validation bits/dim up to each epoch."""
        return dict(zip(sorted(self.curve), accumulate((self.curve[epoch] for epoch in sorted(self.curve)), min), strict=True))

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.state != "unfinished"


@dataclass(frozen=True)
class Head:
    """The sweep as a whole."""

    id: str  # drawn when it began
    settings: dict[str, Any]  # all that its trials depend on
    mlflow_run_id: str


class Records:
    """The files of one sweep."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name, self.folder = storage, name, f"{SWEEPS}/{name}"

    def head(self) -> Head | None:
        """What `sweep.json` says; none where the sweep has not begun. Raises `UserError` for one that cannot be read."""
        return self._read(SWEEP, Head, "sweep") if self.storage.is_file(f"{self.folder}/{SWEEP}") else None

    def trials(self) -> list[TrialRecord]:
        """All trials, in their order; raises `UserError` for one that cannot be read."""
        return [self.trial(int(name.removesuffix(".json"))) for name in self.storage.list(f"{self.folder}/{TRIALS}") if name[0].isdigit()]

    def trial(self, number: int) -> TrialRecord:
        """One trial."""
        return self._read(_file(number), TrialRecord, "trial")

    def write(self, record: Head | TrialRecord) -> None:
        """Write `sweep.json`, or one trial."""
        file = SWEEP if isinstance(record, Head) else _file(record.number)
        self.storage.write_bytes(f"{self.folder}/{file}", json.dumps(dataclasses.asdict(record), indent=1).encode())

    def clear(self) -> None:
        """Forget the sweep, and what it published: its head first, so that a half-removed sweep is never taken for one."""
        self.storage.delete(f"{self.folder}/{SWEEP}")
        for name in self.storage.list(self.folder):
            if name != RUNNING:  # of this call
                self.storage.delete(f"{self.folder}/{name}")

    def _read(self, file: str, kind: Any, what: str) -> Any:
        path = f"{self.folder}/{file}"
        try:
            return kind(**json.loads(self.storage.read_bytes(path)))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"'{self.storage.uri(path)}' is no {what} of this version ({error}); give --fresh, or another --name"
            ) from error


def _file(number: int) -> str:
    return f"{TRIALS}/{number:03d}.json"
