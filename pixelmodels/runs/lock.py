"""One process at a time trains in a run's folder: the same command twice would spoil its checkpoints."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pixelmodels.errors import UserError
from pixelmodels.progress import Say
from pixelmodels.storage import Storage
from pixelmodels.tracking.source import is_gone, process_identity

RUNNING = "running.json"  # in the run's folder: who trains in it, and a count that goes up while they do
BEAT_S = 10.0  # seconds between counts
WATCH_S = 35.0  # seconds for which the count of a process that may have died is watched
_LOOK_EVERY_S = 0.5


class Lost(UserError):
    """A folder that this process held is another's now, whose files it leaves alone; the message says whose, in one line."""


@dataclass(frozen=True)
class Hold:
    """A folder that is held, as whoever writes in it for the holder knows it, on whatever machine."""

    path: str  # of the file that says who holds it
    id: str  # the holder's
    after: str | None = None  # identity of the process whose place was taken, because it had ended, or was taken to have

    def lost_to(self, storage: Storage) -> str | None:
        """What became of the folder, in words, where another process has taken it; None where this one holds it.

        A process that was suspended, or cut off from the storage, is taken for dead and does not know it. Who took it may have ended.
        """
        now = _holder(storage, self.path)
        if now is None:
            return "another process had it meanwhile, and is done with it"
        return None if now.get("id") in (None, self.id) else f"{_who(now)} trains it now"


@contextmanager
def holding(storage: Storage, folder: str, name: str, say: Say, *, remedy: str = "give another --seed") -> Iterator[Hold]:
    """Hold a run's folder for this process while the context is open.

    Args: `name`, what the run is called in messages; `remedy`, what makes another run of it. Raises `UserError` when another process
    trains in it, or is about to: of several that begin in one instant one does. One that ended on this machine without giving it up is
    seen at once; anyone else is taken for dead when its count stands still for `WATCH_S`.
    """
    path = f"{folder}/{RUNNING}"
    mine = {"host": socket.gethostname(), "process": os.getpid(), "identity": process_identity(), "id": uuid.uuid4().hex}
    before: dict[str, Any] | None = None
    since = time.monotonic()
    while not _take(storage, path, mine, dead := _wait_until_free(storage, path, name, say, remedy)):
        # Another process was quicker: look at that one. Where it has still not gone on after `WATCH_S`, it died, too.
        if dead != before:
            before, since = dead, time.monotonic()
        elif dead is not None and time.monotonic() - since >= WATCH_S:
            storage.delete(_claim(path, dead))
    hold, ended = Hold(path, str(mine["id"]), after=dead.get("identity") if dead is not None else None), threading.Event()
    beating = threading.Thread(target=_keep_beating, args=(storage, hold, mine, ended), name=f"running {name}", daemon=True)
    beating.start()
    try:
        yield hold
    finally:
        ended.set()
        beating.join()
        with suppress(OSError):  # what was done is done; who comes next takes this process for dead
            if hold.lost_to(storage) is None:
                storage.delete(path)


def _wait_until_free(storage: Storage, path: str, name: str, say: Say, remedy: str) -> dict[str, Any] | None:
    """Whose place may be taken: a process that is dead, or taken to be; None where nobody holds the run."""
    first = _holder(storage, path)
    if first is None or is_gone(first.get("identity")):
        return first
    say(f"{name}: {_who(first)} was training it; looking whether it still is, for up to {WATCH_S:g} s")
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(min(_LOOK_EVERY_S, WATCH_S))
        now = _holder(storage, path)
        if now is None:
            return None
        if now != first:
            raise UserError(f"{name}: {_who(now)} trains it already; wait for that, end it, or {remedy}")
    return first


def _take(storage: Storage, path: str, mine: dict[str, Any], dead: dict[str, Any] | None) -> bool:
    """Take the place of a process that is dead, or of nobody; of all that try at once one does. Returns whether it was this one."""
    content = json.dumps({**mine, "count": 0}).encode()
    if dead is None:
        return storage.create(path, content)
    claim = _claim(path, dead)
    if not storage.create(claim, content):
        time.sleep(_LOOK_EVERY_S)
        if _holder(storage, path) == dead and is_gone((_holder(storage, claim) or {}).get("identity")):
            storage.delete(claim)  # who made it died before it could go on
        return False
    try:
        if _holder(storage, path) != dead:
            return False
        storage.write_bytes(path, content)
        return True
    finally:
        storage.delete(claim)


def _claim(path: str, dead: dict[str, Any]) -> str:
    """The file that one of those makes who want to take the place of a process that is dead."""
    return f"{path}.after-{dead.get('id')}"


def _keep_beating(storage: Storage, hold: Hold, mine: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        try:
            if hold.lost_to(storage) is not None:
                return
            storage.write_bytes(hold.path, json.dumps({**mine, "count": count}).encode())
        except OSError:  # training itself will tell when the storage stays away
            continue


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process')} on host '{holder.get('host')}'"


def _holder(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        content = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
