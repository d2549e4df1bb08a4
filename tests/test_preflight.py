"""What is asked of the nodes of a cluster before anything starts, and what is said of the first one that cannot do its part."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelmodels import preflight
from pixelmodels.data import DatasetConfig
from pixelmodels.errors import UserError
from pixelmodels.preflight import Preflight, Report, look, unprepared, versions
from pixelmodels.storage import Storage

NODES = {"1": "'a' (10.0.0.1)", "2": "'b' (10.0.0.2)"}
SERVER = "https://mlflow"
Answer = Callable[[Report, list[str]], tuple[Report, float]]


def answering(monkeypatch: pytest.MonkeyPatch, second: Answer) -> None:
    """Two nodes: this machine, and one of which `second` says what it answers, given an answer of this machine and the paths asked for."""

    def reports(_nodes: object, paths: list[str], storage: Storage, _uri: str) -> dict[str, tuple[Report, float]]:
        here = look(paths, storage, "")
        return {"1": (here, 0.0), "2": second(here, paths)}

    monkeypatch.setattr(preflight, "node_names", lambda: NODES)
    monkeypatch.setattr(preflight, "_reports", reports)


def other(late_s: float = 0.0, **changes: object) -> Answer:
    return lambda here, _: (dataclasses.replace(here, **changes), late_s)  # type: ignore[arg-type]


def test_nodes_that_agree_pass_and_nothing_is_left_behind(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("here", b"")
    answering(monkeypatch, other(59.0))
    Preflight(storage, SERVER).check()
    Preflight(storage).check()
    assert storage.list() == ["here"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            lambda here, paths: (dataclasses.replace(here, missing=tuple(paths)), 0.0),
            ("does not see the storage root '", "s3://bucket/prefix"),
        ),
        (other(versions={**versions(), "torch": "1.0"}), ("has torch 1.0, and this process has",)),
        (other(versions={**versions(), "pixelmodels' code": "0"}), ("has pixelmodels' code 0", "--working-dir .")),
        (other(versions={}), ("has Python none",)),
        (other(failures={"MLflow": "timed out"}), ("cannot reach MLflow (timed out)", "network")),
        (other(61.0), ("the clock of node", "is 61 s off", "chrony")),
    ],
)
def test_the_node_that_cannot_is_named_with_the_remedy(
    second: Answer, words: tuple[str, ...], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes("here", b"")
    answering(monkeypatch, second)
    with pytest.raises(UserError) as error:
        Preflight(storage, SERVER).check()
    assert "node 'b' (10.0.0.2)" in str(error.value) and "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)
    assert storage.list() == ["here"]


def test_images_that_are_yet_to_be_prepared_must_be_seen(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("here", b"")
    images = tmp_path / "images"
    paths = (None, str(images), "s3://bucket/images")
    configs = [DatasetConfig() if path is None else DatasetConfig(source="folder", path=path) for path in paths]
    monkeypatch.setattr(preflight, "find_prepared", lambda *_: None)
    assert unprepared(configs, storage) == (str(images),)
    monkeypatch.setattr(preflight, "find_prepared", lambda *_: "a data set")
    assert unprepared(configs, storage) == ()
    images.mkdir()
    answering(monkeypatch, other(missing=(str(images),)))
    with pytest.raises(UserError, match=r"node 'b' \(10.0.0.2\) does not see the images in '.*images'; put them where all nodes see them"):
        Preflight(storage, SERVER, (str(images),)).check()


def test_a_database_file_is_for_one_node(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, other())
    file = f"sqlite:///{storage.root}/mlflow.db"
    with pytest.raises(
        UserError, match=r"an SQLite file, which 2 nodes cannot write together; start a server \(mlflow server .*\) and set"
    ):
        Preflight(storage, file).check()
    monkeypatch.setattr(preflight, "node_names", lambda: {"1": "'a'"})
    Preflight(storage, file).check()


def test_this_machine_answers_for_itself(tmp_path: Path, ray_cluster: None) -> None:
    here, lacking = str(tmp_path), str(tmp_path / "nowhere")
    nodes = preflight.node_names()
    reports = preflight._reports(nodes, [here, lacking], Storage(str(tmp_path)), "http://127.0.0.1:9")
    assert reports.keys() == nodes.keys() and len(nodes) == 1
    ((report, late_s),) = reports.values()
    assert report.missing == (lacking,) and report.versions == versions() and late_s == 0.0
    assert "no MLflow server answers" in report.failures["MLflow"]


def test_a_node_that_joins_is_asked_then(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_JOIN_S", 0.01)
    storage.write_bytes("here", b"")
    here = threading.Event()
    monkeypatch.setattr(preflight, "node_names", lambda: NODES if here.is_set() else {"1": NODES["1"]})
    late = [0.0, 100.0]
    monkeypatch.setattr(preflight, "_reports", lambda nodes, *_: {node: (look([], storage, ""), late[0]) for node in nodes})
    for expected in (
        "joined: node 'b' (10.0.0.2)",
        "a node that has joined is not fit, and what runs on it may fail: the clock of node 'b'",
    ):
        here.clear()
        lines: list[str] = []
        with Preflight(storage, SERVER).watching(lines.append):
            assert lines == []
            here.set()
            deadline = time.monotonic() + 60
            while not lines and time.monotonic() < deadline:
                time.sleep(0.01)
        assert len(lines) == 1 and lines[0].startswith(expected)
        late.pop(0)
