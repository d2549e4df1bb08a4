"""A run's folder is held by one process at a time, and freed by one that ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.training import running
from pixelmodels.training.running import RUNNING, holding

FOLDER = "runs/tiny-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, seconds in (("BEAT_S", 0.05), ("WATCH_S", 0.6), ("_LOOK_EVERY_S", 0.02)):
        monkeypatch.setattr(running, name, seconds)
    yield


def leave(storage: Storage, host: str, process: int) -> None:
    storage.write_bytes(f"{FOLDER}/{RUNNING}", json.dumps({"host": host, "process": process, "id": "x", "count": 3}).encode())


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
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave(storage, socket.gethostname(), ended.pid)
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
