"""The versions of a registered model: what their tags say of them, and what their aliases are called."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelmodels.tracking.client import find
from pixelmodels.tracking.registry import entries_of, find_version
from pixelmodels.tracking.runs import Tracker
from pixelmodels.tracking.source import COMMIT_TAG

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"  # aliases
DECISION_TAG, FAILED_TAG, REASON_TAG = "promotion.decision", "promotion.failed_checks", "promotion.reason"
ROLLED_BACK = "rolled back"  # what the first says of a champion that was taken back
CONDITION_TAG = "condition_on"  # kinds of context that the version's images are given, see `condition_tag`


@dataclass(frozen=True)
class Version:
    """One version of a registered model, as its tags tell."""

    name: str  # of the registered model
    number: str  # of the version; empty before it is registered
    run_id: str  # MLflow run that trained it
    architecture: str
    recipe: str
    dataset: str  # name and fingerprint of what it was trained on
    test_bits_per_dim: float  # as it was tagged; NaN when it was not
    commit: str | None  # of the code that trained it
    condition_on: str = ""  # kinds of context that it is given, see `condition_tag`; empty: none
    reason: str = ""  # of the last decision on it
    put_aside: bool = False  # it failed a check, or was champion and rolled back: only chosen by its number

    @property
    def uri(self) -> str:
        """Its address in the registry."""
        return f"models:/{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"version {self.number} ({self.recipe})"

    def to_tags(self) -> dict[str, str]:
        """What is tagged when it is registered; a decision on it has tags of its own."""
        tags = {
            "recipe": self.recipe,
            "architecture": self.architecture,
            CONDITION_TAG: self.condition_on,
            "dataset": self.dataset,
            "test_bits_per_dim": f"{self.test_bits_per_dim:z.6f}",
        }
        return tags if self.commit is None else {**tags, "git_commit": self.commit}

    @classmethod
    def from_tags(cls, entry: Any, of_run: Mapping[str, str], params: Mapping[str, str]) -> Version:
        """A version by MLflow's record of it, and by its run's tags and parameters where it has no tag: older versions say less."""
        tags: dict[str, str] = dict(entry.tags)
        try:
            bits = float(tags.get("test_bits_per_dim", "nan"))
        except ValueError:
            bits = math.nan
        return cls(
            name=str(entry.name),
            number=str(entry.version),
            run_id=str(entry.run_id or ""),
            architecture=tags.get("architecture") or of_run.get("architecture") or "unknown",
            recipe=tags.get("recipe") or of_run.get("mlflow.runName") or "unknown",
            dataset=tags.get("dataset", ""),
            test_bits_per_dim=bits,
            commit=tags.get("git_commit") or of_run.get(COMMIT_TAG),
            condition_on=tags[CONDITION_TAG] if CONDITION_TAG in tags else _condition_of(params),
            reason=tags.get(REASON_TAG, ""),
            put_aside=bool(tags.get(FAILED_TAG)) or tags.get(DECISION_TAG) == ROLLED_BACK,
        )


def versions_of(tracker: Tracker, name: str) -> list[Version]:
    """All versions of a registered model, oldest first."""
    return [_version(tracker, entry) for entry in sorted(entries_of(tracker, f"name = '{name}'"), key=lambda entry: int(entry.version))]


def version_of(tracker: Tracker, name: str, number: str) -> Version:
    """One version; raises `UserError` with the choices."""
    return _version(tracker, find_version(tracker, f"models:/{name}/{number}"))


def best_on(versions: Iterable[Version], dataset: str, condition_on: str) -> Version | None:
    """The version with the fewest test bits/dim, of those on a data set (name and fingerprint) that are given the same (`condition_tag`).

    Versions that failed a check or were rolled back are left out; of equals the newest is taken. None where none is left.
    """
    sound = [one for one in comparable(versions, dataset, condition_on) if not one.put_aside]
    return min(sound, key=_rank, default=None)


def comparable(versions: Iterable[Version], dataset: str, condition_on: str) -> list[Version]:
    """Those whose recorded test bits/dim compare: on one data set (name and fingerprint), given the same (`condition_tag`)."""
    return [one for one in versions if (one.dataset, one.condition_on) == (dataset, condition_on) and math.isfinite(one.test_bits_per_dim)]


def best_without_champion(versions: Sequence[Version]) -> tuple[Version, str]:
    """What a name stands for while it has no champion, and why: of those that compare with the newest one the best.

    Versions that failed a check or were rolled back are left out, unless there are no others.
    """
    sound = [one for one in versions if not one.put_aside] or versions
    newest = sound[-1]
    scored = comparable(sound, newest.dataset, newest.condition_on)
    if not scored or not newest.dataset:
        return newest, "the newest, as no test bits/dim are recorded to compare it by"
    best = min(scored, key=_rank)
    return best, f"the best of {len(scored)} on '{best.dataset}' by its {best.test_bits_per_dim:z.4f} bits/dim of the test images"


def _rank(version: Version) -> tuple[float, int]:
    """Fewest bits/dim first; of equals the newest."""
    return version.test_bits_per_dim, -int(version.number)


def condition_tag(kinds: Iterable[str], small_factor: int) -> str:
    """What a version's images are given, as its tag says it: `label,small/2`, in one order; empty for nothing.

    Likelihoods of versions that are given different things do not compare: a small image of factor 2 tells more than one of factor 4.
    """
    return ",".join(f"{kind}/{small_factor}" if kind == "small" else kind for kind in sorted(kinds))


def _condition_of(params: Mapping[str, str]) -> str:
    """The tag of an older version, by the recipe among its run's parameters."""
    return condition_tag(json.loads(params.get("condition_on", "[]")), int(params.get("small_factor", 2)))


def _version(tracker: Tracker, entry: Any) -> Version:
    run = None
    if not {"architecture", "git_commit", CONDITION_TAG} <= dict(entry.tags).keys() and entry.run_id:
        run = find(lambda: tracker.client.get_run(entry.run_id))
    return Version.from_tags(entry, {}, {}) if run is None else Version.from_tags(entry, run.data.tags, run.data.params)
