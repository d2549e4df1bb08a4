"""Where runs and models are tracked, and whether that place can be reached and written."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from pixelmodels.errors import UserError, first_line, said_of, shown
from pixelmodels.storage import Storage

DATABASE = "mlflow.db"  # file name, in the storage root or (for a bucket) in the working directory
_SQLITE, _WITH_DRIVER = "sqlite:///", "sqlite+pysqlite:///"
_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 15.0  # a server that is busy may take some seconds
_ASKED = "/api/2.0/mlflow/experiments/search"  # what every MLflow server answers
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PLACE = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")  # of a server: host and port
_VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class Login(NamedTuple):
    """Whom a server knows one as; MLflow has variables for it, so that no address need hold it."""

    username: str
    password: str


def tracking_uri(storage: Storage) -> str:
    """MLflow's address: `MLFLOW_TRACKING_URI` if set, else SQLite in a local storage root, or in the working directory for a bucket.

    A relative SQLite path is made absolute, so that every process of this machine means the same file. See `tracking_address`.
    """
    return tracking_address(storage)[0]


def tracking_address(storage: Storage) -> tuple[str, Login | None]:
    """MLflow's address, and the login apart that was in it; raises `UserError` for an address that cannot be read."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        folder = Path(storage.root) if storage.is_local else Path.cwd()
        return sqlite_uri(folder / DATABASE), None
    path = sqlite_path(uri)
    if path is not None:
        return uri if "?" in uri else sqlite_uri(path.absolute()), None
    is_path = uri.startswith("file:") or ":" not in uri.partition("/")[0]
    if not re.match(r"[A-Za-z][\w+.-]*://", uri) and (not is_path or uri.startswith("//") or "@" in uri.partition("/")[0]):
        raise UserError(f"MLFLOW_TRACKING_URI '{shown(uri)}' names no scheme; give an address such as http://host:5000")
    return (uri, None) if uri.startswith("file:///") else _without_login(uri)


def _without_login(uri: str) -> tuple[str, Login | None]:
    scheme, separator, rest = uri.partition("://")
    login, at, place = rest.rpartition("@")
    if _PLACE.fullmatch(rest.partition("/")[0]):  # an @ behind it is of the path
        login, at, place = "", "", rest
    is_http = scheme.lower() in ("http", "https")
    if separator and at:
        wrong = re.search(r"[^\w.~!$&'()*+,;=:%-]|%(?![0-9a-fA-F]{2})", login)
        if wrong is not None:
            remedy = f"write it as {quote(wrong[0], safe='')}" + (f", or give {_VARIABLES} apart" if is_http else "")
            raise UserError(f"MLFLOW_TRACKING_URI '{shown(uri)}' has a {wrong[0]!r} in its user name or password; {remedy}")
    if not is_http:
        return uri, None
    try:
        parts = urlsplit(uri)
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text may hold the password
        is_address = False
    if not is_address:
        raise UserError(f"MLFLOW_TRACKING_URI '{shown(uri)}' names no host, or no port; give an address such as http://host:5000")
    username, colon, password = login.partition(":")
    if username and password:
        return f"{scheme}://{place}", Login(unquote(username), unquote(password))
    return uri if colon else f"{scheme}://{place}", None  # nobody sends a user name that stands alone


def sqlite_uri(path: Path) -> str:
    """The address of a database file: what SQLAlchemy would take for the end of the name, or for a code, is encoded.

    Of an encoded path MLflow would make the folder as it stands; it does not where the driver is named.
    """
    text = re.sub(r"[%?\x00-\x1f\x7f]", lambda found: quote(found[0]), str(path))
    return (_SQLITE if text == str(path) else _WITH_DRIVER) + text


def sqlite_path(uri: str) -> Path | None:
    """The file that SQLAlchemy opens at an SQLite address, `None` for any other address."""
    for prefix in (_SQLITE, _WITH_DRIVER):
        if uri.startswith(prefix):
            return Path(unquote(uri.removeprefix(prefix).split("?", 1)[0]))
    return None


def artifact_uri(place: str) -> str:
    """A folder or bucket as MLflow reads addresses: it takes a `?` and what looks like a code in a local path for its own."""
    is_taken = place.startswith("/") and re.search(r"[?\x00-\x1f\x7f]|%[0-9a-fA-F]{2}", place)
    return Path(place).as_uri() if is_taken else place


def local_path(uri: str) -> Path | None:
    """The local file or folder that MLflow means by an address, `None` where it is elsewhere."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return Path(uri) if uri.startswith("/") else None


def is_server(uri: str) -> bool:
    """Whether an MLflow server answers at this address (and decides itself where artifacts go)."""
    return uri.partition(":")[0].lower() in ("http", "https", "databricks")


def use(login: Login | None) -> None:
    """Give MLflow a login where it looks for one: in the environment of this process."""
    if login is not None:
        os.environ |= {"MLFLOW_TRACKING_USERNAME": login.username, "MLFLOW_TRACKING_PASSWORD": login.password}


def check_reachable(uri: str) -> None:
    """Fail within seconds where MLflow itself would try again for minutes; raises `UserError` in one line that names the address.

    A server is asked in MLflow's own way: through the proxies, with the login and the certificates that it would use itself.
    """
    path = sqlite_path(uri)
    if path is not None:
        _check_sqlite(path)
    elif is_server(uri):
        _check_server(uri)
    elif urlsplit(uri).scheme in ("", "file"):
        raise UserError(
            f"MLFLOW_TRACKING_URI '{shown(uri)}' is a folder, which MLflow no longer writes; "
            f"give sqlite:///{shown(uri).removeprefix('file://')}/{DATABASE} or a server"
        )
    else:
        _check_database(uri)


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
        remedy = "give a storage root that can be written, or set MLFLOW_TRACKING_URI"
        raise UserError(f"the tracking database '{path}' cannot be written ({first_line(error)}); {remedy}") from error


def is_made(path: Path) -> bool:
    """Whether there is a database in this file; SQLite leaves an empty file where somebody only looked."""
    return path.exists() and path.stat().st_size > 0


def told_place(storage: Storage, uri: str) -> str | None:
    """Where runs are tracked, in a line, where that is a database outside the storage root that nobody has named; else None."""
    path = sqlite_path(uri)
    if path is None or storage.is_local or os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return None
    return f"runs are tracked in '{path}', as a bucket holds no database; `make ui STORAGE={storage.root}` there shows them"


def _check_server(uri: str) -> None:
    where = f"at '{shown(uri)}'"
    try:
        answer = _answer(uri)
    except Exception as error:  # of as many kinds as there are ways to a server; its texts hold the whole address
        causes = list(_chain(error))
        proxy = " through its proxy" if any(type(cause).__name__ == "ProxyError" for cause in causes) else ""
        of_network = [cause for cause in causes if isinstance(cause, OSError)]
        reason = said_of(uri, [error, *of_network][-1])
        raise UserError(f"no MLflow server answers {where}{proxy} ({reason}); start it, or correct MLFLOW_TRACKING_URI") from None
    status = f"{answer.status_code} {answer.reason}".strip()
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status_code in (401, 403):
        remedy = f"give a login that it knows as {_VARIABLES}, or MLFLOW_TRACKING_TOKEN"
        if "host" in answer.text[:200].lower():
            remedy = "start it with --allowed-hosts, or correct MLFLOW_TRACKING_URI"
        raise UserError(f"the MLflow server {where} refuses the call ({status}); {remedy}")
    if answer.status_code >= 500 or answer.status_code == 429:
        raise UserError(f"the MLflow server {where} fails ({status}); see to it, or correct MLFLOW_TRACKING_URI")
    if not isinstance(content, dict) or (answer.status_code != 200 and "error_code" not in content):
        raise UserError(f"what answers {where} is no MLflow server ({status}); correct MLFLOW_TRACKING_URI")


def _answer(uri: str) -> Any:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.databricks_utils import get_databricks_host_creds
    from mlflow.utils.rest_utils import http_request

    to = get_databricks_host_creds(uri) if uri.partition(":")[0] == "databricks" else get_default_host_creds(uri)
    limits = {"max_retries": 0, "timeout": (_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S), "retry_timeout_seconds": _ANSWER_TIMEOUT_S}
    return http_request(to, _ASKED, "GET", raise_on_status=False, params={"max_results": 1}, **limits)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came of, to the first one."""
    known: BaseException | None = error
    while known is not None:
        yield known
        known = known.__cause__ or known.__context__


def _check_database(uri: str) -> None:
    """Connect once to a database of another kind, which MLflow itself would try 15 times."""
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
        port = url.port or _PORTS.get(url.get_backend_name())
        if url.host and port:  # a host that takes no notice would be waited for, each driver as it likes
            socket.create_connection((url.host, port), timeout=_CONNECT_TIMEOUT_S).close()
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
        engine.dispose()
    except Exception as error:  # of the driver's own kinds too
        reason, remedy = said_of(uri, error), "start it, or correct MLFLOW_TRACKING_URI"
        raise UserError(f"MLflow's database at '{shown(uri)}' cannot be used ({reason}); {remedy}") from None
