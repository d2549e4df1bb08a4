"""Whatever answers at MLflow's address, or does not: one line within seconds, from every command, and never a password."""

from __future__ import annotations

import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest

import pixelmodels
from pipelines import evaluate, promote, sample, serve, train_all
from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, location

SECONDS = 20.0  # that a message may take on a machine with much to do
NO_SERVER = "is no MLflow server"
EMPTY = b'{"experiments": []}'
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class Answering(BaseHTTPRequestHandler):
    """Answers every call alike, and keeps what was asked."""

    status, body, asked = 200, EMPTY, list[tuple[str, str | None]]()

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        content = self.content(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def content(self, data: bytes) -> bytes:
        return self.body

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def answering(status: int = 200, body: bytes = EMPTY, handler: type[BaseHTTPRequestHandler] = Answering) -> Iterator[tuple[int, list]]:
    """The port of a server, and what it was asked."""
    asked: list[tuple[str, str | None]] = []
    kind = type("Handler", (handler,), {"status": status, "body": body, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "x")  # so that what is set on the way is taken back
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")


@pytest.fixture
def nobody() -> Iterator[str]:
    """Host and port where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


def told(call: Callable[[], object], *secrets: str) -> str:
    """The one line of a `UserError` that comes soon; no secret is in it, or in an error that led to it."""
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        call()
    assert time.monotonic() - started < SECONDS
    known: BaseException | None = error.value
    while known is not None:
        assert not any(secret in f"{known} {known!r}" for secret in secrets)
        known = known.__cause__ or (None if known.__suppress_context__ else known.__context__)
    assert "\n" not in str(error.value)
    return str(error.value)


def client(root: Path) -> object:
    return Tracker(Storage(str(root))).client


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>hello</html>", f"{NO_SERVER} (200 OK)"),
        (200, b"[]", NO_SERVER),
        (404, b'{"detail": "Not Found"}', f"{NO_SERVER} (404 Not Found)"),
        (405, b"", NO_SERVER),
        (407, b"", NO_SERVER),
        (401, b"You are not authenticated", f"refuses the call (401 Unauthorized); give a login that it knows as {LOGIN}"),
        (403, b"Permission denied", f"refuses the call (403 Forbidden); give a login that it knows as {LOGIN}"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "start it with --allowed-hosts"),
        (429, b"", "fails (429 Too Many Requests)"),
        (500, b"Traceback", "fails (500 Internal Server Error); see to it"),
        (503, b"", "fails (503 Service Unavailable)"),
    ],
)
def test_what_is_no_mlflow_server_is_told(status: int, body: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(status, body) as (port, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:s3cret@127.0.0.1:{port}")
        message = told(lambda: client(tmp_path), "s3cret", "bob")
    assert (
        f"at 'http://127.0.0.1:{port}' " in message
        and says in message
        and message.endswith(("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"))
    )


def test_tls_on_a_plain_port_and_plain_calls_of_a_tls_port_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as (port, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://bob:s3cret@127.0.0.1:{port}")
        assert f"no MLflow server answers at 'https://127.0.0.1:{port}' ([SSL" in told(lambda: client(tmp_path), "s3cret")
    certificate = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", "req", *certificate], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for scheme, says in (("http", "no MLflow server answers"), ("https", "certificate verify failed")):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://bob:s3cret@127.0.0.1:{server.server_port}")
            assert says in told(lambda: client(tmp_path), "s3cret")
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")  # MLflow's own setting is followed
        assert client(tmp_path)
        server.shutdown()


def test_a_server_that_takes_calls_and_says_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_ANSWER_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "(timed out); start it" in told(lambda: client(tmp_path))


def no_ray(**_: object) -> NoReturn:
    raise UserError("no Ray")


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "sample": lambda storage: sample.main(["models:/digits/1", *storage]),
    "evaluate": lambda storage: evaluate.main(["models:/digits/1", "--dataset", "tiny", *storage]),
    "promote": lambda storage: promote.main(["--best", *storage]),
    "serve": lambda storage: serve.main(["--model", "digits", *storage]),
    "train_all": lambda storage: train_all.main(storage),
    "load": lambda storage: pixelmodels.load("models:/digits@champion", storage[1]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_address_and_no_password(
    command: str, nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pixelmodels.evaluation.evaluate.find_dataset", lambda *_: None)
    storage = ["--storage", str(tmp_path / "root")]
    for uri, says in (
        (f"http://bob:s3cret@{nobody}", f"no MLflow server answers at 'http://{nobody}' ("),
        (f"http://s3cret@{nobody}", f"no MLflow server answers at 'http://{nobody}' ("),
        (f"http://s3cret:@{nobody}", f"no MLflow server answers at 'http://***@{nobody}' ("),
        (f"bob:s3cret@{nobody}", f"MLFLOW_TRACKING_URI '***@{nobody}' names no scheme; give an address such as http://host:5000"),
        (f"http://bob:s3#cret@{nobody}", "has a '#' in its user name or password; write it as %23, or give MLFLOW_TRACKING_USERNAME"),
        (f"postgresql://bob:s3cret@{nobody}/db", f"MLflow's database at 'postgresql://***@{nobody}/db' cannot be used ("),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert says in told(lambda: COMMANDS[command](storage), "s3cret", "cret@", "bob:")
    said = capfd.readouterr()
    assert "cret" not in said.out + said.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize("wrong", ["#", "/", "?", "@", "%", " ", "[", "\\", "\n"])
def test_a_password_that_is_not_encoded_is_told(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:pa{wrong}ss@host:5000")
    message = told(lambda: client(tmp_path), "pa" + wrong, wrong + "ss")
    assert "MLFLOW_TRACKING_URI 'http://***@host:5000'" in message and f"%{ord(wrong):02X}" in message and LOGIN in message


@pytest.mark.parametrize("uri", ["http://", "http://host:port", "http://host:99999", "http://[::1", "https://:5000", "HTTP://bob:s3cret@"])
def test_what_names_no_host_is_told(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "names no host, or no port; give an address such as http://host:5000" in told(lambda: client(tmp_path), "s3cret")


def test_a_login_reaches_the_server_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as (port, asked):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:s%23cr%2Fet@127.0.0.1:{port}/under")
        tracker = Tracker(Storage(str(tmp_path)))
        assert tracker.client
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")  # as in a worker, which has the tracker alone
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        program = "import pickle, sys; pickle.load(sys.stdin.buffer).client"
        subprocess.run([sys.executable, "-c", program], input=pickle.dumps(tracker), check=True)
    assert "cr" not in f"{tracker} {tracker.uri}" and tracker.uri == f"http://127.0.0.1:{port}/under"
    basic = "Basic Ym9iOnMjY3IvZXQ="  # bob:s#cr/et
    assert [login for _, login in asked] == [basic, basic]
    assert asked[0][0].startswith("/under/api/2.0/mlflow/experiments/search")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_presents_the_login(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.evaluation.evaluate.find_dataset", lambda *_: None)
    monkeypatch.setattr("pixelmodels.ray_cluster.connect", no_ray)  # which a training comes to then
    with answering() as (port, asked):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:s3cret@127.0.0.1:{port}")
        told(lambda: COMMANDS[command](["--storage", str(tmp_path / "root")]), "s3cret")  # there is no such model
    assert asked and {login for _, login in asked} == {"Basic Ym9iOnMzY3JldA=="}


class Probed(Answering):
    """Answers whether it is there, and refuses all else."""

    def do_GET(self) -> None:
        if not self.path.startswith(location._ASKED):
            self.status, self.body = 403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'
        super().do_GET()

    do_POST = do_GET


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_refuses_a_later_call_is_told(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.evaluation.evaluate.find_dataset", lambda *_: None)
    with answering(handler=Probed) as (port, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://bob:s3cret@127.0.0.1:{port}")
        message = told(lambda: COMMANDS[command](["--storage", str(tmp_path / "root")]), "s3cret")
    assert "PERMISSION_DENIED" in message or "403" in message
    if command in ("sample", "evaluate", "serve", "load"):
        assert message.startswith(f"MLflow at 'http://127.0.0.1:{port}' cannot be used (PERMISSION_DENIED: Permission denied); correct")


class Forwarding(Answering):
    """A forward proxy: it alone knows where `mlflow.invalid` is."""

    def content(self, data: bytes) -> bytes:
        place = self.path.replace("http://mlflow.invalid", self.body.decode())
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        request = urllib.request.Request(place, data or None, headers, method=self.command)
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with straight.open(request, timeout=10) as answer:
            return answer.read()


def test_a_server_that_only_a_proxy_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:s3cret@mlflow.invalid")
    assert "no MLflow server answers at 'http://mlflow.invalid' (" in told(lambda: client(tmp_path), "s3cret")
    with answering() as (port, asked), answering(body=f"http://127.0.0.1:{port}".encode(), handler=Forwarding) as (proxy, forwarded):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        tracker = Tracker(Storage(str(tmp_path)))
        assert tracker.client.search_experiments() == []
    assert len(asked) == len(forwarded) == 2 and all(path.startswith("http://mlflow.invalid/api") for path, _ in forwarded)
    assert all(login == "Basic Ym9iOnMzY3JldA==" for _, login in asked)


def test_a_proxy_that_is_not_there_is_told(nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://bob:s3cret@{nobody}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid")
    assert "no MLflow server answers at 'http://mlflow.invalid' through its proxy (" in told(lambda: client(tmp_path), "s3cret")
