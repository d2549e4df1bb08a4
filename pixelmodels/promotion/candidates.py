"""Which registered model and which of its versions are meant, and what their runs recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pixelmodels.errors import UserError, shown, unknown
from pixelmodels.evaluation.nats import TEST_NATS, ImageNats, read_nats
from pixelmodels.tracking.artifacts import download, names_in
from pixelmodels.tracking.client import find, find_all
from pixelmodels.tracking.location import is_made, sqlite_path
from pixelmodels.tracking.runs import Tracker
from pixelmodels.tracking.versions import Version, best_on


def choose_name(tracker: Tracker, name: str | None) -> str:
    """The registered model that is meant: the only one unless named; raises `UserError` with the choices."""
    tracker.check_reachable()
    database = sqlite_path(tracker.uri)
    empty = database is not None and not is_made(database)
    if name is not None and not empty and find(lambda: tracker.client.get_registered_model(name)):
        return name
    names = [] if empty else [str(model.name) for model in find_all(tracker.client.search_registered_models)]
    if not names:
        raise UserError(f"no registered model in '{shown(tracker.uri)}'; train one with pipelines/train_all.py, or give its --storage")
    if name is not None:
        raise unknown("registered model", name, names)
    if len(names) > 1:
        raise UserError(f"several registered models: {', '.join(sorted(names))}; choose one with --name")
    return names[0]


def best_of(versions: Sequence[Version], champion: Version | None) -> Version:
    """The version with the fewest test bits/dim, of those on the champion's data set that are given what the champion is given.

    Without a champion: on the newest version's data set, and given nothing. Versions that failed a check or were rolled back are left
    out. Raises `UserError` when none is left.
    """
    dataset = champion.dataset if champion is not None else versions[-1].dataset if versions else ""
    kinds = champion.condition_on if champion is not None else ""
    best = best_on(versions, dataset, kinds)
    if best is None:
        given = f"conditioned on {kinds}" if kinds else "conditioned on nothing"
        raise UserError(
            f"no version {given} on data set '{dataset}' has test bits/dim, passed its checks and was not rolled back; "
            "choose one with --version N"
        )
    return best


def recorded_nats(tracker: Tracker, version: Version) -> ImageNats:
    """The nats of each test image that a version's run recorded.

    Raises `UserError` when the file is gone or damaged; what a store raises that cannot be reached goes through.
    """
    if not version.run_id:
        raise UserError(f"{version} names no run, which would have recorded {TEST_NATS}; train it again")
    run = find(lambda: tracker.client.get_run(version.run_id))
    if run is None:
        raise UserError(f"its run {version.run_id}, which recorded {TEST_NATS}, is gone; train it again")
    folder_uri = run.info.artifact_uri
    if TEST_NATS not in names_in(tracker.uri, folder_uri):
        raise UserError(f"{TEST_NATS} of run {version.run_id} is gone from '{folder_uri}'; bring it back, or train the version again")
    with tempfile.TemporaryDirectory() as folder:
        data = download(tracker.uri, folder_uri, TEST_NATS, Path(folder)).read_bytes()
    try:
        return read_nats(data)
    except ValueError as error:
        raise UserError(f"{TEST_NATS} of run {version.run_id} is damaged: {error}; train the version again") from error
