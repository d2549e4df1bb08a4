"""What a cluster has room for, and what is said when it can never have it."""

from __future__ import annotations

import pytest

from pixelmodels.errors import UserError
from pixelmodels.training.preflight import WorkerNeeds, room


@pytest.mark.parametrize(
    ("needs", "nodes", "expected"),
    [
        (WorkerNeeds(1), [{"CPU": 3.0}], 2),
        (WorkerNeeds(2), [{"CPU": 5.0}], 2),
        (WorkerNeeds(3), [{"CPU": 2.0}, {"CPU": 2.0}], 1),
        (WorkerNeeds(1, cpus_per_worker=3), [{"CPU": 4.0}, {"CPU": 4.0}], 2),
        (WorkerNeeds(1, use_gpu=True), [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}], 2),
    ],
)
def test_room_leaves_a_cpu_and_keeps_each_worker_on_one_node(needs: WorkerNeeds, nodes: list[dict[str, float]], expected: int) -> None:
    assert room(needs, nodes) == expected


@pytest.mark.parametrize(
    ("needs", "nodes", "words"),
    [
        (WorkerNeeds(3), [{"CPU": 3.0}], ["--num-workers 3", "3 logical CPU(s)", "give --num-workers 2"]),
        (WorkerNeeds(1), [{"CPU": 1.0}], ["--num-workers 1", "1 logical CPU(s)", "larger cluster"]),
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


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="--num-workers 0"):
        WorkerNeeds(0)
