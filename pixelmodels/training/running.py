"""One process at a time trains in a run's folder: the same command twice would spoil its checkpoints."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking.source import is_gone
from pixelmodels.training.progress import Say

RUNNING = "running.json"  # in the run's folder: who trains in it, and a count that goes up while they do
BEAT_S = 10.0  # seconds between counts
WATCH_S = 35.0  # seconds for which the count of a process that may have died is watched
_LOOK_EVERY_S = 0.5


@contextmanager
def holding(storage: Storage, folder: str, name: str, say: Say, *, remedy: str = "give another --seed") -> Iterator[None]:
    """Hold a run's folder for this process while the context is open.

    Args: `name`, what the run is called in messages; `remedy`, what makes another run of it. Raises `UserError` when another process
    trains in it. One that ended on this host without giving it up is seen at once; anyone else is taken for dead when its count stands
    still for `WATCH_S`.
    """
    path = f"{folder}/{RUNNING}"
    _wait_until_free(storage, path, name, say, remedy)
    mine = {"host": socket.gethostname(), "process": os.getpid(), "id": uuid.uuid4().hex}
    _beat(storage, path, mine, 0)
    ended = threading.Event()
    beating = threading.Thread(target=_keep_beating, args=(storage, path, mine, ended), name=f"running {name}", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        storage.delete(path)


def _wait_until_free(storage: Storage, path: str, name: str, say: Say, remedy: str) -> None:
    first = _holder(storage, path)
    if first is None or is_gone(first.get("host"), str(first.get("process"))):
        return
    who = f"process {first.get('process')} on host '{first.get('host')}'"
    say(f"{name}: {who} was training it; looking whether it still is, for up to {WATCH_S:g} s")
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(min(_LOOK_EVERY_S, WATCH_S))
        now = _holder(storage, path)
        if now is None:
            return
        if now != first:
            raise UserError(f"{name}: {who} trains it already; wait for that, end it, or {remedy}")


def _keep_beating(storage: Storage, path: str, mine: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        try:
            _beat(storage, path, mine, count)
        except OSError:  # training itself will tell when the storage stays away
            continue


def _beat(storage: Storage, path: str, mine: dict[str, Any], count: int) -> None:
    storage.write_bytes(path, json.dumps({**mine, "count": count}).encode())


def _holder(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        content = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
