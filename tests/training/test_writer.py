"""What is written in a thread: in its order, at most so much at a time, and nothing of it fails unseen."""

from __future__ import annotations

import threading

import pytest

from pixelmodels.training.writer import MOST_WAITING, Writer


def test_all_is_written_in_its_order() -> None:
    written: list[int] = []
    writer = Writer()
    for number in range(20):
        writer.bring(lambda number=number: written.append(number))
    writer.wait()
    assert written == list(range(20))
    writer.bring(lambda: written.append(20))
    writer.close()  # waits, too
    assert written[-1] == 20


def test_who_brings_more_than_may_wait_waits() -> None:
    writer, may_end, brought = Writer(), threading.Event(), threading.Semaphore(0)

    def bring() -> None:
        for _ in range(1 + MOST_WAITING):
            writer.bring(lambda: None if may_end.wait(60) else pytest.fail("it was not let go"))
            brought.release()

    thread = threading.Thread(target=bring)
    thread.start()
    assert all(brought.acquire(timeout=60) for _ in range(MOST_WAITING))
    assert not brought.acquire(timeout=0.1)
    may_end.set()
    assert brought.acquire(timeout=60)
    thread.join()
    writer.close()


@pytest.mark.parametrize("told", ["wait", "bring"])
def test_what_goes_wrong_is_raised_where_it_is_seen_next(told: str) -> None:
    def fails() -> None:
        raise OSError("disk full")

    writer = Writer()
    writer.bring(fails)
    with pytest.raises(OSError, match="disk full"):
        if told == "wait":
            writer.wait()
        else:
            for _ in range(1 + MOST_WAITING):
                writer.bring(lambda: None)
    writer.close()


def test_nothing_is_written_after_what_went_wrong() -> None:
    writer, may_fail, written = Writer(), threading.Event(), list[int]()

    def fails() -> None:
        may_fail.wait(60)
        raise OSError("disk full")

    writer.bring(fails)
    writer.bring(lambda: written.append(1))  # such as a checkpoint, which removes the ones before
    may_fail.set()
    writer.close()
    assert written == []
    with pytest.raises(OSError, match="disk full"):
        writer.wait()
