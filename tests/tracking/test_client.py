from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from pixelmodels.tracking import Tracker
from pixelmodels.tracking.client import patiently
from pixelmodels.tracking.location import sqlite_path


def test_waits_while_another_holds_the_database(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sqlite_path(tracker.uri)
    assert path is not None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{tracker.uri}?timeout=0.1")  # SQLite's own patience, 5 s unless given
    tracker = Tracker(tracker.storage)
    run_id = tracker.start_or_resume_child("waiting", parent_run_id=None, run_key="waiting", params={})
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, lambda: holder.execute("ROLLBACK")).start()
    started = time.monotonic()
    tracker.log_metrics(run_id, {"a": 1.0}, 0)
    assert time.monotonic() - started > 0.9
    assert [point.value for point in tracker.client.get_metric_history(run_id, "a")] == [1.0]
    holder.close()


def test_gives_up_in_the_end_and_at_once_for_other_errors(tmp_path: Path) -> None:
    calls: list[int] = []

    def locked() -> None:
        calls.append(1)
        raise sqlite3.OperationalError("database is locked")

    with pytest.raises(sqlite3.OperationalError):
        patiently(locked, patience_s=0.3)
    assert len(calls) > 2
    calls.clear()
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: calls.append(1) or 1 // 0)  # type: ignore[func-returns-value]
    assert calls == [1]
