"""The engine's thread and admission, without Ray and without HTTP."""

from __future__ import annotations

import queue
import time
from contextlib import nullcontext

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


def slow_engine(row_s: float = 0.1) -> Engine:
    """An engine whose rows take so many seconds and more."""
    engine = Engine(small_model(0), num_slots=4, max_waiting=100)
    step = engine.step_row

    def slowly() -> list[RowDone]:
        time.sleep(row_s)
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


def breaks() -> list[RowDone]:
    raise RuntimeError("broken")


def test_a_broken_engine_ends_its_own_requests_only(thread: EngineThread) -> None:
    broken, sound = slow_engine(), slow_engine()
    _, other = told_of(thread, sound, Request(n=2))
    broken.step_row = breaks  # type: ignore[method-assign]
    inboxes = [told_of(thread, broken, Request(n=2))[1] for _ in range(2)]
    for told in inboxes:
        (answer,) = told.get(timeout=WAIT_S)
        assert isinstance(answer, Refused) and (answer.status, answer.code) == (500, "internal")
    assert isinstance(other.get(timeout=WAIT_S)[0], np.ndarray)
    assert (thread.failure, thread.num_unfinished, broken.is_idle) == (None, 0, True)


def test_everybody_is_told_when_the_thread_fails_and_then_it_ends() -> None:
    """Those included whom the thread has not seen: they came while it worked on the last row, as did what makes it fail."""
    ended = queue.Queue()  # type: ignore[var-annotated]
    thread = EngineThread(slots=4, max_waiting=20, on_failure=lambda: ended.put(thread.num_unfinished)).start()
    engine, answers = slow_engine(), queue.Queue()  # type: ignore[var-annotated]
    thread.run([lambda: time.sleep(0.3), lambda: 1], 2, WAIT_S, answers.put)
    time.sleep(0.1)
    _, drawn = told_of(thread, engine, Request(n=2))
    thread._inbox.put(breaks)  # type: ignore[arg-type]
    _, late = told_of(thread, engine, Request(n=1))
    thread.run([lambda: 1], 3, WAIT_S, answers.put)
    assert ended.get(timeout=WAIT_S) == 0
    told = [drawn.get_nowait()[0], late.get_nowait()[0], answers.get_nowait(), answers.get_nowait()]
    assert [one.code for one in told] == ["sampler_lost"] * 4 and all(inbox.empty() for inbox in (drawn, late, answers))
    assert thread.failure == "RuntimeError: broken"
    with pytest.raises(Refused) as refused:
        told_of(thread, engine, Request(n=1))
    assert refused.value.code == "sampler_lost"


def test_what_is_loaded_or_scored_counts_as_unfinished(thread: EngineThread) -> None:
    engine, answers = slow_engine(), queue.Queue()  # type: ignore[var-annotated]
    with thread.reserved(20):
        assert thread.num_unfinished == 20
        for n in (4, 5):
            with pytest.raises(Refused, match="429") if n == 5 else nullcontext():
                thread.run([lambda: time.sleep(0.3)], n, WAIT_S, answers.put)
        for ask in (lambda: told_of(thread, engine, Request(n=1)), lambda: thread.reserved(1).__enter__()):
            with pytest.raises(Refused, match="429"):
                ask()
    assert thread.num_unfinished == 4
    assert answers.get(timeout=WAIT_S) == [None] and thread.num_unfinished == 0
    with pytest.raises(Refused, match="504"):
        told_of(thread, engine, Request(n=1), timeout_s=-0.1)


def test_each_engine_has_a_speed_and_an_idle_one_refuses_nothing_within_the_bound(thread: EngineThread) -> None:
    slow, fast = slow_engine(0.03), Engine(small_model(1), num_slots=4, max_waiting=100)
    _, told = told_of(thread, slow, Request(n=4))
    told.get(timeout=WAIT_S)
    assert 0 < thread.images_per_s(slow) < 4 / 6 / 0.03 and thread.images_per_s(fast) == 0
    _, told = told_of(thread, slow, Request(n=20), timeout_s=0.5)  # at that speed it needs 0.9 s and more, but that was before
    with pytest.raises(Refused, match="429"):
        told_of(thread, slow, Request(n=4), timeout_s=0.5)
    _, other = told_of(thread, fast, Request(n=4), timeout_s=WAIT_S)
    assert isinstance(other.get(timeout=WAIT_S)[0], np.ndarray)
    assert told.get(timeout=WAIT_S)[0].code == "deadline"


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
        (50, 5.0, None, False),  # the slots are free
    ],
)
def test_nobody_is_let_in_who_would_be_late_or_make_others_late(n: int, timeout_s: float, waiting: list | None, refused: bool) -> None:
    own = 0 if waiting is None else 10 + sum(num for num, _ in waiting)
    try:
        admission.check(n, timeout_s, waiting or [], own + 30, slots=10, bound=1000, speed=10.0, num_others=30)
    except Refused as error:
        assert refused and error.status == 429
    else:
        assert not refused


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
