from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, tracking_uri


def test_default_is_a_database_in_a_local_root(tmp_path: Path) -> None:
    assert tracking_uri(Storage(str(tmp_path))) == f"sqlite:///{tmp_path}/mlflow.db"
    assert Tracker(Storage(str(tmp_path))).artifact_root == f"{tmp_path}/artifacts"


def test_default_for_a_bucket_is_a_database_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("s3://bucket/prefix")
    assert tracking_uri(storage) == f"sqlite:///{tmp_path}/mlflow.db"
    assert Tracker(storage).artifact_root == "s3://bucket/prefix/artifacts"


def test_variable_is_respected_and_relative_paths_mean_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert tracking_uri(Storage("elsewhere")) == f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri(Storage("elsewhere")) == "http://host:5000"
    assert Tracker(Storage("elsewhere")).artifact_root is None


def test_what_cannot_be_written_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=f"tracking database '{tmp_path}/file/mlflow.db' cannot be written") as told:
        Tracker(Storage(str(tmp_path / "file"))).check()
    assert "\n" not in str(told.value)
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough to be looked at" * 99)
    with pytest.raises(UserError, match="not a database"):
        Tracker(Storage(str(tmp_path))).check()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    with pytest.raises(UserError, match="is a folder, which MLflow no longer writes"):
        Tracker(Storage(str(tmp_path))).check()


def test_silent_server_is_told_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UserError, match="no MLflow server answers"):
            Tracker(Storage(str(tmp_path))).check()
        assert time.monotonic() - started < 10
