"""An MLflow client that is quiet, made once, and patient when another process holds the database."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pixelmodels.errors import UserError, said_of, shown
from pixelmodels.tracking.location import artifact_uri, check_reachable, is_made, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
PATIENCE_S = 120.0  # how long a call waits for its turn to write to SQLite
_CHATTY = ("mlflow", "alembic", "sqlalchemy")


class _Patient:
    """MLflow's client, whose every call is made `patiently`."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: patiently(lambda: method(*arguments, **options))


def make_client(uri: str) -> MlflowClient:
    """A client of one address; MLflow's global state is not touched. The first one of a process costs about 2 s, of a database 3 s more.

    Raises `UserError` in one line, within seconds, where nobody answers at the address, or something else than MLflow does.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent to anybody, unless the user asks for it
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every run that ends
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is fine
    from mlflow import MlflowClient

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:  # MLflow's own variable, read when it is imported, wins
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
    path = sqlite_path(uri)
    if path is None or not is_made(path):
        check_reachable(uri)
    try:
        if path is not None and not is_made(path):
            _make_database(path)
        return cast("MlflowClient", _Patient(patiently(lambda: MlflowClient(tracking_uri=uri, registry_uri=uri))))
    except Exception as error:
        raise tracking_failure(uri, error) from error


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
        store = SqlAlchemyStore(sqlite_uri(unfinished), artifact_uri(str(path.with_name("artifacts"))))
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
    return any(f"{what} is locked" in text for what in ("database", "database table", "database schema"))


def find(call: Callable[[], T]) -> T | None:
    """What a call finds; None where MLflow knows nothing under the name that it asks for."""
    try:
        return call()
    except Exception as error:
        if getattr(error, "error_code", None) not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        return None


def find_all(search: Callable[..., Any]) -> list[Any]:
    """All that a search finds, page by page."""
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def make(call: Callable[[], object]) -> bool:
    """Have MLflow make something: False where another process has just made it."""
    try:
        call()
    except Exception as error:
        if not already_exists(error):
            raise
        return False
    return True


def already_exists(error: Exception) -> bool:
    """Whether MLflow refused to make something because another process has just made it."""
    text = str(error).lower()  # SQLite and PostgreSQL say the first, MySQL the second
    return getattr(error, "error_code", None) == "RESOURCE_ALREADY_EXISTS" or "unique constraint" in text or "duplicate entry" in text


def is_of_mlflow(error: Exception) -> bool:
    """Whether MLflow, its database or the way there failed, and not this program."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, (MlflowException, SQLAlchemyError, OSError))


def tracking_failure(uri: str, error: Exception) -> UserError:
    """The one line to tell when MLflow refuses to work at an address."""
    path, reason = sqlite_path(uri), said_of(uri, error)
    if path is not None:
        return UserError(f"the tracking database '{path}' cannot be used ({reason}); give another storage root, or set MLFLOW_TRACKING_URI")
    remedy = "correct MLFLOW_TRACKING_URI, or unset it for a database of its own"
    return UserError(f"MLflow at '{shown(uri)}' cannot be used ({reason}); {remedy}")
