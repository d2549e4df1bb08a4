"""One process at a time moves the aliases of a registered model: MLflow itself has no compare-and-set for them."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from pixelmodels.errors import UserError
from pixelmodels.tracking.client import make
from pixelmodels.tracking.location import sqlite_path
from pixelmodels.tracking.runs import Tracker
from pixelmodels.tracking.source import is_gone, process_identity

LEASE_TAG = "promotion.lease"  # of the registered model: who moves its aliases
SETTLE_S = 3.0  # longest time from seeing the lease free to having written it; a claim stands when nobody wrote over it for as long
# A lease that has not changed for so long belongs to a process that died. One call to a server may take MLflow 20 minutes: 8 tries of
# 120 s and the pauses between them.
LEASE_S = 1800.0
PATIENCE_S = 2100.0  # how long one waits for others
_LOOK_EVERY_S = 0.2
_HELD = "held"  # what the tag begins with when the claim has stood


@contextmanager
def moving_aliases(tracker: Tracker, name: str) -> Iterator[None]:
    """Be the only process that moves aliases of a registered model while the context is open: a few calls, no computing.

    - A database in an SQLite file has writers on one machine only. The lock is the kernel's, on a file beside it: never two
      at once, and given back when its process ends, however it ends.
    - Behind a server there is a lease: a tag that one writes when it is empty, and holds when it is still one's own after `SETTLE_S`
      (Fischer's algorithm; Lamport, A fast mutual exclusion algorithm, 1987, section 2). Who took longer than that to write it does
      not hold it. It is taken from a process that died: at once if that was on this machine, else after `LEASE_S`, by the clock of
      who waits: never two at once as long as nobody stops for `LEASE_S` in the middle of moving aliases.

    The two do not exclude each other: all processes must reach one database in the same way.

    Whoever holds it reads the aliases again before moving them. Raises `UserError` when others hold it for too long.
    """
    database = sqlite_path(tracker.uri)
    if database is not None:
        path = database.with_name(f".{database.name}.aliases-{hashlib.sha256(name.encode()).hexdigest()[:12]}.lock")
        try:
            held = FileLock(path, timeout=PATIENCE_S, poll_interval=_LOOK_EVERY_S).acquire()
        except Timeout:
            raise _busy(name) from None
        with held:
            yield
    else:
        with lease(tracker, name):
            yield


@contextmanager
def lease(tracker: Tracker, name: str) -> Iterator[None]:
    """The lease of a registered model, as `moving_aliases` tells."""
    give_up_at = time.monotonic() + PATIENCE_S
    seen, since = "", time.monotonic()
    while True:
        looked, holder = time.monotonic(), _holder(tracker, name)
        if holder != seen:
            seen, since = holder, time.monotonic()
        if not holder or _has_died(holder) or time.monotonic() - since > LEASE_S:
            mine = f"{process_identity()} {uuid.uuid4().hex}"
            _claim(tracker, name, mine)
            if time.monotonic() - looked <= SETTLE_S:  # else others may be inside already: a late claim is waited out like a dead one
                time.sleep(SETTLE_S)
                if _holder(tracker, name) == mine:
                    mine = f"{_HELD} {mine}"
                    _write(tracker, name, mine)
                    break
        if time.monotonic() > give_up_at:
            raise _busy(name)
        time.sleep(_LOOK_EVERY_S)
    try:
        yield
    finally:
        with suppress(Exception):  # what went wrong inside is what matters; a lease that is not given back is taken
            tracker.check_reachable()  # MLflow itself would try again for minutes
            if _holder(tracker, name) == mine:
                _write(tracker, name, "")


def _has_died(holder: str) -> bool:
    """Whether a process of this machine held the lease and has ended; of a mere claim not, which may lie over the lease of another."""
    held, identity, *_ = [*holder.split(" "), ""]
    return held == _HELD and is_gone(identity)


def _holder(tracker: Tracker, name: str) -> str:
    return str(tracker.client.get_registered_model(name).tags.get(LEASE_TAG, ""))


def _claim(tracker: Tracker, name: str, value: str) -> None:
    make(lambda: _write(tracker, name, value))  # not made: another process has made the tag at this very moment


def _write(tracker: Tracker, name: str, value: str) -> None:
    tracker.client.set_registered_model_tag(name, LEASE_TAG, value)


def _busy(name: str) -> UserError:
    return UserError(f"other processes move the aliases of registered model '{name}' for more than {PATIENCE_S:g} s; try again later")
