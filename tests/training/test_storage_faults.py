"""A bucket that fails at some of its calls, is slow, or is full: a training goes on, or says what it is and leaves what it had."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from pixelmodels.errors import UserError
from pixelmodels.runs import checkpoints
from pixelmodels.runs.result import finished
from pixelmodels.storage import Storage, StorageFull
from pixelmodels.training.loop import train
from tests.s3 import bucket_server
from tests.training.tiny_run import assert_same, final_weights, tiny_plan

Fault = Callable[[str, str], int | None]  # of method and path: the status of an answer that the bucket never sees; None lets it through


@contextmanager
def behind_a_proxy(endpoint: str, fault: Fault) -> Iterator[str]:
    """A server that hands calls on to another, but for those that `fault` answers; gives its address."""
    target = urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while length := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            while self.rfile.readline().strip():  # what trails
                pass
            return b"".join(parts)

        def do(self) -> None:
            body = self.body()
            status = fault(self.command, self.path)
            if status is not None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection(str(target.hostname), int(target.port or 80))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("transfer-encoding", "content-length")}
            connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bucket() -> Iterator[Callable[[Fault], Storage]]:
    """Makes a storage root of a bucket with a fault."""
    with bucket_server("faulty") as uri, ExitStack() as proxies, pytest.MonkeyPatch.context() as patch:

        def behind(fault: Fault) -> Storage:
            patch.setenv("AWS_ENDPOINT_URL", proxies.enter_context(behind_a_proxy(os.environ["AWS_ENDPOINT_URL"], fault)))
            return Storage(f"{uri}/{uuid.uuid4().hex}")  # the server remembers what an earlier one of this process had

        yield behind


def test_calls_that_fail_by_chance_are_made_again(bucket: Callable[[Fault], Storage], storage: Storage) -> None:
    rng, failed = random.Random(0), []

    def tenth(method: str, path: str) -> int | None:
        if rng.random() < 0.1:
            failed.append(method)
            return 503
        return None

    plan = tiny_plan(bucket(tenth), checkpoint_every_s=1e-9)
    train(plan, say=lambda _: None)
    assert {"PUT", "GET"} <= set(failed)
    train(tiny_plan(storage), say=lambda _: None)
    assert_same(final_weights(plan), final_weights(tiny_plan(storage)))


def test_a_slow_bucket_changes_nothing(bucket: Callable[[Fault], Storage], storage: Storage) -> None:
    def slow(method: str, path: str) -> None:
        time.sleep(0.05)

    plan = tiny_plan(bucket(slow))
    assert train(plan, say=lambda _: None).test_nll_nats == train(tiny_plan(storage), say=lambda _: None).test_nll_nats


@pytest.mark.parametrize("status", [507, 403])
def test_a_bucket_that_takes_no_more_is_told_and_keeps_what_it_had(
    status: int, bucket: Callable[[Fault], Storage], storage: Storage
) -> None:
    is_full = False

    def full(method: str, path: str) -> int | None:
        return status if is_full and method in ("PUT", "POST") else None

    def fill(step: int) -> None:
        nonlocal is_full
        until = time.monotonic() + 60
        while step == 7 and checkpoints.steps(plan.storage, plan.folder) != [5, 6] and time.monotonic() < until:
            time.sleep(0.01)  # that of step 6 is written by a thread, which removes others after it
        is_full = step >= 7

    plan = tiny_plan(bucket(full), checkpoint_every_s=1e-9)
    with pytest.raises(
        StorageFull if status == 507 else OSError, match=r"'s3://faulty/\S+/runs/\S+' cannot be written .* goes on from it"
    ) as told:
        train(plan, say=lambda _: None, after_step=fill)
    assert "\n" not in str(told.value) and isinstance(told.value, UserError) == (status == 507)
    found = checkpoints.latest(plan.storage, plan.folder, print)
    assert found is not None and found.step == 6
    is_full = False
    result = train(plan, say=lambda _: None)
    assert finished(plan.storage, plan.folder) == result
    assert result.test_nll_nats == train(tiny_plan(storage), say=lambda _: None).test_nll_nats
