"""The service over real HTTP under load, with clients that go away and a sampler that is killed, and at its end."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pixelmodels.serving import serve
from pixelmodels.serving.client import Client, ServiceError
from tests.serving.conftest import KEY, Service, settings_of
from tests.serving.web import by_sampler, drawn, figure, raw, settles, state

SLOW = "3"  # a version of which 64 images take a second or so


def on_both(service: Service, version: str) -> None:
    """Have a version loaded by both samplers: requests of the same size at the same time go to different ones."""
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(lambda _: service.client.samples(8, model=version), range(2)))) == 2


def test_overload_is_answered_at_once_and_the_rest_is_right(service: Service) -> None:
    """A burst of 16 requests, of which each sampler takes four: all that are refused are answered before one that was let in."""
    on_both(service, SLOW)
    together = threading.Barrier(16)

    def ask(seed: int) -> tuple[int, float, np.ndarray | ServiceError]:
        together.wait(60)
        try:
            answer: np.ndarray | ServiceError = service.client.samples(15, seed=seed, model=SLOW).images_NCHW
        except ServiceError as error:
            answer = error
        return seed, time.monotonic(), answer

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    refused = [(at, answer) for _, at, answer in answers if isinstance(answer, ServiceError)]
    assert all(error.status == 429 and error.retry_after_s >= 1 for _, error in refused)
    images = [(seed, at, answer) for seed, at, answer in answers if not isinstance(answer, ServiceError)]
    assert len(images) == 8 and len(refused) == 8
    assert all(np.array_equal(answer, drawn(service, SLOW, n=15, seed=seed)) for seed, _, answer in images)
    assert max(at for at, _ in refused) < min(at for _, at, _ in images)
    assert settles(service, "unfinished_images", 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slots(service: Service, stream: bool) -> None:
    service.client.samples(8, model="3")  # loads it, on one of the samplers at least
    before = state(service, "images_drawn_total")
    body = json.dumps({"n": 64, "model": "3", "stream": stream, "every": "image"}).encode()
    connections = []
    for _ in range(2):
        connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
        connection.request("POST", "/v1/samples", body, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
        connections.append(connection)
    until = time.monotonic() + 120
    while not state(service, "unfinished_images") and time.monotonic() < until:
        time.sleep(0.01)
    for connection in connections:
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
    assert settles(service, "unfinished_images", 0)
    assert settles(service, "unfinished_requests", 0)
    assert state(service, "images_drawn_total") - before < 96  # of 128


@pytest.mark.faults
def test_a_sampler_that_is_killed_loses_no_request(service: Service) -> None:
    on_both(service, SLOW)
    retries = figure(service, "retries_total")
    answers: list[Any] = []

    def ask(seed: int) -> None:
        try:
            found = Client(service.client.url, KEY, timeout_s=120).samples(16, seed=seed, model=SLOW)
            answers.append("right" if np.array_equal(found.images_NCHW, drawn(service, SLOW, n=16, seed=seed)) else "wrong")
        except ServiceError as error:
            answers.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 120
    while time.monotonic() < until:
        unfinished = by_sampler(service, "unfinished_images")
        if len(unfinished) == 2 and all(num >= 16 for num in unfinished.values()):
            break
    victim = min(unfinished)
    assert unfinished[victim] >= 16  # one request at least, which takes much longer than it took to tell
    os.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and "right" in answers
    refused = [answer for answer in answers if answer != "right"]
    assert all(isinstance(answer, ServiceError) and answer.code == "sampler_lost" for answer in refused)
    assert figure(service, "retries_total") > retries or refused
    while time.monotonic() < killed_at + 120:  # whole again
        pids = by_sampler(service, "unfinished_images")
        if len(pids) == 2 and victim not in pids:
            break
        time.sleep(0.2)
    assert len(pids) == 2 and victim not in pids


def test_the_end_finishes_what_was_begun(service: Service) -> None:
    """Of another application, beside the one that all tests use and below a path of its own."""
    registry, name = service.registry, "ending"
    handle = serve.start(settings_of(registry), service.host, service.port, name=name)
    client = Client(f"{service.client.url}/{name}", KEY, timeout_s=60)
    below = dataclasses.replace(service, client=client, path=f"/{name}")
    assert [raw(below, path, None, {})[0] for path in ("/healthz", "/readyz", "/openapi.json", "/v1/models")] == [200, 200, 200, 401]
    client.samples(1, model=SLOW)
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(client.samples, 64, seed=6, model=SLOW)
        until = time.monotonic() + 120
        while not state(below, "unfinished_images") and time.monotonic() < until:
            time.sleep(0.01)
        ended = pool.submit(serve.stop, handle, 30.0, name)
        until = time.monotonic() + 120
        code = None
        while code is None and time.monotonic() < until:
            try:
                client.samples(1)
            except ServiceError as error:
                code = error.status, error.code
        assert code == (503, "draining")
        assert np.array_equal(begun.result().images_NCHW, drawn(service, SLOW, n=64, seed=6))
        assert ended.result() is True
    assert raw(below, "/healthz", None)[0] == 404
    assert service.client.is_ready()
