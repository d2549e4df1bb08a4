"""Actors of Ray Data that hold a model: rows of a data set go through them in batches, over the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pixelmodels.models import PixelModel
from pixelmodels.runs.loading import find_model
from pixelmodels.tracking import Tracker


@dataclass(frozen=True)
class Actors:
    """Which model they hold, and how many there are."""

    place: str  # of the model, as `loading.locate` gives it
    tracker: Tracker  # where registered versions are looked up, and in whose storage the others
    num_workers: int = 1  # actors
    batch_size: int = 1  # rows at a time
    use_gpu: bool = False  # one GPU an actor
    with_context: bool = True  # whether a conditional model is given all that it is conditioned on, or nothing

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device("cuda" if self.use_gpu else "cpu")

    def model(self) -> PixelModel:
        """The model, on the CPU in evaluation mode."""
        return find_model(self.place, self.tracker.storage, self.tracker)

    def over(self, rows: Any, num_shards: int, kind: type, *arguments: Any) -> Any:
        """Rows of so many shards (each read by one task) through actors that `kind(*arguments)` makes, as tables of Arrow's."""
        import ray.data

        return rows.map_batches(
            kind,
            fn_constructor_args=arguments,
            batch_size=self.batch_size,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=min(self.num_workers, num_shards)),
            num_cpus=1,
            num_gpus=1 if self.use_gpu else 0,
        )
