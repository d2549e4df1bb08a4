"""The engine's thread and admission, without Ray and without HTTP."""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from pixelmodels.sampling import draw_all
from pixelmodels.sampling.engine import Engine, Request, RowDone
from pixelmodels.serving.engine_thread import NICENESS, EngineThread
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


def test_torch_has_its_threads_in_the_engines_thread_only() -> None:
    """A second team of OpenMP's threads would slow down the first."""
    before, found = torch.get_num_threads(), queue.SimpleQueue[list[object] | Refused]()
    thread = EngineThread(num_threads=3).start()
    try:
        thread.run(Engine(small_model(0), num_slots=1), lambda first, last: torch.get_num_threads(), 1, WAIT_S, found.put)
        assert found.get(timeout=WAIT_S) == [3]
        assert torch.get_num_threads() == 1
        other = threading.Thread(target=lambda: found.put([torch.get_num_threads()]))
        other.start()
        assert found.get(timeout=WAIT_S) == [1]
    finally:
        thread.stop()
        torch.set_num_threads(before)


def test_it_gives_way_to_the_other_threads() -> None:
    found, here = queue.SimpleQueue[list[object] | Refused](), threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, here)
    thread = EngineThread().start()
    try:
        thread.run(
            Engine(small_model(0), num_slots=1),
            lambda first, last: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
            1,
            WAIT_S,
            found.put,
        )
        wanted = min(19, before + NICENESS) if sys.platform == "linux" else before
        assert found.get(timeout=WAIT_S) == [wanted]
        assert os.getpriority(os.PRIO_PROCESS, here) == before
    finally:
        thread.stop()


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


def breaks(*_: object) -> list[RowDone]:
    raise RuntimeError("broken")


def test_an_engine_that_fails_once_ends_its_own_requests_only(thread: EngineThread) -> None:
    """However often: there is a good step between two failures, of drawing or of scoring."""
    broken, sound = Engine(small_model(0), num_slots=4, max_waiting=100), slow_engine(0.02)
    _, other = told_of(thread, sound, Request(n=2))
    step, scores = broken.step_row, queue.Queue()  # type: ignore[var-annotated]
    for goes_well in ("drawing", "scoring"):
        broken.step_row = breaks  # type: ignore[method-assign]
        answer = told_of(thread, broken, Request(n=2))[1].get(timeout=WAIT_S)[0]
        assert isinstance(answer, Refused) and (answer.status, answer.code) == (500, "internal")
        broken.step_row = step  # type: ignore[method-assign]
        if goes_well == "drawing":
            assert isinstance(told_of(thread, broken, Request(n=2))[1].get(timeout=WAIT_S)[0], np.ndarray)
        else:
            thread.run(broken, lambda first, last: (first, last), 1, WAIT_S, scores.put)
            assert scores.get(timeout=WAIT_S) == [(0, 1)]
    thread.run(broken, breaks, 1, WAIT_S, scores.put)
    assert scores.get(timeout=WAIT_S)[0].code == "internal"
    assert isinstance(other.get(timeout=WAIT_S)[0], np.ndarray)
    assert (thread.failure, thread.num_unfinished, broken.is_idle) == (None, 0, True)


@pytest.mark.parametrize("second", ["drawing", "scoring"])
def test_an_engine_that_fails_twice_ends_the_thread(second: str) -> None:
    ended, answers = queue.Queue(), queue.Queue()  # type: ignore[var-annotated]
    thread = EngineThread(slots=4, max_waiting=20, on_failure=lambda: ended.put(thread.failure)).start()
    broken = slow_engine()
    broken.step_row = breaks  # type: ignore[method-assign]
    assert told_of(thread, broken, Request(n=2))[1].get(timeout=WAIT_S)[0].code == "internal"
    assert thread.failure is None
    if second == "drawing":
        _, answers = told_of(thread, broken, Request(n=2))
    else:
        thread.run(broken, breaks, 1, WAIT_S, answers.put)
    assert ended.get(timeout=WAIT_S) == "RuntimeError: broken"
    (answer,) = answers.get(timeout=WAIT_S)
    assert answer.code == "sampler_lost" and thread.num_unfinished == 0


class AcceleratorError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (AcceleratorError("unspecified launch failure"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_a_broken_device_ends_the_thread_at_once(error: Exception, ends: bool) -> None:
    thread = EngineThread(slots=4, max_waiting=20).start()
    engine = slow_engine()

    def fails() -> list[RowDone]:
        raise error

    engine.step_row = fails  # type: ignore[method-assign]
    answer = told_of(thread, engine, Request(n=1))[1].get(timeout=WAIT_S)[0]
    assert answer.code == ("sampler_lost" if ends else "internal") and (thread.failure is not None) is ends
    thread.stop()


def test_everybody_is_told_when_the_thread_fails_and_then_it_ends() -> None:
    """Those included whom the thread has not seen: they came while it worked on the last row, as did what makes it fail."""
    ended = queue.Queue()  # type: ignore[var-annotated]
    thread = EngineThread(slots=4, max_waiting=40, on_failure=lambda: ended.put(thread.num_unfinished)).start()
    engine, answers = slow_engine(), queue.Queue()  # type: ignore[var-annotated]
    begun, may_end = threading.Event(), threading.Event()
    thread.run(engine, lambda first, last: begun.set() or may_end.wait(WAIT_S), 17, WAIT_S, answers.put)  # two pieces
    assert begun.wait(WAIT_S)
    _, drawn = told_of(thread, engine, Request(n=2))
    thread._inbox.put(breaks)  # type: ignore[arg-type]
    _, late = told_of(thread, engine, Request(n=1))
    thread.run(engine, lambda first, last: 1, 3, WAIT_S, answers.put)
    may_end.set()
    assert ended.get(timeout=WAIT_S) == 0
    told = [drawn.get_nowait()[0], late.get_nowait()[0], answers.get_nowait()[0], answers.get_nowait()[0]]
    assert [one.code for one in told] == ["sampler_lost"] * 4 and all(inbox.empty() for inbox in (drawn, late, answers))
    assert thread.failure == "RuntimeError: broken"
    with pytest.raises(Refused) as refused:
        told_of(thread, engine, Request(n=1))
    assert refused.value.code == "sampler_lost"


def test_what_is_loaded_or_scored_counts_as_unfinished(thread: EngineThread) -> None:
    engine, answers, may_end = slow_engine(), queue.Queue(), threading.Event()  # type: ignore[var-annotated]
    with thread.reserved(20):
        assert thread.num_unfinished == 20
        for n in (4, 5):
            with pytest.raises(Refused, match="429") if n == 5 else nullcontext():
                thread.run(engine, lambda first, last: may_end.wait(WAIT_S), n, WAIT_S, answers.put)
        for ask in (lambda: told_of(thread, engine, Request(n=1)), lambda: thread.reserved(1).__enter__()):
            with pytest.raises(Refused, match="429"):
                ask()
    assert thread.num_unfinished == 4
    may_end.set()
    assert answers.get(timeout=WAIT_S) == [True] and thread.num_unfinished == 0
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


def test_jobs_are_done_in_pieces_and_bounded(thread: EngineThread) -> None:
    answers: queue.Queue = queue.Queue()
    engine = slow_engine()
    thread.run(engine, lambda first, last: (first, last), 20, WAIT_S, answers.put)
    assert answers.get(timeout=WAIT_S) == [(0, 16), (16, 20)]
    thread.run(engine, lambda first, last: 1 / 0, 20, WAIT_S, answers.put)
    assert answers.get(timeout=WAIT_S)[0].code == "internal"
    with pytest.raises(Refused, match="429"):
        thread.run(engine, breaks, 25, WAIT_S, answers.put)


def test_scoring_leaves_most_of_the_time_to_what_is_drawn() -> None:
    """Between two pieces, which are small then, rows take four times as long as the first of them."""
    thread = EngineThread(slots=4, max_waiting=100).start()
    spent: list[tuple[str, float, int]] = []  # what was done, seconds, images
    engine = Engine(small_model(0), num_slots=4, max_waiting=100)
    step = engine.step_row

    def row() -> list[RowDone]:
        began = time.monotonic()
        time.sleep(0.005)
        rows = step()
        spent.append(("row", time.monotonic() - began, 0))
        return rows

    def piece(first: int, last: int) -> None:
        began = time.monotonic()
        time.sleep(0.02)
        spent.append(("piece", time.monotonic() - began, last - first))

    engine.step_row = row  # type: ignore[method-assign]
    answers: queue.Queue = queue.Queue()
    told_of(thread, engine, Request(n=80))
    thread.run(engine, piece, 12, WAIT_S, answers.put)
    assert len(answers.get(timeout=WAIT_S)) == 3
    thread.stop()
    pieces = [index for index, (kind, _, _) in enumerate(spent) if kind == "piece"]
    assert [spent[index][2] for index in pieces] == [4, 4, 4]
    for one, other in itertools.pairwise(pieces):
        between_s = sum(seconds for _, seconds, _ in spent[one + 1 : other])
        assert between_s >= 3.5 * spent[one][1]  # 4 by the thread's own clock, which is read a little later


def test_when_there_may_be_room_is_told_by_the_best_speed(thread: EngineThread) -> None:
    engine = slow_engine(0.05)
    _, told = told_of(thread, engine, Request(n=4))
    told.get(timeout=WAIT_S)
    speed = thread.images_per_s(engine)
    assert 0 < speed < 14
    with thread.reserved(24), pytest.raises(Refused) as refused:
        thread.reserved(20).__enter__()
    assert refused.value.retry_after_s == pytest.approx(20 / speed)
    with thread.reserved(24), pytest.raises(Refused) as refused:
        thread.run(engine, breaks, 24, WAIT_S, lambda _: None)
    assert refused.value.retry_after_s == pytest.approx(24 / speed)
