"""What a cluster has room for, and what is said when it can never have it."""

from __future__ import annotations

import pytest

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.tracking import tracking_uri
from pixelmodels.training import preflight
from pixelmodels.training.preflight import WorkerNeeds, room


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


def test_every_node_must_see_local_files(storage: Storage, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = preflight._alive_nodes()
    database = tracking_uri(storage)
    monkeypatch.setattr(preflight, "_missing_on", lambda nodes, paths: {node: paths})
    preflight.check_shared(storage, database)  # one node is not asked
    monkeypatch.setattr(preflight, "_alive_nodes", lambda: {node: "'a' (10.0.0.1)", "other": "'b' (10.0.0.2)"})
    monkeypatch.setattr(preflight, "_missing_on", lambda nodes, paths: {node: preflight._missing(paths), "other": []})
    storage.write_bytes("here", b"")
    preflight.check_shared(storage, database)
    assert storage.list() == ["here"]
    monkeypatch.setattr(preflight, "_missing_on", lambda nodes, paths: {node: [], "other": paths})
    with pytest.raises(UserError, match=r"node 'b' \(10.0.0.2\) does not see the storage root .*s3://"):
        preflight.check_shared(storage, database)
    with pytest.raises(UserError, match=r"node 'b' \(10.0.0.2\) does not see the tracking database .*MLFLOW_TRACKING_URI"):
        preflight.check_shared(Storage("s3://bucket"), database)
    preflight.check_shared(Storage("s3://bucket"), "https://mlflow")
    preflight.check_shared(Storage("s3://bucket"), "")  # nothing is tracked
    assert storage.list() == ["here"]


def test_a_node_tells_which_files_it_lacks(storage: Storage, ray_cluster: None) -> None:
    storage.write_bytes("here", b"")
    nodes = preflight._alive_nodes()
    there, lacking = storage.uri("here"), storage.uri("nowhere")
    assert preflight._missing_on(nodes, [there, lacking]) == {node: [lacking] for node in nodes}


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="--num-workers 0"):
        WorkerNeeds(0)
