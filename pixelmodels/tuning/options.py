"""What a sweep is asked to do, and what of it makes another sweep."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pixelmodels.errors import UserError, check_at_least, check_seed
from pixelmodels.hashed_fields import hashed
from pixelmodels.storage import DEFAULT_STORAGE, LONGEST_NAME, check_length, fitting

_SAMPLERS_LARGEST = 2**31 - 1  # samplers take 32 bits, and add to it


@dataclass(frozen=True)
class Tune:
    """Search for a better recipe: many short trainings, the worst of them stopped early; go on with what an earlier call left."""

    space: str = "architectures"  # what may change: a space of tune_spaces/; an unknown name lists them all
    num_samples: int = 12  # trials in all, those of earlier calls included; the suite's own recipe is the first
    suite: str = "digits"  # whose recipes are the defaults, and whose data set is trained on
    start_from: str | None = None  # recipe of the suite to try first; unless given, the one of the space's first architecture
    dataset: str | None = None  # prepared data set to train on instead of the suite's: name, or name-fingerprint
    data_path: str | None = None  # your files: those of the suite's data, or any images where these come with a package (docs/data.md)
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix
    name: str | None = None  # of the sweep and its folder; made of the settings unless given
    epochs: int | None = None  # of a trial that is not stopped; a fifth of the default recipe's unless given
    asha: bool = True  # stop trials early that are among the worst at 1, 3, 9... times the first look
    grace_epochs: int | None = None  # when a trial is first looked at; after a sixth of its epochs unless given
    reduction_factor: int = 3  # one of so many goes on at each look
    max_concurrent: int | None = None  # trials at a time; as many as there is room for unless given
    max_minutes: float | None = None  # no trial begins after that, and those that run are left for the next call
    max_parameters: int | None = None  # models with more trained numbers are not tried
    num_workers: int = 1  # data-parallel workers of each trial
    cpus_per_worker: int = 1  # logical CPUs that a worker reserves
    use_gpu: bool = False  # one GPU a worker
    gpus_per_worker: float | None = None  # share of a GPU that a worker reserves instead of one: with 0.25 four small nets train on each
    checkpoint_every_s: float = 120.0  # seconds between checkpoints inside an epoch; 0: at the end of epochs only
    max_failures: int = 1  # times that dead workers are replaced, in each trial
    seed: int = 0  # of what is drawn
    fresh: bool = False  # forget an earlier sweep of the same name

    def __post_init__(self) -> None:
        check_at_least(self, num_samples=1, epochs=1, grace_epochs=1, max_concurrent=1, max_parameters=1)
        if self.max_minutes is not None and not self.max_minutes > 0:  # a number that is none is not, either
            raise UserError(f"--max-minutes {self.max_minutes} is too few; give more than 0")
        check_seed("--seed", self.seed)
        for name in ("max_failures", "checkpoint_every_s"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}; give 0 or more")
        if self.reduction_factor < 2:
            raise UserError(f"--reduction-factor {self.reduction_factor} stops nothing; give 2 or more, or --no-asha")
        check_length("--name", self.name or "")
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise UserError(f"--name '{self.name}' must be a plain folder name")

    @property
    def sampler_seed(self) -> int:
        """The seed for samplers, which take 32 bits: a larger one is hashed."""
        hashed = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:4], "big") % _SAMPLERS_LARGEST
        return self.seed if self.seed <= _SAMPLERS_LARGEST else hashed

    def settings(self, *, start_from: str, dataset: str, epochs: int) -> dict[str, Any]:
        """All that the trials depend on; how many they are, where and how fast they run is not part of it.

        An option that came later is there only where it is not at its default, so that a sweep keeps its name; see `hashed_fields`.
        """
        settings = {
            "space": self.space,
            "suite": self.suite,
            "start_from": start_from,
            "dataset": dataset,
            "epochs": epochs,
            "grace_epochs": min(self.grace_epochs or -(-epochs // 6), epochs) if self.asha else epochs,
            "reduction_factor": self.reduction_factor if self.asha else 0,
            "max_parameters": self.max_parameters,
            "seed": self.seed,
        }
        return hashed(self, settings)


def sweep_name(options: Tune, settings: dict[str, Any], dataset_name: str) -> str:
    """The name of the sweep: of its own choosing, or by space, data set and a hash of the settings."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return options.name or fitting(f"{options.space}-{dataset_name}", LONGEST_NAME - 9) + f"-{key}"


def check_same(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UserError` where a sweep of this name was begun with other settings."""
    other = [f"{key} {before.get(key)} then, {now.get(key)} now" for key in {**before, **now} if before.get(key) != now.get(key)]
    if other:
        raise UserError(f"sweep '{name}' was begun with other settings ({'; '.join(other)}); give another --name, or --fresh")
