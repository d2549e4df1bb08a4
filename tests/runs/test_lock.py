"""A run's folder is held by one process at a time, and freed by one that ends, however it ends."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pixelmodels.errors import UserError
from pixelmodels.runs import checkpoints
from pixelmodels.runs import lock as running
from pixelmodels.runs.lock import RUNNING, Lost, holding
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from tests.gs import google_bucket_server
from tests.s3 import bucket_server
from tests.training.tiny_run import tiny_plan

FOLDER = "runs/tiny-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    set_times(monkeypatch, beat_s=0.05, watch_s=0.6, look_every_s=0.02)
    yield


def set_times(monkeypatch: pytest.MonkeyPatch, *, beat_s: float, watch_s: float, look_every_s: float) -> None:
    for name, seconds in (("BEAT_S", beat_s), ("WATCH_S", watch_s), ("_LOOK_EVERY_S", look_every_s)):
        monkeypatch.setattr(running, name, seconds)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with bucket_server("locks") as uri:
        yield uri


@pytest.fixture(scope="module")
def google_server() -> Iterator[str]:
    with google_bucket_server("locks") as uri:
        yield uri


@pytest.fixture
def google_bucket(google_server: str, request: pytest.FixtureRequest) -> Storage:
    """A prefix of a gs:// bucket for one test."""
    return Storage(f"{google_server}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}")


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest) -> Storage:
    """A prefix of a bucket for one test."""
    return Storage(f"{server}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}")


def leave(storage: Storage, host: str, process: int, identity: str | None = None) -> None:
    content = {"host": host, "process": process, "identity": identity, "id": "x", "count": 3}
    storage.write_bytes(f"{FOLDER}/{RUNNING}", json.dumps(content).encode())


def ended_process() -> tuple[int, str]:
    """Number and identity of a process of this machine that has ended."""
    program = "from pixelmodels.tracking.source import process_identity; print(process_identity())"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        identity = process.communicate()[0].strip()
    return process.pid, identity


def test_a_run_that_is_trained_already_is_refused_with_host_and_process(storage: Storage) -> None:
    lines: list[str] = []
    with holding(storage, FOLDER, "tiny", lines.append):
        with pytest.raises(UserError) as refused, holding(storage, FOLDER, "tiny", lines.append):
            pass
        assert f"process {os.getpid()} on host '{socket.gethostname()}' trains it already" in str(refused.value)
    assert "looking whether it still is" in lines[0] and len(lines) == 1
    assert not storage.exists(f"{FOLDER}/{RUNNING}")


def test_it_is_given_up_when_training_fails(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError), holding(storage, FOLDER, "tiny", print):
        raise ZeroDivisionError
    assert not storage.exists(f"{FOLDER}/{RUNNING}")


def test_a_process_that_was_killed_here_is_passed_over_at_once(storage: Storage) -> None:
    leave(storage, socket.gethostname(), *ended_process())
    lines: list[str] = []
    with holding(storage, FOLDER, "tiny", lines.append):
        assert json.loads(storage.read_bytes(f"{FOLDER}/{RUNNING}"))["process"] == os.getpid()
    assert lines == []


def test_a_process_of_another_host_is_taken_for_dead_when_its_count_stands_still(storage: Storage) -> None:
    leave(storage, "another-host", 17)
    lines: list[str] = []
    with holding(storage, FOLDER, "tiny", lines.append):
        assert "process 17 on host 'another-host'" in lines[0]


def test_a_process_of_another_host_that_ends_while_it_is_watched_frees_the_run(storage: Storage) -> None:
    leave(storage, "another-host", 17)
    timer = threading.Timer(0.1, storage.delete, [f"{FOLDER}/{RUNNING}"])
    timer.start()
    with holding(storage, FOLDER, "tiny", lambda _: None):
        pass
    timer.join()


def test_a_process_of_another_container_with_this_host_s_name_is_watched(storage: Storage) -> None:
    """Its number says nothing here: another process has it, or none, while it trains on."""
    number, identity = ended_process()
    elsewhere = identity.replace("pid:[", "pid:[9")
    assert elsewhere != identity
    leave(storage, socket.gethostname(), number, elsewhere)
    lines: list[str] = []
    with holding(storage, FOLDER, "tiny", lines.append):
        assert f"process {number} on host" in lines[0]


def begin_all(storage: Storage, count: int) -> list[str]:
    """Begin in `count` threads in one instant, and hold the run until all have ended or been refused; how each of them ended."""
    ready, refused = threading.Barrier(count), threading.Semaphore(0)

    def begin() -> str:
        ready.wait()
        try:
            with holding(storage, FOLDER, "tiny", lambda _: None):
                for _ in range(count - 1):
                    assert refused.acquire(timeout=60)
                return "trained"
        except UserError as error:
            refused.release()
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(begin) for _ in range(count)]]


@pytest.mark.parametrize("place", ["folder", "bucket", "google_bucket"])
@pytest.mark.parametrize("left", ["nothing", "a dead process", "a dead process elsewhere", "a damaged file"])
def test_of_several_that_begin_in_one_instant_one_trains(
    place: str, left: str, storage: Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_times(monkeypatch, beat_s=0.1, watch_s=2.5, look_every_s=0.1)  # six of them, and the server in the same process
    if place != "folder":
        storage = request.getfixturevalue(place)
    if left == "a dead process":
        leave(storage, socket.gethostname(), *ended_process())
    elif left == "a dead process elsewhere":
        leave(storage, "another-host", 17)
    elif left == "a damaged file":
        storage.write_bytes(f"{FOLDER}/{RUNNING}", b"{")
    ends = begin_all(storage, 6)
    assert ends.count("trained") == 1
    assert all("trains it already" in end for end in ends if end != "trained")
    assert storage.list(FOLDER) == []


def test_who_is_taken_for_dead_and_is_not_neither_goes_on_nor_ends_the_other(storage: Storage) -> None:
    """As a laptop that slept: it lost the run to another, which its beats must not overwrite, nor its end remove."""
    plan, other = tiny_plan(storage), {"host": "another-host", "process": 17, "identity": None, "id": "x", "count": 3}
    with holding(storage, plan.folder, "tiny", lambda _: None) as hold:
        plan = dataclasses.replace(plan, hold=hold)
        plan.check_held()
        (beats,) = [thread for thread in threading.enumerate() if thread.name == "running tiny"]
        while beats.is_alive():  # one beat may fall between the other's first look and its write
            storage.write_bytes(hold.path, json.dumps(other).encode())
            beats.join(0.1)
        with pytest.raises(Lost, match="process 17 on host 'another-host' trains it now"):
            train(plan, say=lambda _: None)
        assert checkpoints.latest(storage, plan.folder, print) is None
    assert json.loads(storage.read_bytes(hold.path)) == other


def test_who_wakes_after_another_has_finished_the_run_leaves_its_checkpoints(storage: Storage) -> None:
    plan = tiny_plan(storage)
    with holding(storage, plan.folder, "tiny", lambda _: None) as hold:
        plan = dataclasses.replace(plan, hold=hold)
        (beats,) = [thread for thread in threading.enumerate() if thread.name == "running tiny"]
        while beats.is_alive():  # one beat may fall between its look and what the other does
            storage.delete(hold.path)  # as the other's end does
            beats.join(0.1)
        assert not storage.exists(hold.path)
        with pytest.raises(Lost, match="another process had it meanwhile, and is done with it"):
            train(plan, say=lambda _: None)
        assert checkpoints.latest(storage, plan.folder, print) is None
    assert not storage.exists(hold.path)


@pytest.mark.parametrize("is_here", [False, True])
def test_a_claim_of_a_process_that_died_before_it_went_on_is_no_end(is_here: bool, storage: Storage) -> None:
    number, identity = ended_process() if is_here else (17, None)
    leave(storage, "another-host", number, identity)
    assert storage.create(f"{FOLDER}/{RUNNING}.after-x", b"{}")
    with holding(storage, FOLDER, "tiny", lambda _: None):
        assert json.loads(storage.read_bytes(f"{FOLDER}/{RUNNING}"))["process"] == os.getpid()
    assert storage.list(FOLDER) == []


@pytest.mark.parametrize("fails", ["read_bytes", "delete"])
def test_a_storage_that_does_not_answer_at_the_end_does_not_undo_what_was_done(
    fails: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("timed out")

    with holding(storage, FOLDER, "tiny", lambda _: None):
        monkeypatch.setattr(Storage, fails, refuse)
