"""What a machine hears of its cloud before it is taken away, of servers that answer as Amazon's and Google's pages say they do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster import notice


class Cloud(ThreadingHTTPServer):
    """A cloud's server for machines: what it answers, by method and path, and the header without which it refuses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, str]] = {}
        self.needs = ("", "")
        self.asked = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Cloud

    def answer(self) -> None:
        header, value = self.server.needs
        status, body = self.server.answers.get((self.command, self.path), (404, ""))
        if self.command == "GET" and header and self.headers[header] != value:
            status, body = 401, ""
        self.server.asked += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_PUT = answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


TOKEN, ACTION = ("PUT", "/latest/api/token"), ("GET", "/latest/meta-data/spot/instance-action")
PREEMPTED = ("GET", "/computeMetadata/v1/instance/preempted")


def in_s(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def test_amazon_says_when(cloud: Cloud) -> None:
    cloud.needs = ("X-aws-ec2-metadata-token", "abc")
    cloud.answers[TOKEN] = (200, "abc")
    assert notice.amazon(cloud.address) is None
    cloud.answers[ACTION] = (200, f'{{"action": "terminate", "time": "{in_s(120)}"}}')
    assert 117 <= (notice.amazon(cloud.address) or 0) <= 120
    cloud.answers[ACTION] = (200, f'{{"action": "stop", "time": "{in_s(-5)}"}}')
    assert notice.amazon(cloud.address) == 0.0
    cloud.answers[TOKEN] = (200, "another")
    with pytest.raises(OSError):
        notice.amazon(cloud.address)


def test_google_says_that_it_does(cloud: Cloud) -> None:
    cloud.needs = ("Metadata-Flavor", "Google")
    cloud.answers[PREEMPTED] = (200, "FALSE\n")
    assert notice.google(cloud.address) is None
    cloud.answers[PREEMPTED] = (200, "TRUE")
    assert notice.google(cloud.address) == 30.0


def test_answers_that_make_no_sense_are_no_notice_and_no_end(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses, that is confused, and a proxy that knows nothing of it: the machine looks on until it is told."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(notice, "POLL_S", 0.001)
    cloud.answers[TOKEN] = (200, "abc")
    bodies = iter([(500, ""), (200, "<html>"), (200, "{}"), (200, '{"time": "soon"}'), (200, "[]")])

    def ask(url: str, headers: dict[str, str], method: str = "GET", before: Any = notice._ask) -> str:
        if "latest" in url and method == "GET":
            cloud.answers[ACTION] = next(bodies, (200, f'{{"time": "{in_s(60)}"}}'))
        return str(before(url, headers, method))

    monkeypatch.setattr(notice, "_ask", ask)
    assert 57 <= notice.wait_for_notice(cloud.address) <= 60
    assert cloud.asked == 5 * 3 + 2 and next(bodies, None) is None
    cloud.answers = {PREEMPTED: (200, "TRUE")}
    monkeypatch.undo()
    assert notice.wait_for_notice(cloud.address) == 30.0
