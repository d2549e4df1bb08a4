"""What a cluster has room for, and what is said when it can never have it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from pixelmodels import internals, ray_cluster
from pixelmodels.errors import UserError
from pixelmodels.ray_cluster import (
    WorkerNeeds,
    asking_for,
    cluster_nodes,
    has_memory,
    node_kinds,
    nodes_to_come,
    num_cores,
    places,
    room,
    runs_at_once,
)


@pytest.mark.parametrize(
    ("needs", "nodes", "expected"),
    [
        (WorkerNeeds(1), [{"CPU": 3.0}], 2),
        (WorkerNeeds(2), [{"CPU": 5.0}], 2),
        (WorkerNeeds(3), [{"CPU": 2.0}, {"CPU": 2.0}], 1),
        (WorkerNeeds(1, cpus_per_worker=3), [{"CPU": 4.0}, {"CPU": 4.0}], 2),
        (WorkerNeeds(1, use_gpu=True), [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}], 2),
        (WorkerNeeds(1, cpus_per_worker=4), [{"CPU": 4.0}, {"CPU": 2.0}], 1),  # the smaller node has the spare CPU
        (WorkerNeeds(2, use_gpu=True), [{"CPU": 2.0, "GPU": 2.0}, {"CPU": 1.0}], 1),
        (WorkerNeeds.asked(1, gpus_per_worker=0.1), [{"CPU": 16.0, "GPU": 1.0}], 10),
        (WorkerNeeds.asked(1, gpus_per_worker=0.25), [{"CPU": 16.0, "GPU": 2.0}], 8),
        (WorkerNeeds.asked(2, use_gpu=True, gpus_per_worker=0.5), [{"CPU": 16.0, "GPU": 1.0}], 1),
    ],
)
def test_room_leaves_a_cpu_and_keeps_each_worker_on_one_node(needs: WorkerNeeds, nodes: list[dict[str, float]], expected: int) -> None:
    assert room(needs, nodes) == expected


@pytest.mark.parametrize(
    ("needs", "nodes", "words"),
    [
        (WorkerNeeds(3), [{"CPU": 3.0}], ["--num-workers 3", "3 logical CPU(s)", "give --num-workers 2"]),
        (WorkerNeeds(1), [{"CPU": 1.0}], ["--num-workers 1", "1 logical CPU(s)", "start Ray with --num-cpus 2", "larger cluster"]),
        (WorkerNeeds(1, use_gpu=True), [{"CPU": 8.0}], ["0 GPU(s)", "without --use-gpu"]),
        (WorkerNeeds.asked(1, gpus_per_worker=0.5), [{"CPU": 8.0}], ["0.5 of a GPU", "0 GPU(s)", "without --gpus-per-worker"]),
        (WorkerNeeds(1, cpus_per_worker=4), [{"CPU": 3.0}, {"CPU": 3.0}], ["1 worker(s) of 4 CPU(s)", "--cpus-per-worker"]),
    ],
)
def test_what_can_never_be_had_is_said_with_both_numbers_and_a_remedy(
    needs: WorkerNeeds, nodes: list[dict[str, float]], words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        room(needs, nodes)
    for word in words:
        assert word in str(error.value)


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="--num-workers 0"):
        WorkerNeeds(0)


@pytest.mark.parametrize("share", [0.0, -1.0, 0.001, 1.5, 2.0, float("nan"), float("inf")])
def test_shares_of_a_gpu_that_cannot_be_had_are_told(share: float) -> None:
    with pytest.raises(UserError, match=r"--gpus-per-worker \S+ cannot be had: .* give 0.01 to 1"):
        WorkerNeeds.asked(1, gpus_per_worker=share)


def test_what_a_worker_reserves_of_a_gpu() -> None:
    shares = [WorkerNeeds.asked(1), WorkerNeeds.asked(1, use_gpu=True), WorkerNeeds.asked(1, gpus_per_worker=0.25)]
    assert [needs.per_worker.get("GPU") for needs in shares] == [None, 1.0, 0.25]
    assert [needs.each for needs in shares] == ["1 CPU(s)", "1 CPU(s) and a GPU", "1 CPU(s) and 0.25 of a GPU"]


def test_cores_are_those_that_the_process_is_bound_to() -> None:
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    program = f"{bind}; from pixelmodels.ray_cluster import num_cores; print(num_cores())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("6400000 100000", None), ("max 100000", None)])
def test_a_containers_quota_counts(quota: str, expected: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`cpu.max` of cgroup v2, as a container sees it; `joblib` reads it."""
    from joblib.externals.loky.backend import context

    (tmp_path / "cpu.max").write_text(quota)
    real, exists = open, os.path.exists
    moved = {"/sys/fs/cgroup/cpu.max": str(tmp_path / "cpu.max")}
    monkeypatch.setattr(context, "open", lambda path: real(moved[path]), raising=False)
    monkeypatch.setattr(context.os.path, "exists", lambda path: path in moved or exists(path))
    assert num_cores() == min(expected or 1000, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("workers", "least", "most"), [(1, 1, 1), ("3", 3, 3), ("2..8", 2, 8), ("4..4", 4, 4)])
def test_a_number_of_workers_or_a_range_of_them(workers: int | str, least: int, most: int) -> None:
    needs = WorkerNeeds.asked(workers, 2, use_gpu=True)
    assert (needs.num_workers, needs.most, needs.per_worker) == (least, most, {"CPU": 2.0, "GPU": 1.0})


@pytest.mark.parametrize("workers", ["", "two", "2..", "..8", "2...8", "2-8", "2..8..9", "1.5", "0..2", "-1", "8..2"])
def test_what_is_no_number_of_workers_is_told(workers: str) -> None:
    with pytest.raises(
        UserError, match=r"^--num-workers '?[\w.-]*'? is (no number of workers; give one, or|too few; give 1|no range; give)"
    ):
        WorkerNeeds.asked(workers)


def test_nodes_that_an_autoscaler_may_add_count_each_by_itself() -> None:
    small, large = {"CPU": 4.0, "memory": 8e9}, {"CPU": 8.0, "GPU": 1.0}
    kinds = [({"CPU": 2.0}, 0), (small, 2), (large, 3)]
    assert nodes_to_come([{"CPU": 2.0}], kinds) == [small, small, *[{"memory": math.inf, **large}] * 3]
    assert nodes_to_come([{"CPU": 2.0}, {**small, "node:10.0.0.1": 1.0}, large, large], kinds) == [small, {"memory": math.inf, **large}]
    assert nodes_to_come([small], []) == []
    assert places(WorkerNeeds(1, cpus_per_worker=5), nodes_to_come([], [(small, 9)]), 0) == 0  # not on what nine of them are together


LAUNCHED = """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 4}, max_workers: 0}
  cpu: {resources: {CPU: 8, memory: 16000000000}, max_workers: 2}
  gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 9}
"""


def test_what_the_launcher_may_start_is_read_on_the_head(tmp_path: Path) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(LAUNCHED)
    assert node_kinds(path) == [({"CPU": 8.0, "memory": 16e9}, 2), ({"CPU": 8.0, "GPU": 1.0}, 3)]


@pytest.mark.parametrize("text", ["", "max_workers: 2", "[1, 2]", LAUNCHED.replace("{CPU: 8, GPU: 1}", "{CPU: eight}"), "{", "\x00"])
def test_what_the_launcher_left_may_be_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(text)
    assert node_kinds(tmp_path / "other.yaml") == [] == node_kinds(tmp_path / "none.yaml")


def test_nodes_count_that_are_not_there_only_where_an_autoscaler_adds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    needs, head = WorkerNeeds.asked("2..3", 4, gpus_per_worker=0.5), {"CPU": 0.0, "memory": 8e9}
    monkeypatch.setattr(ray_cluster, "alive_nodes", lambda: [head])
    monkeypatch.setattr(ray_cluster, "has_autoscaler", lambda: False)
    assert cluster_nodes(needs) == [head]
    monkeypatch.setattr(ray_cluster, "has_autoscaler", lambda: True)
    monkeypatch.setattr(ray_cluster, "node_kinds", lambda: [({"CPU": 8.0, "GPU": 1.0}, 1)])
    assert cluster_nodes(needs) == [head, {"CPU": 8.0, "GPU": 1.0, "memory": math.inf}]
    monkeypatch.setattr(ray_cluster, "node_kinds", list)  # of one that does not tell: what is asked for, and a CPU for Ray Data
    assert cluster_nodes(needs) == [head, *[{"CPU": 5.0, "GPU": 0.5, "memory": math.inf}] * 3]
    assert places(needs, cluster_nodes(needs)) == 3
    assert [runs_at_once(needs, wanted=wanted) for wanted in (1, 4)] == [1, 4]  # of as many models as somebody wants at a time


def test_a_range_takes_what_there_is() -> None:
    needs = WorkerNeeds.asked("2..8")
    assert room(needs, [{"CPU": 5.0}]) == 1  # one model with 4 workers: never more models than all that they may have leaves room for
    assert room(needs, [{"CPU": 17.0}]) == 2
    with pytest.raises(UserError, match="can never give 2 worker"):
        room(needs, [{"CPU": 2.0}])
    assert [places(needs, [{"CPU": cpus}]) for cpus in (0.0, 1.0, 2.0, 5.0)] == [0, 0, 1, 4]
    assert places(needs, [{"CPU": 2.0}, {"CPU": 1.0}]) == 2 and places(needs, [], 0) == 0


@pytest.mark.parametrize(("memory", "has"), [(math.inf, True), (4e9, True), (2e9, False)])
def test_memory_that_is_not_told_is_boundless(memory: float, has: bool) -> None:
    nodes = [{"CPU": 0.0, "memory": 8e9}, {"CPU": 8.0, "memory": memory}]
    assert has_memory(WorkerNeeds(2), 2e9, nodes) is has


def test_a_node_that_is_about_to_go_gives_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": node, "Alive": node != "c", "Resources": {"CPU": 2.0}} for node in "abc"]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    state = SimpleNamespace(
        available_resources_per_node=lambda: {"a": {"CPU": 1.0}, "b": {"CPU": 2.0}}, get_draining_nodes=lambda: {"b": 0}
    )
    monkeypatch.setattr(internals, "private", lambda *_: state)
    assert ray_cluster.alive_nodes() == [{"CPU": 2.0}] and internals.free_resources() == [{"CPU": 1.0}]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bundles were asked of an autoscaler, call by call; it no longer answers where the list ends with -1."""
    asked: list[int] = []

    def request(bundles: list[dict[str, float]]) -> None:
        if asked[-1:] == [-1]:
            raise RuntimeError("Ray is not initialized yet")
        asked.append(len(bundles))

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", request)
    monkeypatch.setattr(ray_cluster, "has_autoscaler", lambda: True)
    monkeypatch.setattr(ray_cluster, "alive_nodes", lambda: [{"CPU": 9.0}])
    monkeypatch.setattr(ray_cluster, "node_kinds", lambda: [({"CPU": 9.0}, 1)])
    return asked


def test_what_was_asked_of_an_autoscaler_is_taken_back(requests: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), asking_for(WorkerNeeds.asked("1..3"), 2):
        raise KeyboardInterrupt
    assert requests == [6, 0]
    with pytest.raises(KeyboardInterrupt), asking_for(WorkerNeeds.asked("1..3"), 2):  # and is what is told
        requests.append(-1)
        raise KeyboardInterrupt
