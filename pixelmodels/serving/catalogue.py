"""The versions of the registered models that are served: what is known of each, and how they came to be champions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pixelmodels.runs.result import RunResult, finished, run_folder
from pixelmodels.serving.schemas import Decision, VersionInfo, Versions
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker
from pixelmodels.tracking.location import is_server
from pixelmodels.tracking.registry import entries_of
from pixelmodels.tracking.runs import KIND_TAG
from pixelmodels.tracking.versions import Version, versions_of

LOCAL_UI = "http://127.0.0.1:5000"  # of `make ui`
MOST_DECISIONS = 50  # of a name, the newest ones


def catalogue_of(tracker: Tracker, storage: Storage, names: tuple[str, ...]) -> Versions:
    """All versions of some registered names, newest first, and the decisions on them. Raises what MLflow raises."""
    found: list[VersionInfo] = []
    decisions: list[Decision] = []
    for name in names:
        entries = {str(entry.version): entry for entry in entries_of(tracker, f"name = '{name}'")}
        if not entries:
            continue
        aliases = dict(tracker.client.get_registered_model(name).aliases)
        for version in reversed(versions_of(tracker, name)):
            if (entry := entries.get(version.number)) is not None:
                mine = sorted(alias for alias, number in aliases.items() if str(number) == version.number)
                found.append(_info(version, mine, entry, _result(storage, version, entry.tags)))
        decisions += _decisions(tracker, name)
    place = tracker.uri.rstrip("/") if is_server(tracker.uri) else LOCAL_UI
    return Versions(versions=found, decisions=decisions, mlflow=place, experiment=tracker.experiment_id)


def _result(storage: Storage, version: Version, tags: Mapping[str, str]) -> RunResult | None:
    """What the run's folder says, where the storage root has it: more than the registry does."""
    key = tags.get("run_key", "")
    if not re.fullmatch(r"[0-9a-f]+", key) or "/" in version.recipe:
        return None
    try:
        return _result_in(storage.root, run_folder(version.recipe, key))
    except (OSError, ValueError, TypeError):  # not there (yet), damaged, or of another release
        return None


@lru_cache(4096)
def _result_in(root: str, folder: str) -> RunResult:
    """The result in a run's folder, which never changes; raises `FileNotFoundError` as long as there is none."""
    result = finished(Storage(root), folder)
    if result is None:
        raise FileNotFoundError(folder)
    return result


def _info(version: Version, aliases: list[str], entry: Any, result: RunResult | None) -> VersionInfo:
    bits = version.test_bits_per_dim
    return VersionInfo(
        model=f"{version.name}/{version.number}",
        aliases=aliases,
        architecture=version.architecture,
        recipe=version.recipe,
        dataset=version.dataset,
        condition_on=version.condition_on,
        likelihood=None if result is None else result.likelihood,
        parameters=None if result is None else result.parameters,
        test_bits_per_dim=bits if math.isfinite(bits) else None,
        test_bits_per_dim_stderr=None if result is None else _finite(result.test_bits_per_dim_stderr),
        images_per_second=None if result is None else _finite(result.samples_per_second),
        registered_at=entry.creation_timestamp / 1000 if entry.creation_timestamp else None,
        put_aside=version.put_aside,
        reason=version.reason,
        run_id=version.run_id,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _decisions(tracker: Tracker, name: str) -> list[Decision]:
    """What was decided on the versions of a name, newest first, as the runs of promotions tell it."""
    condition = f"tags.`{KIND_TAG}` = 'promotion' and tags.registered_model = '{name}'"
    newest = ["attributes.start_time DESC"]
    runs = tracker.client.search_runs([tracker.experiment_id], condition, max_results=MOST_DECISIONS, order_by=newest)
    return [
        Decision(
            model=f"{name}/{run.data.tags.get('model_version', '')}",
            outcome=run.data.tags["outcome"],
            reason=run.data.tags.get("reason", ""),
            champion_then=run.data.tags.get("champion_then") or None,
            decided_at=run.info.start_time / 1000,
            difference=run.data.metrics.get("difference/mean"),
            low=run.data.metrics.get("difference/low"),
            high=run.data.metrics.get("difference/high"),
            run_id=run.info.run_id,
        )
        for run in runs
        if "outcome" in run.data.tags
    ]
