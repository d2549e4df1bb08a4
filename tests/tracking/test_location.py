from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, location, tracking_uri


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


MISTYPED = [
    "bob:{}@h:1",
    "//bob:{}@h:1",
    "://bob:{}@h:1",
    "http:/bob:{}@h:1",
    "http:bob:{}@h:1",
    "http//bob:{}@h:1",
    "http:\\\\bob:{}@h:1",
    "http:///bob:{}@h:1",
    "http://http://bob:{}@h:1",
    "http//:bob:{}@h:1",
    "htp://bob:{}@h:1",
    "ht tp://bob:{}@h:1",
    "'http://bob:{}@h:1'",
    "http://bob:{}@",
    "http://bob:{}@h:1/some@path",
    "http://bob:{}@h:one",
    "http://h:1?user=bob&password={}",
    "sqlite://bob:{}@h/db",
    "sqlite:bob:{}@h/db",
    "file://bob:{}@h/db",
    "file:bob:{}@h/db",
    "postgresql:bob:{}@h/db",
    "postgresql:/bob:{}@h/db",
    "postgresql:///bob:{}@h/db",
    "postgresql://bob:{}@h/db?x=a@b",
    "postgresql://h/db?user=bob&password={}",
    "postgresql://h/db?user=bob&password={}&x=a@b",
]


@pytest.mark.parametrize("password", ["Secret", *(f"Secret{mark}Word" for mark in ("@", ":", "/", "?", "#", "?a=", "%"))])
@pytest.mark.parametrize("address", MISTYPED)
def test_a_password_is_never_told_however_the_address_is_mistyped(
    address: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = address.format(password)

    def fails(*_: object, **__: object) -> NoReturn:
        raise OSError(f"cannot read {uri}, of which the host is '{password}'")

    monkeypatch.setattr(socket, "create_connection", fails)
    monkeypatch.setattr(location, "_answer", fails)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as told:
        tracker = Tracker(Storage(str(tmp_path)))
        assert not re.search("Secret|Word", repr(tracker))
        tracker.check()
    assert not re.search("Secret|Word", str(told.value)) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "uri", ["localhost:5000", "127.0.0.1:5000/under", "//host:5000", "http:/host:5000", "http:host", "://host", "bob@host"]
)
def test_an_address_without_its_scheme_is_told(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"names no scheme; give an address such as http://host:5000$"):
        tracking_uri(Storage("elsewhere"))


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("http://h:5000/some@path", "http://h:5000/some@path"),
        ("http://bob:s3cret@h:5000/under", "http://h:5000/under"),
        ("http://t0ken@h:5000", "http://h:5000"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("mlruns", "mlruns"),
        ("./a:b", "./a:b"),
        ("/a/me@home:x", "/a/me@home:x"),
        ("file:///a/me@home", "file:///a/me@home"),
        ("postgresql://h/db?password=pa@ss", "postgresql://h/db?password=pa@ss"),
    ],
)
def test_an_address_is_what_was_given_without_its_login(given: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri(Storage("elsewhere")) == uri


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://bob:s3cret@host:5000", "open http://host:5000 in a browser"),
        ("http://t0ken:@host:5000", "open http://***@host:5000 in a browser"),
        ("postgresql://bob:s3cret@host/db", "ui --host 127.0.0.1 --port 5000\n"),
        ("", "it shows sqlite:////"),
    ],
)
def test_the_page_of_runs_is_started_without_a_login_in_sight(uri: str, says: str, tmp_path: Path) -> None:
    python = tmp_path / "python"  # shows what MLflow would be started with, and that it knows the address
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\necho "$@"; test -n "$MLFLOW_BACKEND_STORE_URI"\n')
    python.chmod(0o755)
    (tmp_path / "installed").touch()
    command = ["make", "--no-print-directory", "ui", f"BIN={tmp_path}", f"STAMP={tmp_path}/installed", f"STORAGE={tmp_path}"]
    outer = ("MAKEFLAGS", "MFLAGS", "ARGS")  # of the make that runs the tests
    environment = {name: value for name, value in os.environ.items() if name not in outer} | {"MLFLOW_TRACKING_URI": uri}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert says in done.stdout and not re.search("s3cret|t0ken", done.stdout + done.stderr)
