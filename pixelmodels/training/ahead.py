"""What a step takes, made by a thread while the step before runs: rows are read, become tensors, and are copied to the device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pixelmodels.data.rows import Rows
from pixelmodels.evaluation.batches import Batch, to_batch
from pixelmodels.layers.dropout import image_keys
from pixelmodels.models import Context, ContextSpec
from pixelmodels.training.augmentation import Augmentation
from pixelmodels.training.orders import drawn_orders, turned_rows

T = TypeVar("T")

NUM_AHEAD = 2  # steps whose tensors are made before they are needed
_END_S = 10.0  # for which the thread is waited for at the end: it may be at something that a cluster never answers


@dataclass(frozen=True)
class StepPart:
    """A worker's images of a step that go through the model together."""

    batch: Batch  # at least one image
    keys_B: torch.Tensor  # what dropout goes by, of each image
    weight: float  # 1; 0 for an image that stands in where the worker has none

    def context(self, spec: ContextSpec, drop_rate: float) -> Context | None:
        """Their context, each kind of each image left out with probability `drop_rate`."""
        context = self.batch.context(spec)
        return None if context is None else context.dropped(drop_rate, self.keys_B)


@dataclass(frozen=True)
class StepInputs:
    """What one worker takes in a step."""

    parts: list[StepPart]  # one after the other, see `Recipe.accumulate`
    num_images: int  # of the step, over all workers
    copied: torch.cuda.Event | None = None  # when all of it is on the GPU, where it goes there

    def arrive(self) -> None:
        """Have what the device is given from here on wait for the copies."""
        if self.copied is None:
            return
        stream = torch.cuda.current_stream(self.parts[0].keys_B.device)
        stream.wait_event(self.copied)
        for part in self.parts:
            for tensor in (*part.batch.tensors(), part.keys_B):
                tensor.record_stream(stream)  # its memory is not used again before this stream is done with it


@dataclass(frozen=True)
class InputMaker:
    """Makes what a worker takes in a step out of its rows."""

    device: torch.device  # where tensors go
    spec: ContextSpec  # what the model is given
    empty: Rows  # one image that stands in where the worker has none: all workers take part in a step
    seed: int  # of the run
    num_parts: int  # of a step
    augmentation: Augmentation  # of the images

    def __call__(self, rows: Rows, num_images: int, first: int, step: int) -> StepInputs:
        """Args: the worker's `rows`; `num_images` of the step over all workers, its own from place `first` on; `step` of the run."""
        places_B = first + np.arange(max(1, len(rows)))
        keys_B = image_keys(self.seed, step, places_B).to(self.device)
        rows = self.augmentation(rows, self.seed, step, places_B[: len(rows)])
        order_B = None
        if self.spec.num_orders > 1:
            order_B = drawn_orders(self.spec.num_orders, self.seed, step, places_B)
            rows = turned_rows(rows, order_B[: len(rows)])
        parts = []
        for part in range(self.num_parts):
            start, stop = part * len(rows) // self.num_parts, (part + 1) * len(rows) // self.num_parts
            some = rows.part(start, stop) if stop > start else self.empty
            mine = slice(start, max(start + 1, stop))
            batch = to_batch(some, self.device, self.spec, None if order_B is None else order_B[mine])
            parts.append(StepPart(batch, keys_B[mine], float(stop > start)))
        return StepInputs(parts, num_images, self._copied())

    def copying(self) -> AbstractContextManager[object]:
        """While it is open, copies do not wait for what else the GPU does."""
        return torch.cuda.stream(torch.cuda.Stream(self.device)) if self.device.type == "cuda" else nullcontext()

    def _copied(self) -> torch.cuda.Event | None:
        return torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None


def made_ahead(items: Iterator[T], most: int = NUM_AHEAD) -> Generator[T, None, None]:
    """What an iterator gives, by a thread that is up to `most` items ahead of what is taken; what it raises is raised in its place.

    The thread ends with the generator: close it (`contextlib.closing`) where it may be left before its end.
    """
    made: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    room, is_left = threading.Semaphore(most), threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not is_left.is_set():
                made.put((next(items), None))
        except BaseException as error:
            made.put((None, error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=make, name="made ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item  # type: ignore[misc]  # an item where there is no error
    finally:
        is_left.set()
        room.release()
        thread.join(_END_S)
