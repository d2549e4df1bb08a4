"""What is asked of the nodes of a cluster before anything starts, and what is said of the first one that cannot do its part."""

from __future__ import annotations

import dataclasses
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pixelmodels import preflight
from pixelmodels.data import DatasetConfig
from pixelmodels.errors import UserError
from pixelmodels.preflight import Preflight, Report, look, unprepared, versions
from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker

NODES = {"1": "'a' (10.0.0.1)", "2": "'b' (10.0.0.2)"}
SERVER = "https://mlflow"
Answer = Callable[[Report, list[str]], tuple[Report, float] | str]


def answering(monkeypatch: pytest.MonkeyPatch, second: Answer) -> None:
    """Two nodes: this machine, and one of which `second` says what it answers, given an answer of this machine and the paths asked for."""

    def reports(_nodes: object, paths: list[str], storage: Storage, _tracker: object) -> dict[str, tuple[Report, float] | str]:
        here = look(paths, storage, None)
        return {"1": (here, 0.0), "2": second(here, paths)}

    monkeypatch.setattr(preflight, "node_names", lambda: NODES)
    monkeypatch.setattr(preflight, "_reports", reports)


@pytest.fixture
def tracker(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """Of a server, which nobody asks here."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    return Tracker(storage)


def other(late_s: float = 0.0, **changes: object) -> Answer:
    return lambda here, _: (dataclasses.replace(here, **changes), late_s)  # type: ignore[arg-type]


def test_nodes_that_agree_pass_and_nothing_is_left_behind(storage: Storage, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("here", b"")
    answering(monkeypatch, other(59.0))
    assert set(Preflight(storage, tracker).check()) == set(Preflight(storage).check()) == {"1", "2"}
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
        (other(61.0), ("has a clock that is 61 s off", "chrony")),
        (lambda *_: "does not answer; see to it", ("'b' (10.0.0.2) does not answer; see to it",)),
    ],
)
def test_the_node_that_cannot_is_named_with_the_remedy(
    second: Answer, words: tuple[str, ...], storage: Storage, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes("here", b"")
    answering(monkeypatch, second)
    with pytest.raises(UserError) as error:
        Preflight(storage, tracker).check()
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
        Preflight(storage, sources=(str(images),)).check()


def test_a_node_s_lacks_are_told_together(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("here", b"")
    answering(monkeypatch, other(61.0, failures={"MLflow": "timed out"}))
    with pytest.raises(UserError, match=r"^node 'b' \S+ cannot reach MLflow \(timed out\); .*; and it has a clock that is 61 s off; "):
        Preflight(storage).check()


def test_a_database_file_is_for_one_node(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("here", b"")
    answering(monkeypatch, other())
    file = Tracker(storage)
    with pytest.raises(
        UserError, match=r"an SQLite file, which 2 nodes cannot write together; start a server \(mlflow server .*\) and set"
    ):
        Preflight(storage, file).check()
    monkeypatch.setattr(preflight, "node_names", lambda: {"1": "'a'"})
    assert Preflight(storage, file).check() == {"1": None}
    counted: list[WorkerNeeds] = []
    monkeypatch.setattr(
        preflight, "cluster_nodes", lambda needs: counted.append(needs) or [{}] * 3
    )  # one is here, two an autoscaler may add
    with pytest.raises(UserError, match="which 3 nodes cannot write together"):
        Preflight(storage, file, WorkerNeeds(2)).check()
    assert counted == [WorkerNeeds(2)]
    Preflight(storage, None, WorkerNeeds(2)).check()


def test_nodes_ask_the_server_with_the_login_of_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process sees it: by the pickled tracker, and without the variables of this one."""
    import base64
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            knows = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ada:s3cret").decode()
            self.send_response(200 if knows else 401)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # put back as it was in the end
        monkeypatch.delenv(name)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:s3cret@127.0.0.1:{server.server_port}")
        tracker = pickle.loads(pickle.dumps(Tracker(Storage(str(tmp_path)))))
        report = look([], Storage(str(tmp_path)), tracker)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:other@127.0.0.1:{server.server_port}")
        refused = look([], Storage(str(tmp_path)), Tracker(Storage(str(tmp_path))))
        server.shutdown()
    assert report.failures == {} and "s3cret" not in repr(Preflight(Storage(str(tmp_path)), tracker))
    assert "401" in refused.failures["MLflow"] and "other" not in refused.failures["MLflow"]


def test_what_lies_where_one_may_not_look_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    report = look([str(tmp_path / "images")], Storage(str(tmp_path)), None)
    monkeypatch.undo()
    assert report.missing == (str(tmp_path / "images"),)


def test_this_machine_answers_for_itself(tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker = Tracker(Storage(str(tmp_path)))
    here, lacking = str(tmp_path), str(tmp_path / "nowhere")
    nodes = preflight.node_names()
    reports = preflight._reports(nodes, [here, lacking], Storage(str(tmp_path)), tracker)
    assert reports.keys() == nodes.keys() and len(nodes) == 1
    (answer,) = reports.values()
    assert not isinstance(answer, str)
    report, late_s = answer
    assert report.missing == (lacking,) and report.versions == versions() and late_s == 0.0
    assert "no MLflow server answers" in report.failures["MLflow"]


@pytest.mark.parametrize(
    ("prints", "found"),
    [
        ("echo 24576; echo 16384", 16384 << 20),
        ("echo 81559", 81559 << 20),
        ("echo '[N/A]'", None),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None),
        ("true", None),
        (None, None),
    ],
)
def test_the_memory_of_gpus_is_what_their_driver_says(
    prints: str | None, found: int | None, tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of the driver's name stands for it."""
    if prints is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{prints}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if prints is not None else str(tmp_path / "nothing"))
    assert look([], storage, None).gpu_bytes == found
    storage.write_bytes("here", b"")
    answering(monkeypatch, other(gpu_bytes=5))
    assert Preflight(storage).check() == {"1": found, "2": 5}
    monkeypatch.setattr(preflight, "node_names", lambda: {"1": NODES["1"]})
    assert Preflight(storage, needs=WorkerNeeds.asked("1", 1, True, None)).check() == {"1": found}


class Joining:
    """A cluster of one node, and one that has joined it since; what that answers, each time that it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, storage: Storage, *answers: Callable[[Report], Any]) -> None:
        storage.write_bytes("here", b"")
        self.answers, self.asked = list(answers), list[list[str]]()
        self.preflight = Preflight(storage, Tracker(storage), sources=("/images",))
        monkeypatch.setattr(preflight, "_JOIN_S", 0.01)
        monkeypatch.setattr(preflight, "node_names", lambda: NODES)
        monkeypatch.setattr(preflight, "_reports", self.reports)

    def reports(self, nodes: dict[str, str], paths: list[str], storage: Storage, _: object) -> dict[str, tuple[Report, float]]:
        self.asked.append([path for path in paths if not path.startswith(storage.root)])
        answer = self.answers.pop(0)(look(paths, storage, None))
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(nodes, answer)

    def lines(self, count: int) -> list[str]:
        """The first lines that are said of those who join."""
        said: list[str] = []
        with self.preflight.watching(said.append, {"1"}):
            deadline = time.monotonic() + 60
            while len(said) < count and time.monotonic() < deadline:
                time.sleep(0.01)
        assert not self.answers
        return said


DATABASE = "what runs on a node that has joined may fail: the tracking database '"


def test_a_node_that_joined_since_the_check_is_asked_and_not_for_images(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    joining = Joining(monkeypatch, storage, lambda here: (here, 0.0))
    joined, database = joining.lines(2)
    assert joined == "joined: node 'b' (10.0.0.2)" and joining.asked == [[]]
    assert database.startswith(DATABASE) and "which 2 nodes cannot write together; start a server" in database


def test_all_that_a_node_that_joins_lacks_is_said(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = {"MLflow": "timed out"}
    lacks, database = Joining(monkeypatch, storage, lambda here: (dataclasses.replace(here, failures=failures), 100.0)).lines(2)
    assert lacks.startswith("a node that has joined is not fit, and what runs on it may fail: node 'b' (10.0.0.2) cannot reach MLflow")
    assert "; and it has a clock that is 100 s off" in lacks and database.startswith(DATABASE)


def test_a_node_whose_answer_was_lost_is_asked_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    joining = Joining(monkeypatch, storage, lambda _: ConnectionError("the cluster does not answer"), lambda here: (here, 0.0))
    assert joining.lines(2)[0] == "joined: node 'b' (10.0.0.2)" and len(joining.asked) == 2
