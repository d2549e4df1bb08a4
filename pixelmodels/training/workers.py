"""The workers of one run as one of them sees it: its rank, and the few things that they tell each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.distributed as dist


class Workers:
    """Rank and number of the workers; one worker alone where no process group was set up."""

    def __init__(self, device: torch.device, *, alone: bool = False) -> None:
        """`alone`: as if this worker were the only one, to read what all of them share."""
        grouped = not alone and dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.count = dist.get_world_size() if grouped else 1
        self._device = device if grouped and dist.get_backend() == "nccl" else torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes, prints and decides."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This worker's part of a range: the workers' parts are disjoint, cover it, and differ by one at most."""
        size = stop - start
        return start + self.rank * size // self.count, start + (self.rank + 1) * size // self.count

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
        """A tensor of bytes of each worker, by rank; all have the same length."""
        if self.count == 1:
            return [state]
        mine = state.to(self._device)
        states = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(states, mine)
        return [one.cpu() for one in states]

    def wait(self) -> None:
        """Go on when all workers are here."""
        if self.count > 1:
            dist.barrier()
