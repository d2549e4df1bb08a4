"""Storage roots of any name: the database and every artifact is inside, and nothing is beside it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy

from pipelines import promote
from pixelmodels.errors import UserError
from pixelmodels.promotion.candidates import choose_name
from pixelmodels.runs.loading import find_model
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry, tracking_uri
from pixelmodels.tracking.artifacts import download, names_in
from pixelmodels.tracking.location import artifact_uri, local_path, sqlite_path, sqlite_uri
from tests.tracking.conftest import model_files

ODD = ["what?", "my%20data", "a?b=c&d", "%3F", "%", "100%", "%zz", "a#b", "a;b=c", "'quoted\"", "two words", "café"]
ODD += ["new\nline", "back\\slash", "tab\t"]


@pytest.mark.parametrize("name", ODD)
def test_mlflow_opens_the_file_that_is_looked_at(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "mlflow.db"
    path.parent.mkdir()
    uri = sqlite_uri(path)
    assert sqlite_path(uri) == path
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE a (b INTEGER)"))
    engine.dispose()
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    assert os.listdir(tmp_path) == [name] and local_path(artifact_uri(str(path))) == path


def test_plain_names_keep_the_addresses_that_they_had(tmp_path: Path) -> None:
    for name in ("plain", "two words", "a#b", "café", "a;b"):
        root = tmp_path / name
        assert tracking_uri(Storage(str(root))) == f"sqlite:///{root}/mlflow.db"
        assert Tracker(Storage(str(root))).artifact_root == f"{root}/artifacts"


def test_an_address_of_the_users_means_what_mlflow_takes_it_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, file in (("my%20own.db", "my own.db"), ("100%25.db", "100%.db"), ("a+b.db", "a+b.db")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{given}")
        assert sqlite_path(tracking_uri(Storage("root"))) == tmp_path / file
        assert sqlalchemy.make_url(tracking_uri(Storage("root"))).database == str(tmp_path / file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite+pysqlite:////tmp/a.db?timeout=3")
    assert tracking_uri(Storage("root")) == "sqlite+pysqlite:////tmp/a.db?timeout=3" and sqlite_path(tracking_uri(Storage("root"))) == Path(
        "/tmp/a.db"
    )


@pytest.mark.parametrize("name", ["what?", "my%20data", "a#b%;'\"&=é\nx"])
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "made"])
def test_all_that_is_tracked_is_inside(name: str, is_new: bool, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = tmp_path / "roots" / name
    root.mkdir(parents=True)
    if not is_new:  # as an earlier call left it
        made = sqlite_path(tracker.uri)
        assert made is not None
        shutil.copy(made, root / "mlflow.db")
    there = Tracker(Storage(str(root)))
    there.check()
    run_id = there.start_or_resume_child("m", parent_run_id=None, run_key="k", params={"a": 1})
    there.log_metrics(run_id, {"a": 1.0}, 1)
    there.log_image(run_id, np.zeros((2, 2, 3), np.uint8), "grid", 1)
    _, folder = model_files(tmp_path / "model")
    there.log_artifact(run_id, folder / "model.json")
    version = registry.register(there, run_id, folder, "odd")
    there.finish(run_id)

    again = Tracker(Storage(str(root)))
    files = registry.model_folder(again, "models:/odd/latest")
    assert files.is_relative_to(root) and version == "1"
    assert find_model("models:/odd/1", again.storage, again).spec.width == 3
    place = again.client.get_run(run_id).info.artifact_uri
    assert names_in(again.uri, place) == {"model.json", "images"}
    assert download(again.uri, place, "model.json", tmp_path / "got").read_bytes() == (folder / "model.json").read_bytes()
    assert choose_name(again, "odd") == "odd" and again.is_there(run_id)
    with pytest.raises(UserError, match=r"no version .* has test bits/dim"):
        promote.main(["--best", "--name", "odd", "--storage", str(root)])
    assert os.listdir(root.parent) == [name] and not os.listdir(tmp_path / "work")
    assert {path.name for path in root.iterdir()} >= {"mlflow.db", "artifacts"}
