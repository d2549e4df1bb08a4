"""The engine's thread and admission, without Ray and without HTTP."""

from __future__ import annotations

import queue
import time

import numpy as np
import pytest
import torch

from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Engine, Request, RowDone
from pixelmodels.serving import admission
from pixelmodels.serving.engine_thread import EngineThread
from pixelmodels.serving.refusals import Refused
from tests.serving.conftest import small_model

WAIT_S = 60


@pytest.fixture
def thread():  # type: ignore[no-untyped-def]
    made = EngineThread(slots=4, max_waiting=20).start()
    yield made
    made.stop()


def told_of(thread, engine, request, timeout_s=WAIT_S, **options):  # type: ignore[no-untyped-def]
    inbox: queue.Queue = queue.Queue()
    return thread.submit(engine, request, timeout_s, inbox.put, **options), inbox


def test_images_of_two_engines_are_theirs(thread: EngineThread) -> None:
    models = [small_model(0), small_model(1)]
    engines = [Engine(model, num_slots=4, max_waiting=100) for model in models]
    inboxes = [told_of(thread, engine, Request(n=6, seed=3))[1] for engine in engines for _ in range(2)]
    for index, inbox in enumerate(inboxes):
        (images,) = inbox.get(timeout=WAIT_S)
        assert np.array_equal(images, draw_all(models[index // 2], Request(n=6, seed=3)).numpy())
    assert (thread.num_unfinished, thread.num_waiting, thread.num_requests) == (0, 0, 0)


def test_rows_come_first_and_assemble_to_the_images(thread: EngineThread) -> None:
    model = small_model(0)
    _, inbox = told_of(thread, Engine(model, num_slots=4, max_waiting=100), Request(n=5, seed=1), wants_rows=True)
    seen_NCHW = np.zeros((5, *model.spec.shape), np.uint8)
    while True:
        for event in inbox.get(timeout=WAIT_S):
            if not isinstance(event, RowDone):
                assert np.array_equal(event, seen_NCHW)
                return
            seen_NCHW[event.image, :, event.row] = event.levels_CW


def slow_engine() -> Engine:
    """An engine whose rows take a tenth of a second."""
    engine = Engine(small_model(0), num_slots=4, max_waiting=100)
    step = engine.step_row

    def slowly() -> list[RowDone]:
        time.sleep(0.1)
        return step()

    engine.step_row = slowly  # type: ignore[method-assign]
    return engine


def test_the_bound_is_of_images_and_cancelling_makes_room(thread: EngineThread) -> None:
    engine = slow_engine()
    ticket, _ = told_of(thread, engine, Request(n=24))
    with pytest.raises(Refused) as refused:
        told_of(thread, engine, Request(n=1))
    assert refused.value.status == 429 and refused.value.retry_after_s >= 1
    thread.cancel(ticket)
    until = time.monotonic() + WAIT_S
    while thread.num_unfinished and time.monotonic() < until:
        time.sleep(0.02)
    told_of(thread, engine, Request(n=24))


def test_a_deadline_ends_a_request_and_leaves_others(thread: EngineThread) -> None:
    engine = slow_engine()
    _, late = told_of(thread, engine, Request(n=4), timeout_s=0.3)
    _, in_time = told_of(thread, engine, Request(n=1))
    (answer,) = late.get(timeout=WAIT_S)
    assert isinstance(answer, Refused) and (answer.status, answer.code) == (504, "deadline")
    assert isinstance(in_time.get(timeout=WAIT_S)[0], np.ndarray)


def test_weights_that_are_not_finite_end_their_requests_only(thread: EngineThread) -> None:
    broken, sound = small_model(0), small_model(1)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    _, told = told_of(thread, Engine(broken, num_slots=4, max_waiting=100), Request(n=2))
    _, other = told_of(thread, Engine(sound, num_slots=4, max_waiting=100), Request(n=2))
    (answer,) = told.get(timeout=WAIT_S)
    assert isinstance(answer, Refused) and answer.code == "not_finite"
    assert isinstance(other.get(timeout=WAIT_S)[0], np.ndarray)


def test_a_broken_engine_is_told_to_all_and_to_the_health_check(thread: EngineThread) -> None:
    engine = slow_engine()

    def breaks() -> list[RowDone]:
        raise RuntimeError("broken")

    engine.step_row = breaks  # type: ignore[method-assign]
    _, told = told_of(thread, engine, Request(n=2))
    (answer,) = told.get(timeout=WAIT_S)
    assert isinstance(answer, Refused) and answer.code == "sampler_lost"
    assert thread.failure is not None
    with pytest.raises(Refused):
        told_of(thread, engine, Request(n=1))


def test_jobs_go_between_rows_and_are_bounded(thread: EngineThread) -> None:
    answers: queue.Queue = queue.Queue()
    thread.run([lambda: 1, lambda: 2], 20, WAIT_S, answers.put)
    assert answers.get(timeout=WAIT_S) == [1, 2]
    thread.run([lambda: 1 / 0], 20, WAIT_S, answers.put)
    assert answers.get(timeout=WAIT_S).code == "internal"
    with pytest.raises(Refused, match="429"):
        thread.run([lambda: 1], 25, WAIT_S, answers.put)


@pytest.mark.parametrize(
    ("n", "timeout_s", "waiting", "refused"),
    [
        (1, 2.0, [], False),  # 10 slots and 1 image at 10 a second: 1.1 s, and the margin
        (50, 5.0, [], True),  # 60 images: 6 s
        (50, 10.0, [], False),
        (1, 2.0, [(400, 1000.0)], False),  # one turn of the large one comes before it
        (1, 2.0, [(1, 100.0)] * 20, True),
        (1, 20.0, [(20, 5.0)], False),
        (20, 20.0, [(20, 5.0)], True),  # the newcomer could wait, the other one could not
        (20, 20.0, [(20, 1.0)], False),  # that is late anyway
    ],
)
def test_nobody_is_let_in_who_would_be_late_or_make_others_late(n: int, timeout_s: float, waiting: list, refused: bool) -> None:
    unfinished = 10 + sum(num for num, _ in waiting)
    try:
        admission.check(n, timeout_s, waiting, unfinished, slots=10, bound=1000, speed=10.0)
    except Refused as error:
        assert refused and error.status == 429
    else:
        assert not refused


def test_the_speed_is_known_from_steps_with_the_slots_taken() -> None:
    speed = admission.Speed()
    for _ in range(50):
        speed.step(2.0, 0.1)
    assert speed.images_per_s == pytest.approx(20.0)
