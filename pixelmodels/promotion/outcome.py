"""What was decided of a version, and on what grounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pixelmodels.evaluation.nats import Comparison
from pixelmodels.tracking.versions import Version

Outcome = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True)
class Check:
    """What came of one check of a version."""

    name: str
    passed: bool
    says: str  # figures, or what is wrong


@dataclass(frozen=True)
class Decision:
    """What was decided of a version, and why."""

    outcome: Outcome
    reason: str
    challenger: Version
    champion: Version | None  # whom it was compared with; None: there was none
    checks: tuple[Check, ...] = ()
    comparison: Comparison | None = None  # None: it did not come to that
    required: float = 0.0  # bits/dim that the interval must lie below minus this
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNG files by name
    run_id: str | None = None  # MLflow run that holds the report; None: a dry run
    unreported: str = ""  # why the report could not be written (the decision stands); empty: it was

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that the challenger failed."""
        return tuple(check.name for check in self.checks if not check.passed)
