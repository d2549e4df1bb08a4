"""The model of how training scales: what it counts, and what it must do at its ends."""

from __future__ import annotations

import dataclasses
import math

import pytest

from pixelmodels.shapes import ImageSpec
from pixelmodels.training.cost import Cost
from pixelmodels.training.scale import BUCKET, FIRST_BUCKET, Machine, Scale
from tests.training.tiny_run import tiny_recipe

SPEC = ImageSpec(3, 8, 8, 256)
MACHINE = Machine(
    name="made up",
    flops_per_s={"float32": 1e12, "bfloat16": 1e13},
    kernel_s=1e-6,
    memory_bytes_per_s=math.inf,
    link_bytes_per_s=1e9,
    network_bytes_per_s=1e8,
    message_s=0.0,
    devices=4,
)


def scale(parameters: int = 1000, batch: int = 64, machine: Machine = MACHINE, **changes: float) -> Scale:
    values = {"image_bytes": 1 << 20, "shared_bytes": 0, "num_kernels": 0, "forward_flops": 1e9, "training_flops": 3e9, **changes}
    spent = Cost(parameters=parameters, weight_bytes=20 * parameters, buffer_bytes=8 * parameters, **values)  # type: ignore[arg-type]
    return Scale(tiny_recipe(batch_size=batch), spent, SPEC, machine)


def test_work_is_shared_out_until_kernels_take_longer() -> None:
    found = scale(num_kernels=1000)
    assert [found.step(number).work_s for number in (1, 2, 64)] == pytest.approx([64 * 3e-3, 32 * 3e-3, 3e-3])
    waiting = scale(num_kernels=10**6)
    assert [waiting.step(number).work_s for number in (1, 64)] == pytest.approx([3.0, 3.0])
    by_hand = scale(num_kernels=10**6, machine=dataclasses.replace(MACHINE, starts_ahead=False))
    assert by_hand.step(1).work_s == pytest.approx(64 * 3e-3 + 3.0)
    parts = dataclasses.replace(waiting, recipe=tiny_recipe(batch_size=64, accumulate=4))
    assert parts.step(1).work_s == pytest.approx(12.0)  # each part starts its kernels
    half = scale(training_flops=3e9)
    assert dataclasses.replace(half, recipe=tiny_recipe(batch_size=64, precision="bfloat16")).step(1).work_s == pytest.approx(
        0.1 * 64 * 3e-3
    )


@pytest.mark.parametrize(("workers", "speed"), [(2, 1e9), (4, 1e9), (8, 1e8), (64, 1e8)])
def test_a_ring_sends_each_gradient_nearly_twice(workers: int, speed: float) -> None:
    step = scale(parameters=200_000).step(workers)  # less than a bucket: nothing hides it
    assert step.sent_bytes == pytest.approx(2 * (workers - 1) / workers * 800_000)
    assert step.exchange_s == pytest.approx(step.sent_bytes / speed)


def test_one_worker_sends_nothing() -> None:
    step = scale(parameters=10**8).step(1)
    assert (step.sent_bytes, step.exchange_s) == (0.0, 0.0)


def test_only_the_last_bucket_is_waited_for() -> None:
    rest = 8 * 1000
    total = FIRST_BUCKET + 2 * BUCKET + rest
    hidden = scale(parameters=total // 4, forward_flops=1e15, training_flops=3e15).step(2)
    assert hidden.exchange_s == pytest.approx(rest / 1e9)
    seen = scale(parameters=total // 4, forward_flops=1.0, training_flops=3.0).step(2)
    assert seen.exchange_s == pytest.approx(total / 1e9, rel=1e-6)
    whole = scale(parameters=(FIRST_BUCKET + BUCKET) // 4, forward_flops=1e15, training_flops=3e15).step(2)
    assert whole.exchange_s == pytest.approx(BUCKET / 1e9)
    slow = dataclasses.replace(MACHINE, message_s=1e-3)
    assert scale(parameters=total // 4, machine=slow, forward_flops=1.0, training_flops=3.0).step(2).exchange_s == pytest.approx(
        total / 1e9 + 4 * 2 * 1e-3, rel=1e-6
    )


def test_all_workers_together_want_the_images_of_a_step_in_its_time() -> None:
    for number in (1, 3, 64):
        step = scale(parameters=10**6).step(number)
        assert step.read_bytes_per_s * step.seconds == pytest.approx(64 * math.prod(SPEC.shape))


def test_gradients_are_there_once_also_where_there_is_somebody_to_tell() -> None:
    one, two = (scale(parameters=10**6).step(number).memory_bytes for number in (1, 2))
    assert one == pytest.approx(28e6 + 1.3 * 64 * 2**20) and two == pytest.approx(28e6 + 1.3 * 32 * 2**20)


def test_weights_are_moved_at_the_memory_s_speed() -> None:
    slow = dataclasses.replace(MACHINE, memory_bytes_per_s=1e6)
    assert scale(machine=slow, forward_flops=0.5, training_flops=1.0).step(1).work_s == pytest.approx((2 * 20 - 4) * 1000 / 1e6, rel=1e-6)


def test_workers_are_worth_less_the_more_there_are() -> None:
    found = scale(parameters=10**6, forward_flops=1e9, training_flops=3e9)
    worth = [found.efficiency(number) for number in (1, 2, 4, 8, 16, 32, 64)]
    assert worth[0] == 1.0 and worth == sorted(worth, reverse=True)
    most = found.most_workers()
    assert found.efficiency(most) >= 0.5 > found.efficiency(2 * most) and 1 < most < 64
    assert scale(parameters=1, batch=4).most_workers() == 4  # no more than a step has images
