"""The baseline of `benchmarks/serving.py`: a sampler that draws static batches of `@serve.batch`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from ray import serve

from benchmarks.serving_engine import passes_of
from pixelmodels.sampling.engine import Engine
from pixelmodels.serving.refusals import Refused
from pixelmodels.serving.replica import Drawn, Sampler
from pixelmodels.serving.requests import engine_request
from pixelmodels.serving.schemas import SampleRequest
from pixelmodels.serving.settings import Settings

MAX_BATCH = 64  # images; also the slots
# For a batch to fill. Ray Serve closes one so long after its first request even while another is drawn: with less time there are many
# small ones, and it does not keep up; 0.3, 0.7, 1.2 and 2.2 s were worse for single images at 40 a second on two cores.
WAIT_S = 1.6


def _take_cores(num_threads: int) -> None:
    """Have torch use so many threads in this one, whatever others set later."""
    torch.set_num_threads(num_threads)
    torch.get_num_threads()


def num_images(items: Sequence[SampleRequest]) -> int:
    """Images that requests ask for."""
    return sum(asked.n for asked in items)


class StaticSampler(Sampler):
    """What has come when the engine is idle, up to all slots, begins together and is answered together."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        model = self.shelf.find(None).model
        make_passes = passes_of(settings.compiled, settings.cpus)
        self._engine = Engine(model, num_slots=MAX_BATCH, max_waiting=1 << 30, reserve=0, make_passes=make_passes)
        self._drawer = ThreadPoolExecutor(1, "drawer")  # one thread that has the cores, like the engine's of the other service
        self._drawer.submit(_take_cores, settings.cpus).result()
        torch.set_num_threads(1)

    async def sample(self, asked: SampleRequest, timeout_s: float) -> Drawn | Refused:
        """Draw the images of a request with those that came with it."""
        answer: Drawn = await self._batch(asked)
        return answer

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S, batch_size_fn=num_images)
    async def _batch(self, items: list[SampleRequest]) -> list[Drawn]:
        return await asyncio.get_running_loop().run_in_executor(self._drawer, self._draw_all, items)

    def _draw_all(self, items: list[SampleRequest]) -> list[Drawn]:
        model = self._engine.model
        found = {
            self._engine.submit(engine_request(model, asked, self.settings.max_image_bytes)): np.zeros(
                (asked.n, *model.spec.shape), np.uint8
            )
            for asked in items
        }
        while not self._engine.is_idle:
            for row in self._engine.step_row():
                if row.image_CHW is not None:
                    found[row.request_id][row.image] = row.image_CHW.numpy()
        return [Drawn("static", model.spec.levels, images_NCHW) for images_NCHW in found.values()]
