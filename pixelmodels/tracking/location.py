"""Where runs and models are tracked, and whether that place can be written."""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage

DATABASE = "mlflow.db"  # file name, in the storage root or (for a bucket) in the working directory
_SQLITE = "sqlite:///"
_CONNECT_TIMEOUT_S = 5.0


def tracking_uri(storage: Storage) -> str:
    """MLflow's address: `MLFLOW_TRACKING_URI` if set, else SQLite in a local storage root, or in the working directory for a bucket.

    A relative SQLite path is made absolute, so that every process of this machine means the same file.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        folder = Path(storage.root) if storage.is_local else Path.cwd()
        return f"{_SQLITE}{folder / DATABASE}"
    path = sqlite_path(uri)
    return f"{_SQLITE}{path.absolute()}" if path is not None and "?" not in uri else uri


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite address, `None` for any other address."""
    return Path(uri.removeprefix(_SQLITE).split("?", 1)[0]) if uri.startswith(_SQLITE) else None


def is_server(uri: str) -> bool:
    """Whether an MLflow server answers at this address (and decides itself where artifacts go)."""
    return urlsplit(uri).scheme in ("http", "https", "databricks")


def check_reachable(uri: str) -> None:
    """Fail within seconds where MLflow itself would try again for minutes.

    Raises:
        UserError: the database cannot be written, or nobody listens at the server's address.
    """
    path = sqlite_path(uri)
    if path is not None:
        _check_sqlite(path)
        return
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.hostname:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((unquote(parts.hostname), port), timeout=_CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise UserError(f"no MLflow server answers at '{uri}' ({error}); start it, or correct MLFLOW_TRACKING_URI") from error
    elif parts.scheme in ("", "file"):
        raise UserError(
            f"MLFLOW_TRACKING_URI '{uri}' is a folder, which MLflow no longer writes; give sqlite:///{uri}/{DATABASE} or a server"
        )


def _check_sqlite(path: Path) -> None:
    """Open the database for writing, and leave it as it was; where there is none, write and remove a file in its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_made(path):
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-"):
                return
        connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE pixelmodels_write_check (a INTEGER)")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        reason = str(error).splitlines()[0]
        remedy = "give a storage root that can be written, or set MLFLOW_TRACKING_URI"
        raise UserError(f"the tracking database '{path}' cannot be written ({reason}); {remedy}") from error


def is_made(path: Path) -> bool:
    """Whether there is a database in this file; SQLite leaves an empty file where somebody only looked."""
    return path.exists() and path.stat().st_size > 0
