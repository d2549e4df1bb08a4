"""The workers of one run as one of them sees it: its rank, and the few things that they tell each other."""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pixelmodels.data.rows import Share
from pixelmodels.data.streaming import Tasks, Windows, WindowTasks
from pixelmodels.errors import UserError, first_line
from pixelmodels.models import Context, PixelModel

if TYPE_CHECKING:
    from ray import ObjectRef

T = TypeVar("T")
_BYTES_AT_ONCE = 256 << 20  # that workers tell each other: on a GPU they take memory


class Workers(Share):
    """Rank and number of the workers; one worker alone where no process group was set up."""

    def __init__(self, device: torch.device) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        super().__init__(*((dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)))
        self._device = device if grouped and dist.get_backend() == "nccl" else torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes, prints and decides."""
        return self.rank == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all workers, in float64, element by element."""
        if self.count == 1:
            return values.astype(np.float64)
        total = torch.as_tensor(values, dtype=torch.float64, device=self._device).clone()
        dist.all_reduce(total)
        return total.cpu().numpy()

    def told_by_first(self, values: Sequence[float]) -> list[float]:
        """What the first worker says, known to all; the others' own values are ignored."""
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.broadcast(told, src=0)
        return [float(value) for value in told.cpu()]

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite each tensor with the first worker's."""
        if self.count == 1:
            return
        for tensor in tensors:
            told = tensor.detach().to(self._device)
            dist.broadcast(told, src=0)
            tensor.copy_(told)

    def gather(self, state: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of each worker, by rank; all have the same type and length."""
        if self.count == 1:
            return [state]
        mine = state.to(self._device)
        states = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(states, mine)
        return [one.cpu() for one in states]

    def bytes_of_first(self, content: bytes) -> bytes:
        """The first worker's bytes, known to all; the others' own are ignored."""
        if self.count == 1:
            return content
        length = int(self.told_by_first([float(len(content))])[0])
        told = bytearray(content) if self.is_first else bytearray(length)
        for start in range(0, len(told), _BYTES_AT_ONCE):
            part = memoryview(told)[start : start + _BYTES_AT_ONCE]
            sent = torch.frombuffer(part, dtype=torch.uint8).to(self._device)
            dist.broadcast(sent, src=0)
            part[:] = sent.cpu().numpy().tobytes()
        return bytes(told)

    def first_said(self, text: str | None) -> str | None:
        """What the first of the workers that say something says, known to all; None where nobody does."""
        return next((one for one in self.all_said(text) if one is not None), None)

    def all_said(self, text: T) -> list[T]:
        """What each worker says, by rank, known to all."""
        said = [text] * self.count
        if self.count > 1:
            dist.all_gather_object(said, text)
        return said

    def share_tasks(self, windows: Windows) -> Tasks:
        """What reads streamed splits once for all workers; call it in every worker.

        Who starts the tasks is this worker where there is one; where there are more, an actor on the first one's machine, which ends
        with that worker: the others are told so by Ray when they ask for more.
        """
        import ray

        if self.count == 1:
            return WindowTasks(windows)
        name = f"tasks-{uuid.uuid4().hex}"
        if self.is_first:
            node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            tasks = ray.remote(num_cpus=0)(WindowTasks).options(name=name, scheduling_strategy=node).remote(windows)
        name = self.all_said(name)[0]
        if not self.is_first:
            tasks = ray.get_actor(name)
        return _SharedTasks(tasks)

    def wait(self) -> None:
        """Go on when all workers are here."""
        if self.count > 1:
            dist.barrier()


class _SharedTasks:
    """The tasks of an actor; see `Tasks`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, *which: Any) -> None:
        self._asked("begin", *which)

    def part(self, *which: Any) -> ObjectRef:
        return self._asked("part", *which)

    def piece(self, *which: Any) -> ObjectRef:
        return self._asked("piece", *which)

    def _asked(self, *which: Any) -> Any:
        import ray

        return ray.get(self._actor.in_a_list.remote(*which))[0]


# Of torch's wrapper: a model's buffers are constants, the same everywhere; gradients are parts of what travels, and no copies of it.
OPTIONS: dict[str, Any] = {"forward_sync_buffers": False, "gradient_as_bucket_view": True}


class LogProb(nn.Module):
    """A model whose `forward` is its log-probability, for wrappers that hook `forward`."""

    def __init__(self, model: PixelModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: torch.Tensor, context: Context | None = None) -> torch.Tensor:
        """Log-probabilities of a batch, in nats: shape (B,)."""
        # without `log_prob`'s check of the levels, which the data set vouches for: a GPU would be waited for
        return self.model.log_prob_map(x_BCHW, context).sum((1, 2))


def data_parallel(model: PixelModel, workers: Workers, wrap: Callable[[nn.Module], nn.Module] | None, is_compiled: bool) -> nn.Module:
    """The model's log-probability, its gradients averaged over the workers; `wrap` does that, torch's own wrapper unless given.

    Args: `is_compiled`, whether it is compiled when it is first called (and again for each other number of images).
    """
    module: nn.Module = LogProb(model)
    if is_compiled:
        module = compiled(module, model.device)
    if wrap is not None:
        return wrap(module)
    return DistributedDataParallel(module, **OPTIONS) if workers.count > 1 else module


def keep_compiled() -> None:
    """Have `torch.compile` keep what it makes in a folder of this user alone, where it has one; before torch has chosen one of its own."""
    with suppress(OSError, RuntimeError):
        folder = Path("~/.cache/pixelmodels/training").expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """A module by `torch.compile`; raises `UserError` without a C++ compiler."""
    if device.type == "cpu":
        from torch._inductor import cpp_builder

        try:
            cpp_builder.get_cpp_compiler()
        except Exception as error:
            raise UserError(f"compile: there is no C++ compiler ({first_line(error)}); install g++, or leave compile out") from error
    found: Any = torch.compile(module, dynamic=False)
    return found


def averaging_gradients(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are averaged once a step: with its last part."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    return nullcontext()


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what a step frees for the next step; returns whether it was asked to (Linux with glibc only).

    By default it gives large blocks back to the kernel, which hands them out again page by page, zeroed: about a
    tenth of a training step on a CPU (`benchmarks/training.py`).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST))
