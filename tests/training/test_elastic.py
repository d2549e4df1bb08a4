"""How many workers a run takes, what it says while it waits, and when its workers make way; of a cluster that is told here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
import ray.train.torch

from pixelmodels.ray_cluster import WorkerNeeds
from pixelmodels.storage import Storage
from pixelmodels.training import elastic, trainer
from pixelmodels.training.elastic import MORE_ROOM, TAKEN_AWAY, Claims, Departure
from pixelmodels.training.trainer import fit
from tests.training.tiny_run import tiny_plan

RANGE = WorkerNeeds.asked("1..4")


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A cluster of one node of 6 CPUs, of which this says how many are free."""
    node = {"CPU": 6.0}
    monkeypatch.setattr(elastic, "free_resources", lambda: [dict(node)])
    monkeypatch.setattr(elastic, "alive_nodes", lambda: [{"CPU": 6.0}])
    monkeypatch.setattr(elastic, "draining_nodes", set)
    monkeypatch.setattr(elastic, "_POLL_S", 0.002)
    return node


def test_two_runs_that_look_at_one_moment_do_not_count_on_the_same_places(free: dict[str, float]) -> None:
    claims, both = Claims(), threading.Barrier(2)

    def begin() -> int:
        both.wait()
        with claims.workers_now(RANGE) as num_workers:
            both.wait()
            return num_workers

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(begin) for _ in range(2)]
        assert sorted(one.result() for one in found) == [1, 4]  # of 5 places
    with claims.workers_now(RANGE) as num_workers:  # what ended is spoken for no longer
        assert num_workers == 4


def test_what_is_spoken_for_counts_until_ray_shows_it(free: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims()
    with claims.workers_now(RANGE):
        free["CPU"] = 2.0  # placed
        monkeypatch.setattr(elastic, "SETTLE_S", 0.0)
        with claims.workers_now(RANGE) as num_workers:
            assert num_workers == 1


class Trainers:
    """Ray Train: what becomes of each group of workers, and what was asked for it."""

    def __init__(self, *endings: Any) -> None:
        self.endings, self.asked = list(endings), list[tuple[int, int]]()

    def __call__(self, worker: Any, *, scaling_config: Any, run_config: Any, **_: Any) -> Any:
        self.asked.append((scaling_config.num_workers, run_config.failure_config.controller_failure_limit))
        return SimpleNamespace(fit=self.fit)

    def fit(self) -> SimpleNamespace:
        ending = self.endings.pop(0)
        ending = ending() if callable(ending) else ending
        if isinstance(ending, Exception):
            raise ending
        return SimpleNamespace(return_value=ending)


def timed_out() -> Exception:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return ray.train.ControllerError(WorkerGroupStartupTimeoutError(4))


def run(storage: Storage, needs: WorkerNeeds, monkeypatch: pytest.MonkeyPatch, *endings: Any) -> tuple[list[tuple[int, int]], list[str]]:
    """The groups that were asked for until one fails for good, and what was said."""
    trainers, lines = Trainers(*endings, RuntimeError("the end")), list[str]()
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainers)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(trainer.RunFailed, match="the end"):
        fit(tiny_plan(storage), needs, None, max_failures=0, say=lines.append)
    return trainers.asked, lines


def test_a_range_whose_workers_find_no_room_looks_again(free: dict[str, float], storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def less() -> Exception:
        free["CPU"] = 3.0
        return timed_out()

    asked, lines = run(storage, RANGE, monkeypatch, less, timed_out, timed_out)
    assert asked == [(4, 0), (2, 0), (2, 0), (2, 0)]  # none of these is a failure, nor waited for without an end
    (line,) = lines
    held = "the cluster has room for 6, and other work holds all but 3; it goes on as soon as that ends"
    assert line == f"tiny: waits for 4 worker(s) of 1 CPU(s); {held}"


def test_a_fixed_number_is_waited_for_once_it_is_told(free: dict[str, float], storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    free["CPU"] = 1.0
    asked, lines = run(storage, WorkerNeeds(2), monkeypatch, timed_out, timed_out)
    assert asked == [(2, 0)] * 3 and len(lines) == 1 and "other work holds all but 1" in lines[0]


@pytest.mark.parametrize("needs", [WorkerNeeds(2), RANGE])
def test_workers_that_die_as_they_begin_are_replaced_so_often_as_is_told(
    needs: WorkerNeeds, free: dict[str, float], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    died = ray.train.ControllerError(WorkerGroupStartupFailedError("a worker died: SIGILL\nand more"))
    trainers, lines = Trainers(died, died, died), list[str]()
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainers)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(trainer.RunFailed, match=r"^workers could not begin \(a worker died: SIGILL\)$"):
        fit(tiny_plan(storage), needs, None, max_failures=2, say=lines.append)
    assert lines == ["tiny: workers could not begin (a worker died: SIGILL); goes on from its beginning"] * 2


def test_growth_is_said_by_what_there_was(free: dict[str, float], storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(cpus: float) -> Callable[[], str]:
        def left() -> str:
            free["CPU"] = cpus
            return MORE_ROOM

        return left

    free["CPU"] = 3.0
    asked, lines = run(storage, RANGE, monkeypatch, leave(6.0), timed_out, leave(3.0))
    assert [count for count, _ in asked] == [2, 4, 4, 2]
    assert [line for line in lines if "waits" not in line] == [
        "tiny: grows from 2 to 4 worker(s) at step 0",
        "tiny: shrinks from 4 to 2 worker(s) at step 0",
    ]


def test_what_a_run_lacks_is_said_once_however_often_it_looks(free: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, lines = [{"CPU": 1.0}], list[str]()
    monkeypatch.setattr(elastic, "alive_nodes", lambda: nodes)
    with elastic.saying_what_it_waits_for("tiny", WorkerNeeds(2), lines.append) as wanted:
        for _ in range(3):
            wanted.num_workers = 2
            until(lambda: lines)
            time.sleep(0.02)
        assert len(lines) == 1 and "waits for 2 worker(s) of 1 CPU(s); the cluster has 1 node(s), with room for 1" in lines[0]
        nodes.append({"CPU": 1.0})
        until(lambda: len(lines) == 2)
    assert lines[1] == "tiny: the cluster has room again"


@pytest.mark.parametrize(("going", "why"), [({"a"}, TAKEN_AWAY), (set(), MORE_ROOM)])
def test_a_call_that_fails_does_not_end_the_watch(
    going: set[str], why: str, free: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([ConnectionError("the cluster does not answer")])

    def draining() -> set[str]:
        for error in calls:
            raise error
        return going

    monkeypatch.setattr(elastic, "draining_nodes", draining)
    departure = Departure(RANGE, ["a"], 0.0)
    until(departure)
    assert departure() == why
