"""The service as people start it: `pipelines/serve.py` in a process group of its own, with a Ray of its own, until it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pixelmodels.models.files import save_model
from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Request
from pixelmodels.serving.client import Client, Images
from tests.serving.conftest import small_model
from tests.serving.web import parents, pids

pytestmark = [pytest.mark.slow, pytest.mark.faults]
ROOT = Path(__file__).parents[2]
NOWHERE = "http://user:s3cret@127.0.0.1:9"  # a proxy that nobody reaches
PROXIES = {name: NOWHERE for lower in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy") for name in (lower, lower.upper())}


class Running:
    """The process, and what it has said so far."""

    def __init__(self, folder: Path, *flags: str):
        environ = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "pipelines" / "serve.py"), *flags],
            cwd=folder,
            env={**environ, **PROXIES, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()

    def says(self, start: str, within_s: float = 300) -> str:
        """The first line that begins so."""

        def found() -> list[str]:
            return [line for line in self.lines if line.startswith(start)]

        with self._more:
            assert self._more.wait_for(lambda: found() or self.process.poll() is not None, within_s) and found(), self.lines
            return found()[0]

    def children(self) -> list[int]:
        return [pid for pid in pids() if self.process.pid in parents(pid)]

    def ended(self, within_s: float) -> int:
        """Its status; nothing that it started is left."""
        children = self.children()
        status = self.process.wait(timeout=within_s)
        until = time.monotonic() + 120
        while (left := set(children) & set(pids())) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left
        self._reader.join(timeout=30)
        return status


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Of a folder that is named as it is found from where the command is given."""
    save_model(tmp_path / "here" / "model", small_model(0, num_layers=32))
    made = Running(tmp_path / "here", "--model", "./model", "--storage", "storage", "--port", "0", "--replicas", "1", "--slots", "8")
    yield made
    if made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGTERM, False)], ids=["term-all", "ctrl-c", "term"]
)
def test_it_answers_and_ends_as_it_says(running: Running, number: signal.Signals, whole_group: bool) -> None:
    """Through no proxy, whatever the environment names; what was begun is finished, and nothing else is said."""
    url = running.says("serving on ").split()[2].rstrip(",")
    client, model = Client(url, timeout_s=120), small_model(0, num_layers=32)
    drawn = client.samples(3, seed=5)
    assert np.array_equal(drawn.images_NCHW, draw_all(model, Request(n=3, seed=5)).numpy()) and drawn.model == "local/model"
    assert len(client.scores(Images(drawn.images_NCHW, drawn.model, drawn.seed))) == 3
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(client.samples, 64, seed=6)
        events = client.stream(1, seed=1)
        assert next(events).kind == "start"
        for _ in range(2):  # as `timeout` does it
            (os.killpg if whole_group else os.kill)(running.process.pid, number)
        assert [event.kind for event in events][-1] == "done"
        assert np.array_equal(begun.result().images_NCHW, draw_all(model, Request(n=64, seed=6)).numpy())
    assert running.ended(within_s=120) == 0
    greeting = running.lines.index(running.says("serving on "))
    assert running.lines[:greeting] == ["starting samplers of local/model"]
    assert running.lines[greeting + 2 :] == ["", "finishing what was begun; no new requests are taken"]
    assert "s3cret" not in "\n".join(running.lines)


def test_it_ends_while_it_starts(running: Running) -> None:
    running.says("starting samplers of ")
    os.killpg(running.process.pid, signal.SIGTERM)
    assert running.ended(within_s=90) == 143
    assert "Traceback" not in "\n".join(running.lines)
