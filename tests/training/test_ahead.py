"""What a step takes is made by a thread: in order, never too far ahead, with its errors, and the thread ends with the training."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.models import ContextSpec
from pixelmodels.storage import Storage
from pixelmodels.training import loop as loops
from pixelmodels.training.ahead import NUM_AHEAD, InputMaker, made_ahead
from pixelmodels.training.augmentation import Augmentation
from pixelmodels.training.loop import Loop, train
from tests.training.tiny_run import TinyDataset, assert_same, final_weights, tiny_plan, tiny_recipe, train_until

WAIT_S = 30.0  # for what happens at once, or never


class Source:
    """Numbers from 0; tells how many it has given, where, and whether it was closed."""

    def __init__(self, stop: int, error: Exception | None = None) -> None:
        self.stop, self.error, self.given, self.threads = stop, error, 0, set[str]()
        self.changed, self.is_closed = threading.Condition(), False

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.stop):
                with self.changed:
                    self.given += 1
                    self.threads.add(threading.current_thread().name)
                    self.changed.notify_all()
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.is_closed = True

    def wait_for(self, given: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.given >= given, WAIT_S)


def making() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "made ahead"]


def test_what_comes_next_is_made_meanwhile_and_not_too_much_of_it() -> None:
    source = Source(20)
    taken = []
    for number in made_ahead(iter(source), 3):
        taken.append(number)
        assert source.wait_for(min(20, number + 1 + 3))  # while this one is used
        assert source.given <= number + 1 + 3
    assert taken == list(range(20)) and source.threads == {"made ahead"} and source.is_closed
    assert not making()
    assert list(made_ahead(iter(()))) == []


def test_what_the_source_raises_comes_in_its_place() -> None:
    wrong = UserError("shard 'x' is damaged")
    with pytest.raises(UserError) as told:
        list(made_ahead(iter(Source(5, wrong))))
    assert told.value is wrong and not making()
    steps = made_ahead(iter(Source(5, wrong)))
    assert [next(steps) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError):
        next(steps)
    assert list(steps) == [] and not making()


@pytest.mark.parametrize("num_taken", [1, 7])
def test_the_thread_ends_where_it_is_left(num_taken: int) -> None:
    source = Source(1000)
    with closing(made_ahead(iter(source))) as steps:
        for _ in range(num_taken):
            next(steps)
    assert source.is_closed and not making() and source.given <= num_taken + NUM_AHEAD
    with closing(made_ahead(iter(Source(10)))):  # of which nothing was taken
        pass
    assert not making()


def plain(items: Iterator[object]) -> Iterator[object]:
    yield from items


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_is_the_same_to_the_last_bit_without_the_thread(accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(condition_on=("label", "vector"), context_drop_rate=0.4, accumulate=accumulate)
    ahead, alone = (tiny_plan(Storage(f"{tmp_path}/{name}"), recipe, checkpoint_every_s=1e-9) for name in ("ahead", "alone"))
    for step in (3, 7):  # stopped in the middle of an epoch, and again
        train_until(ahead, step)
        assert not making()
    train(ahead, say=lambda _: None)
    assert not making()
    monkeypatch.setattr(loops, "made_ahead", plain)
    train(alone, say=lambda _: None)
    assert_same(final_weights(ahead), final_weights(alone))


def test_a_mistake_in_the_data_ends_the_training_as_what_it_is(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(tiny_plan(storage), torch.device("cpu"), say=lambda _: None)

    def rows(*_: int) -> Iterator[tuple[Rows, int]]:
        yield TinyDataset().read("train").rows.part(0, 5), 5
        raise UserError("shard 'x' is damaged")

    monkeypatch.setattr(loop.feed, "training_rows", rows)
    with pytest.raises(UserError, match="shard 'x' is damaged"):
        loop.run()
    assert loop.position.step == 1 and not making()


def test_parts_of_a_step_hold_its_rows_in_order_and_one_stands_in_where_there_is_none() -> None:
    rows = TinyDataset().read("train").rows.part(0, 5)
    empty = Rows(np.zeros((1, *rows.images_NCHW.shape[1:]), np.uint8), np.zeros(1, np.int32), np.zeros((1, 3), np.float32))
    make = InputMaker(
        torch.device("cpu"), ContextSpec(num_classes=2, vector_size=3), empty, seed=3, num_parts=3, augmentation=Augmentation()
    )
    inputs = make(rows, 12, 4, 7)
    assert inputs.num_images == 12 and [len(part.batch.x_BCHW) for part in inputs.parts] == [1, 2, 2]
    for name, column in (("x_BCHW", rows.images_NCHW), ("label_B", rows.labels_N), ("vector_BV", rows.vectors_NV)):
        np.testing.assert_array_equal(torch.cat([getattr(part.batch, name) for part in inputs.parts]).numpy(), column)
    assert {part.batch.x_BCHW.dtype for part in inputs.parts} == {torch.int64} and {part.weight for part in inputs.parts} == {1.0}
    one = dataclasses.replace(make, num_parts=1)(rows, 12, 4, 7).parts[0]
    assert torch.equal(torch.cat([part.keys_B for part in inputs.parts]), one.keys_B)
    few = make(rows.part(0, 1), 12, 4, 7)
    assert [(len(part.batch.x_BCHW), part.weight) for part in few.parts] == [(1, 0.0), (1, 0.0), (1, 1.0)]
    assert torch.equal(few.parts[2].keys_B, one.keys_B[:1])
    assert [part.weight for part in make(rows.part(0, 0), 12, 4, 7).parts] == [0.0] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_copies_to_a_gpu_have_arrived_when_they_are_used() -> None:
    rows = TinyDataset().read("train").rows
    make = InputMaker(
        torch.device("cuda", 0),
        ContextSpec(num_classes=2, vector_size=3),
        rows.part(0, 1),
        seed=3,
        num_parts=2,
        augmentation=Augmentation(),
    )

    def inputs() -> Iterator[object]:
        with make.copying():
            for step in range(50):
                yield make(rows, 23, 0, step)

    for number, one in enumerate(made_ahead(inputs())):
        one.arrive()  # type: ignore[attr-defined]
        parts = one.parts  # type: ignore[attr-defined]
        assert torch.equal(torch.cat([part.batch.x_BCHW for part in parts]).cpu(), torch.from_numpy(rows.images_NCHW).long()), number
        assert all(tensor.is_cuda for part in parts for tensor in (*part.batch.tensors(), part.keys_B))
