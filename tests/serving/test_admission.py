"""Who is let in, how speed is measured, and whose turn it is; without a thread."""

from __future__ import annotations

import math

import pytest

from pixelmodels.serving import admission
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.work import Share


def test_turns_are_by_seconds() -> None:
    share = Share(0.2)
    share.drew(10.0)  # is not saved up
    assert share.is_due
    share.worked(1.0)
    share.drew(3.9)
    assert not share.is_due
    share.drew(0.2)
    assert share.is_due


@pytest.mark.parametrize(
    ("n", "timeout_s", "waiting", "refused"),
    [
        (1, 3.0, [], False),  # 10 slots and 1 image at 10 a second: 1.1 s, and twice that by the margin
        (1, 2.0, [], True),
        (50, 9.0, [], True),  # 60 images: 6 s
        (50, 13.0, [], False),
        (1, 3.0, [(400, 1000.0)], False),  # one turn of the large one comes before it
        (1, 3.0, [(1, 100.0)] * 20, True),
        (1, 20.0, [(20, 7.0)], False),
        (20, 20.0, [(20, 7.0)], True),  # the newcomer could wait, the other one could not
        (20, 20.0, [(20, 2.0)], True),  # nor here, though it is late unless the speed rises
        (20, 20.0, [(20, 1.0)], False),  # that is late anyway
        (20, 20.0, [(20, math.inf)], False),  # that was promised nothing
        (50, 5.0, None, False),  # the slots are free
    ],
)
def test_nobody_is_let_in_who_would_be_late_or_make_others_late(n: int, timeout_s: float, waiting: list | None, refused: bool) -> None:
    own = 0 if waiting is None else 10 + sum(num for num, _ in waiting)
    try:
        admission.check_time(n, timeout_s, waiting or [], own + 30, num_others=30, slots=10, speed=10.0)
    except Refused as error:
        assert refused and error.status == 429
    else:
        assert not refused


@pytest.mark.parametrize(
    ("n", "timeout_s", "own", "speed", "is_promised"),
    [(50, 13.0, 0, 10.0, True), (50, 9.0, 0, 10.0, False), (50, 9.0, 0, 0.0, False), (10, 9.0, 0, 0.0, True), (1, 0.1, 5, 10.0, True)],
)
def test_what_is_let_in_because_the_slots_are_free_is_promised_what_can_be_kept(
    n: int, timeout_s: float, own: int, speed: float, is_promised: bool
) -> None:
    assert admission.check_time(n, timeout_s, [], own + 30, num_others=30, slots=10, speed=speed) is is_promised


def test_the_speed_is_known_from_steps_with_the_slots_taken() -> None:
    speed = admission.Speed()
    for _ in range(50):
        speed.step(2.0, 0.1)
    assert speed.images_per_s == pytest.approx(20.0)
    speed.step(1.0, 0.1, is_full=False)
    assert speed.images_per_s == pytest.approx(20.0)
    speed.step(4.0, 0.1, is_full=False)  # faster, with slots to spare: it was wrong
    assert speed.images_per_s == pytest.approx(20.0 + admission.SMOOTHING * 20.0)
    unknown = admission.Speed()
    unknown.step(4.0, 0.1, is_full=False)
    assert unknown.images_per_s == 0
