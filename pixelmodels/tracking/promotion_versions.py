"""The versions of a registered model, as their tags tell, and the nats of each test image that their runs recorded."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pixelmodels.errors import UserError, unknown
from pixelmodels.tracking.artifacts import download, names_in
from pixelmodels.tracking.client import is_missing, patiently
from pixelmodels.tracking.location import check_reachable, is_made, sqlite_path
from pixelmodels.tracking.promotion_statistics import ImageNats, read_nats
from pixelmodels.tracking.registry import find_version
from pixelmodels.tracking.runs import Tracker
from pixelmodels.tracking.source import COMMIT_TAG

TEST_NATS = "test_nats.parquet"  # artifact of a version's run: the nats of each test image
DECISION_TAG, FAILED_TAG, REASON_TAG = "promotion.decision", "promotion.failed_checks", "promotion.reason"
ROLLED_BACK = "rolled back"  # what the first says of a champion that was taken back
CONDITION_TAG = "condition_on"  # kinds of context that the version's images are given, see `condition_tag`


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
    condition_on: str = ""  # kinds of context that it is given, see `condition_tag`; empty: none
    reason: str = ""  # of the last decision on it
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
    empty = database is not None and not is_made(database)
    if name is not None and not empty and _is_registered(tracker, name):
        return name
    names = [] if empty else [str(model.name) for model in _paged(lambda token: tracker.client.search_registered_models(page_token=token))]
    if not names:
        raise UserError(f"no registered model in '{tracker.uri}'; train one with pipelines/train_all.py, or give its --storage")
    if name is not None:
        raise unknown("registered model", name, names)
    if len(names) > 1:
        raise UserError(f"several registered models: {', '.join(sorted(names))}; choose one with --name")
    return names[0]


def versions_of(tracker: Tracker, name: str) -> list[Version]:
    """All versions of a registered model, oldest first."""
    found = _paged(lambda token: tracker.client.search_model_versions(f"name = '{name}'", page_token=token))
    return [_version(tracker, entry) for entry in sorted(found, key=lambda entry: int(entry.version))]


def version_of(tracker: Tracker, name: str, number: str) -> Version:
    """One version; raises `UserError` with the choices."""
    return _version(tracker, find_version(tracker, f"models:/{name}/{number}"))


def condition_tag(kinds: Iterable[str], small_factor: int) -> str:
    """What a version's images are given, as its tag says it: `label,small/2`, in one order; empty for nothing.

    Likelihoods of versions that are given different things do not compare: a small image of factor 2 tells more than one of factor 4.
    """
    return ",".join(f"{kind}/{small_factor}" if kind == "small" else kind for kind in sorted(kinds))


def best_of(versions: Sequence[Version], champion: Version | None) -> Version:
    """The version with the fewest test bits/dim, of those on the champion's data set that are given what the champion is given.

    Without a champion: on the newest version's data set, and given nothing. Versions that failed a check or were rolled back are left
    out. Raises `UserError` when none is left.
    """
    dataset = champion.dataset if champion is not None else versions[-1].dataset if versions else ""
    kinds = champion.condition_on if champion is not None else ""
    fitting = [
        one
        for one in versions
        if (one.dataset, one.condition_on) == (dataset, kinds) and math.isfinite(one.test_bits_per_dim) and not one.put_aside
    ]
    if not fitting:
        given = f"conditioned on {kinds}" if kinds else "conditioned on nothing"
        raise UserError(
            f"no version {given} on data set '{dataset}' has test bits/dim, passed its checks and was not rolled back; "
            "choose one with --version N"
        )
    return min(fitting, key=lambda one: (one.test_bits_per_dim, -int(one.number)))


def recorded_nats(tracker: Tracker, version: Version) -> ImageNats:
    """The nats of each test image that a version's run recorded.

    Raises `UserError` when the file is gone or damaged; what a store raises that cannot be reached goes through.
    """
    if not version.run_id:
        raise UserError(f"{version} names no run, which would have recorded {TEST_NATS}; train it again")
    try:
        folder_uri = patiently(lambda: tracker.client.get_run(version.run_id)).info.artifact_uri
    except Exception as error:
        if not is_missing(error):
            raise
        raise UserError(f"its run {version.run_id}, which recorded {TEST_NATS}, is gone; train it again") from error
    if TEST_NATS not in names_in(tracker, folder_uri):
        raise UserError(f"{TEST_NATS} of run {version.run_id} is gone from '{folder_uri}'; bring it back, or train the version again")
    with tempfile.TemporaryDirectory() as folder:
        data = download(tracker, folder_uri, TEST_NATS, Path(folder)).read_bytes()
    try:
        return read_nats(data)
    except ValueError as error:
        raise UserError(f"{TEST_NATS} of run {version.run_id} is damaged: {error}; train the version again") from error


def _is_registered(tracker: Tracker, name: str) -> bool:
    try:
        patiently(lambda: tracker.client.get_registered_model(name))
    except Exception as error:
        if not is_missing(error):
            raise
        return False
    return True


def _paged(search: Callable[[str | None], Any]) -> list[Any]:
    """All that MLflow finds, page by page."""
    found: list[Any] = []
    token: str | None = None
    while True:
        page = patiently(partial(search, token))
        found += page
        token = page.token
        if not token:
            return found


def _version(tracker: Tracker, entry: Any) -> Version:
    """A version by its own tags, or its run's where it has none: those of older versions say less."""
    tags: dict[str, str] = dict(entry.tags)
    of_run: Mapping[str, str] = {}
    params: Mapping[str, str] = {}
    if not {"architecture", "git_commit", CONDITION_TAG} <= tags.keys() and entry.run_id:
        try:
            data = patiently(lambda: tracker.client.get_run(entry.run_id)).data
            of_run, params = data.tags, data.params
        except Exception as error:
            if not is_missing(error):
                raise
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
        condition_on=tags[CONDITION_TAG] if CONDITION_TAG in tags else _condition_of(params),
        reason=tags.get(REASON_TAG, ""),
        put_aside=bool(tags.get(FAILED_TAG)) or tags.get(DECISION_TAG) == ROLLED_BACK,
    )


def _condition_of(params: Mapping[str, str]) -> str:
    """The tag of an older version, by the recipe among its run's parameters."""
    return condition_tag(json.loads(params.get("condition_on", "[]")), int(params.get("small_factor", 2)))
