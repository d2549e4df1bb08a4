"""The versions of a registered model, as their tags tell, and the nats of each test image that their runs recorded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelmodels.errors import UserError, unknown
from pixelmodels.tracking.client import patiently
from pixelmodels.tracking.location import check_reachable, is_made, sqlite_path
from pixelmodels.tracking.promotion_statistics import ImageNats, read_nats
from pixelmodels.tracking.registry import find_version
from pixelmodels.tracking.runs import Tracker
from pixelmodels.tracking.source import COMMIT_TAG

TEST_NATS = "test_nats.parquet"  # artifact of a version's run: the nats of each test image
DECISION_TAG, FAILED_TAG = "promotion.decision", "promotion.failed_checks"
ROLLED_BACK = "rolled back"  # what the first says of a champion that was taken back


@dataclass(frozen=True)
class Version:
    """One version of a registered model, as its tags tell."""

    name: str  # of the registered model
    number: str  # of the version
    run_id: str  # MLflow run that trained it
    architecture: str
    recipe: str
    dataset: str  # name and fingerprint of what it was trained on
    test_bits_per_dim: float  # as it was tagged; NaN when it was not
    commit: str | None  # of the code that trained it
    put_aside: bool = False  # it failed a check, or was champion and rolled back: only chosen by its number

    @property
    def uri(self) -> str:
        """Its address in the registry."""
        return f"models:/{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"version {self.number} ({self.recipe})"


def choose_name(tracker: Tracker, name: str | None) -> str:
    """The registered model that is meant: the only one unless named; raises `UserError` with the choices."""
    check_reachable(tracker.uri)
    database = sqlite_path(tracker.uri)
    names = [] if database is not None and not is_made(database) else _registered(tracker)
    if not names:
        raise UserError(f"no registered model in '{tracker.uri}'; train one with pipelines/train_all.py, or give its --storage")
    if name is None:
        if len(names) > 1:
            raise UserError(f"several registered models: {', '.join(sorted(names))}; choose one with --name")
        return names[0]
    if name not in names:
        raise unknown("registered model", name, names)
    return name


def versions_of(tracker: Tracker, name: str) -> list[Version]:
    """All versions of a registered model, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = patiently(lambda token=token: tracker.client.search_model_versions(f"name = '{name}'", page_token=token))  # type: ignore[misc]
        found += page
        token = page.token
        if not token:
            break
    return [_version(tracker, entry) for entry in sorted(found, key=lambda entry: int(entry.version))]


def version_of(tracker: Tracker, name: str, number: str) -> Version:
    """One version; raises `UserError` with the choices."""
    return _version(tracker, find_version(tracker, f"models:/{name}/{number}"))


def aliases_of(tracker: Tracker, name: str) -> dict[str, str]:
    """The versions that a registered model's aliases stand for."""
    found = patiently(lambda: tracker.client.get_registered_model(name))
    return {alias: str(number) for alias, number in found.aliases.items()}


def best_of(versions: Sequence[Version], champion: Version | None) -> Version:
    """The version with the fewest test bits/dim, of those on the champion's data set (the newest version's when there is no champion).

    Versions that failed a check or were rolled back are left out. Raises `UserError` when none is left.
    """
    dataset = champion.dataset if champion is not None else versions[-1].dataset if versions else ""
    fitting = [one for one in versions if one.dataset == dataset and math.isfinite(one.test_bits_per_dim) and not one.put_aside]
    if not fitting:
        raise UserError(
            f"no version on data set '{dataset}' has test bits/dim, passed its checks and was not rolled back; choose one with --version"
        )
    return min(fitting, key=lambda one: (one.test_bits_per_dim, -int(one.number)))


def recorded_nats(tracker: Tracker, version: Version) -> ImageNats:
    """The nats of each test image that a version's run recorded; raises `ValueError` when there are none that can be read."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(patiently(lambda: tracker.client.download_artifacts(version.run_id, TEST_NATS, folder)))
            data = path.read_bytes()
        except Exception as error:  # of as many kinds as there are stores of artifacts
            raise ValueError(f"{TEST_NATS} of run {version.run_id} cannot be had ({_first_line(error)})") from error
    try:
        return read_nats(data)
    except ValueError as error:
        raise ValueError(f"{TEST_NATS} of run {version.run_id} is damaged: {error}") from error


def _registered(tracker: Tracker) -> list[str]:
    return [str(model.name) for model in patiently(lambda: tracker.client.search_registered_models(max_results=1000))]


def _version(tracker: Tracker, entry: Any) -> Version:
    """A version by its own tags, or its run's where it has none: those of older versions say less."""
    tags: dict[str, str] = dict(entry.tags)
    of_run: dict[str, str] = {}
    if not {"architecture", "git_commit"} <= tags.keys() and entry.run_id:
        with suppress(Exception):  # the run may be gone
            of_run = dict(patiently(lambda: tracker.client.get_run(entry.run_id)).data.tags)
    try:
        bits = float(tags.get("test_bits_per_dim", "nan"))
    except ValueError:
        bits = math.nan
    return Version(
        name=str(entry.name),
        number=str(entry.version),
        run_id=str(entry.run_id or ""),
        architecture=tags.get("architecture") or of_run.get("architecture") or "unknown",
        recipe=tags.get("recipe") or of_run.get("mlflow.runName") or "unknown",
        dataset=tags.get("dataset", ""),
        test_bits_per_dim=bits,
        commit=tags.get("git_commit") or of_run.get(COMMIT_TAG),
        put_aside=bool(tags.get(FAILED_TAG)) or tags.get(DECISION_TAG) == ROLLED_BACK,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
