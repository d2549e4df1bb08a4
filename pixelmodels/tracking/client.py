"""An MLflow client that is quiet, made once, and patient when another process holds the database."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pixelmodels.errors import UserError
from pixelmodels.tracking.location import is_made, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
PATIENCE_S = 120.0  # how long a call waits for its turn to write to SQLite
_CHATTY = ("mlflow", "alembic", "sqlalchemy")


def make_client(uri: str) -> MlflowClient:
    """A client of one address; MLflow's global state is not touched. The first one of a process costs about 2 s, of a database 3 s more."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent to anybody, unless the user asks for it
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is fine
    from mlflow import MlflowClient

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:  # MLflow's own variable, read when it is imported, wins
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
    path = sqlite_path(uri)
    if path is not None and not is_made(path):
        _make_database(path)
    return patiently(lambda: MlflowClient(tracking_uri=uri, registry_uri=uri))


def _make_database(path: Path) -> None:
    """Make MLflow's tables, in about 3 s: once, however many processes start together, and wholly or not at all.

    MLflow itself makes them step by step in the file where they stay: two processes get in each other's way, and one that is killed
    leaves a database that nothing opens any more.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel takes it back when this process ends, however it ends
        if is_made(path):
            return
        unfinished = path.with_name(f".{path.name}.making")
        for left_over in path.parent.glob(f"{unfinished.name}*"):  # of a process that was killed here: the file and its journal
            left_over.unlink()
        store = SqlAlchemyStore(f"sqlite:///{unfinished}", str(path.with_name("artifacts")))
        store.engine.dispose()
        unfinished.replace(path)


def patiently(call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Run `call` again, a little later each time, while SQLite says that another process is writing.

    A call that is refused so has changed nothing: SQLite rolls its transaction back.
    """
    give_up_at = time.monotonic() + patience_s
    wait_s = 0.05
    while True:
        try:
            return call()
        except Exception as error:
            if not _is_locked(error) or time.monotonic() > give_up_at:
                raise
        time.sleep(wait_s * random.uniform(0.5, 1.5))  # processes that collided do not collide again
        wait_s = min(2 * wait_s, 2.0)


def _is_locked(error: Exception) -> bool:
    text = str(error)
    return "database is locked" in text or "database table is locked" in text or "database schema is locked" in text


def already_exists(error: Exception) -> bool:
    """Whether MLflow refused to make something because another process has just made it."""
    text = str(error).lower()  # SQLite and PostgreSQL say the first, MySQL the second
    return getattr(error, "error_code", None) == "RESOURCE_ALREADY_EXISTS" or "unique constraint" in text or "duplicate entry" in text


def is_missing(error: Exception) -> bool:
    """Whether MLflow knows nothing under the name that was asked for."""
    return getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def tracking_failure(uri: str, error: Exception) -> UserError:
    """The one line to tell when MLflow refuses to work at an address."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return UserError(
        f"MLflow at '{uri}' cannot be used ({lines[0][:300]}); correct MLFLOW_TRACKING_URI, or unset it for a database of its own"
    )
