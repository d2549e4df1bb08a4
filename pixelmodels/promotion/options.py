"""What `promote` is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pixelmodels.errors import UserError, check_at_least, check_seed
from pixelmodels.storage import DEFAULT_STORAGE

_MIN_BEYOND = 10  # resamples beyond each end of the interval: an end that hangs on fewer is chance


@dataclass(frozen=True)
class Promote:
    """Make a registered version champion if it is sound and better than the champion; status 0 promoted, 1 refused, 2 anything else."""

    version: int | None = None  # of the registered model: the challenger
    best: bool = False  # the challenger is the version with the fewest test bits/dim that never failed a check
    rollback: bool = False  # make the previous champion champion again; the two change places
    name: Annotated[str | None, tyro.conf.arg(aliases=["--dataset"])] = None  # registered model (called as its data set); the only one
    dry_run: bool = False  # decide, and change nothing
    min_gain: float = 0.0  # bits/dim by which the whole interval must be better than the champion
    level: float = 0.95  # of the bootstrap interval: the share of such intervals that hold the true mean
    resamples: int = 10_000  # of the bootstrap
    seed: int = 0  # of the bootstrap, the changed sub-pixels, the samples and which images are scored again
    rescore: int | None = None  # test images scored again, to see that the recorded nats are true; all of them unless given
    tolerance: float = 1e-4  # share by which nats scored again may be off; a mean difference that this could make is no gain either
    probes: int = 64  # random sub-pixels changed to see that nothing before them does; corners, edges and rows in any case
    use_gpu: bool = False  # score on a GPU
    out: Path | None = None  # folder for the report too; it is kept in MLflow in any case (but for a dry run)
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix

    def __post_init__(self) -> None:
        if (self.version is not None) + self.best + self.rollback != 1:
            raise UserError("give one of --version N, --best and --rollback")
        check_seed("--seed", self.seed)
        if not 0 < self.level < 1:
            raise UserError(f"--level {self.level} is no share; give more than 0, less than 1, such as 0.95")
        check_at_least(self, version=1, resamples=100, rescore=1, probes=1)
        if round(self.resamples * (1 - self.level) / 2, 6) < _MIN_BEYOND:
            enough = math.ceil(round(2 * _MIN_BEYOND / (1 - self.level), 6))
            raise UserError(f"--resamples {self.resamples} is too few for --level {self.level}; give {enough} or more, or a lower level")
        for name in ("min_gain", "tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is out of range; give 0 or more, less than 1")
