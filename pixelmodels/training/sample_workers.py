"""Blocks of images drawn over the Ray cluster: a task for each, with the model out of Ray's own memory."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

import pixelmodels
from pixelmodels import rayctx
from pixelmodels.errors import UserError
from pixelmodels.models import PixelModel, describe, from_description
from pixelmodels.sampling import Request
from pixelmodels.training.preflight import WorkerNeeds, runs_at_once
from pixelmodels.training.sample_blocks import Block, UInt8
from pixelmodels.training.sample_here import check_gpu, draw_requests
from pixelmodels.training.sample_order import Order

MAX_RETRIES = 3  # of a block whose worker died


@dataclass(frozen=True)
class PackedModel:
    """A model as it travels to workers: no files that they would have to see, no pickled modules."""

    description: dict[str, Any]  # as `models.describe` gives it
    weights: bytes  # safetensors

    @classmethod
    def of(cls, model: PixelModel) -> PackedModel:
        """From a model on any device."""
        return cls(describe(model), save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}))

    @property
    def key(self) -> str:
        """16 hexadecimal digits of a hash of all that it is, and of the version of the code that draws."""
        text = json.dumps([pixelmodels.__version__, self.description], sort_keys=True)
        return hashlib.sha256(text.encode() + self.weights).hexdigest()[:16]

    def unpack(self, device: torch.device) -> PixelModel:
        """The model, in evaluation mode."""
        state = load(self.weights)
        dtype = next(value.dtype for value in state.values() if value.is_floating_point())
        model = from_description(self.description).to(dtype)
        model.load_state_dict(state)
        return model.to(device).eval()


def draw_on_ray(
    packed: PackedModel, order: Order, blocks: list[Block], num_workers: int | None, use_gpu: bool
) -> Iterator[tuple[Block, UInt8]]:
    """Blocks as they are finished, in any order: `num_workers` at a time, each with a CPU (and a GPU) of its own.

    Joins Ray or starts it. A block whose worker dies is drawn again. Raises `UserError` for workers that the cluster can never have, or
    where workers die again and again.
    """
    rayctx.connect(rayctx.num_cores())  # nothing here needs the CPU that a local Ray has for Ray Data
    import ray

    room = runs_at_once(WorkerNeeds(num_workers or 1, use_gpu=use_gpu), spare_cpus=0)
    at_once = num_workers or room
    task = ray.remote(_draw_block).options(num_cpus=1, num_gpus=1 if use_gpu else 0, max_retries=MAX_RETRIES)
    model, waiting = ray.put(packed), deque(blocks)
    running: dict[Any, Block] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                block = waiting.popleft()
                running[task.remote(model, order.requests(*block), use_gpu)] = block
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"a worker was lost ({reason}); run the same command again, with a smaller --batch-size if memory ran out"
        ) from error


def _draw_block(packed: PackedModel, requests: list[Request], use_gpu: bool) -> UInt8:
    check_gpu(use_gpu)
    return draw_requests(packed.unpack(torch.device("cuda" if use_gpu else "cpu")), requests)
