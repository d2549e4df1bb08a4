"""How the training of a recipe scales, by a model: time, memory and bytes of a step on any number of workers.

A step of a recipe has the same images whatever the number of workers, so each of them has fewer the more there are:

- **Work**: operations of a worker's images over what its device reaches, or the time that all kernels of its passes take to start, if
  that is longer (a CPU does one after the other: their sum). Weights, gradients, moments and average are read, and written but for
  the gradients, at the speed of the memory.
- **Exchange**: gradients (float32) are averaged in a ring: each of W workers sends 2 (W - 1) / W of their bytes, in 2 (W - 1) messages for
  each bucket (Patarasuk and Yuan, JPDC 2009). Buckets are those of torch's `DistributedDataParallel`: a first of 1 MiB, then of 25 MiB,
  in the order in which the backward pass of a step's last part comes by. So all but the last travel beside that pass.
- **Reading** of images goes on beside the work, and is told in bytes a second that are wanted. **Saving** does, too: checkpoints are
  written by a thread.

`docs/scaling.md` has what comes of it for published recipes, and `benchmarks/scale_model.py` compares it with what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pixelmodels.recipes.recipe import Recipe
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.cost import GPU, LAUNCH_S, PEAK_FLOPS, UTILIZATION, Cost, batch_of_a_part

MIB = 1 << 20
NUMBERS = (1, 8, 64)  # of workers that pages and commands tell of
FIRST_BUCKET, BUCKET = MIB, 25 * MIB  # bytes at most, of torch's wrapper


@dataclass(frozen=True)
class Machine:
    """What workers run on, as far as it decides how long a step takes."""

    name: str
    flops_per_s: Mapping[str, float]  # of a device while it trains, by precision
    kernel_s: float  # seconds that a kernel takes at least
    memory_bytes_per_s: float  # of a device's memory, while weights are changed
    link_bytes_per_s: float  # that a worker can send to another one of its machine, while it receives as much
    network_bytes_per_s: float  # the same to another machine
    message_s: float  # seconds that a message takes at least
    devices: int = 1  # of one machine
    starts_ahead: bool = True  # whether kernels are started while earlier ones run, as a GPU's are


GPUS = Machine(
    name=GPU,
    flops_per_s={precision: UTILIZATION * peak for precision, peak in PEAK_FLOPS.items()},
    kernel_s=LAUNCH_S,
    memory_bytes_per_s=1.5e12,  # of 2.0e12 that its data sheet has
    link_bytes_per_s=150e9,  # of the 300e9 that NVLink has each way
    network_bytes_per_s=10e9,  # of a network of 100 Gbit/s
    message_s=20e-6,
    devices=8,
)


@dataclass(frozen=True)
class Step:
    """What a step costs each worker of a training on some of them."""

    num_workers: int
    images: int  # that the worker with most of them scores
    work_s: float  # forward, backward and update
    exchange_s: float  # until gradients are averaged, as far as the backward pass does not hide it
    sent_bytes: float  # to other workers; as many come
    read_bytes: float  # of images, on average
    memory_bytes: float

    @property
    def seconds(self) -> float:
        """A step's time."""
        return self.work_s + self.exchange_s

    @property
    def read_bytes_per_s(self) -> float:
        """Bytes of images a second that all workers together want of the storage, once decoded."""
        return self.num_workers * self.read_bytes / self.seconds


@dataclass(frozen=True)
class Scale:
    """A recipe's training on machines of one kind."""

    recipe: Recipe
    cost: Cost
    spec: ImageSpec
    machine: Machine = field(default=GPUS)

    def step(self, num_workers: int) -> Step:
        """A step on so many workers, each on a device of its own."""
        recipe, spent, machine = self.recipe, self.cost, self.machine
        part = batch_of_a_part(recipe, num_workers)
        images = math.ceil(recipe.batch_size / num_workers)
        passes = spent.training_flops / spent.forward_flops  # forward, and what a backward pass costs in these
        both = (part * spent.training_flops / machine.flops_per_s[recipe.precision], passes * spent.num_kernels * machine.kernel_s)
        part_s = max(both) if machine.starts_ahead else sum(both)
        moved = 2 * spent.weight_bytes - spent.gradient_bytes
        work_s = part_s * math.ceil(images / part) + moved / machine.memory_bytes_per_s
        exchange_s = self._exchange_s(num_workers, backward_s=part_s * (passes - 1) / passes)
        return Step(
            num_workers,
            images,
            work_s,
            exchange_s,
            sent_bytes=_ring(num_workers) * spent.gradient_bytes,
            read_bytes=recipe.batch_size / num_workers * math.prod(self.spec.shape),
            memory_bytes=spent.worker_bytes(part),
        )

    def efficiency(self, num_workers: int) -> float:
        """How much of what one worker does in a second each of several does."""
        return self.step(1).seconds / (num_workers * self.step(num_workers).seconds)

    def most_workers(self, efficiency: float = 0.5) -> int:
        """The largest power of two of workers that are each worth so much of one; no more than a step has images."""
        most = 1
        while 2 * most <= self.recipe.batch_size and self.efficiency(2 * most) >= efficiency:
            most *= 2
        return most

    def _exchange_s(self, num_workers: int, backward_s: float) -> float:
        machine, total = self.machine, self.cost.gradient_bytes
        if num_workers == 1:
            return 0.0
        speed = machine.link_bytes_per_s if num_workers <= machine.devices else machine.network_bytes_per_s
        last = total if total <= FIRST_BUCKET else (total - FIRST_BUCKET) % BUCKET or BUCKET
        buckets = 1 + math.ceil(max(0, total - FIRST_BUCKET) / BUCKET)
        messages_s = 2 * (num_workers - 1) * machine.message_s
        last_s = _ring(num_workers) * last / speed + messages_s
        others_s = _ring(num_workers) * (total - last) / speed + (buckets - 1) * messages_s
        return last_s + max(0.0, others_s - backward_s)


def _ring(num_workers: int) -> float:
    """How often a worker sends the bytes that all of them add up."""
    return 2 * (num_workers - 1) / num_workers
