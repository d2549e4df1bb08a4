"""One side of a comparison of samplers: a process of a checkout that times what it is told to, a line for each. See `sampling_compiled`.

It uses only what the first version had, but for what is compiled; so it is run with another checkout on its path, too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.sampling_rows import Case
from pixelmodels.models import PixelModel
from pixelmodels.sampling import Engine, Request, draw_all, reference_sample

ENOUGH_S = 10.0  # of calls of one kind


def mean_of(calls: int, call: Callable[[int], object]) -> float:
    """Seconds of a call, the mean of so many, of fewer where they are long."""
    started, number = time.perf_counter(), 0
    while number < calls and time.perf_counter() - started < ENOUGH_S:
        call(number)
        number += 1
    return (time.perf_counter() - started) / number


class Side:
    """Models that were asked for, and their engines."""

    def __init__(self) -> None:
        self.models: dict[str, PixelModel] = {}
        self.engines: dict[str, Engine] = {}

    def seconds(self, case: dict[str, Any], mode: str, batch: int, seed: int) -> float:
        """Seconds for a batch, the mean of several where they are short.

        Args: `mode`, one of `forward`, `eager`, `compiled`, and `reference` (timed on some pixels, and scaled).
        """
        name = json.dumps(case, sort_keys=True)
        if name not in self.models:
            self.models[name] = Case(**case).build()
        model = self.models[name]
        if mode == "forward":
            x_BCHW = torch.randint(model.spec.levels, (batch, *model.spec.shape), dtype=torch.uint8)
            with torch.inference_mode():
                return mean_of(max(1, 64 // batch), lambda _: model(x_BCHW))
        if mode == "reference":
            num_pixels = 4
            started = time.perf_counter()
            reference_sample(model, batch, seed=0, num_pixels=num_pixels)
            return (time.perf_counter() - started) / num_pixels * model.spec.height * model.spec.width
        key = f"{name} {mode} {batch}"
        if key not in self.engines:
            options: dict[str, Any] = {}
            if mode == "compiled":
                from pixelmodels.sampling.compiled import CompiledPasses

                options["make_passes"] = CompiledPasses
            self.engines[key] = Engine(model, num_slots=batch, max_waiting=batch, reserve=0, **options)
        draws = max(1, 16 // batch)
        return mean_of(draws, lambda number: draw_all(self.engines[key], Request(n=batch, seed=seed * draws + number)))


def main() -> None:
    """Time what comes, until no more comes."""
    side = Side()
    for line in sys.stdin:
        print(json.dumps(side.seconds(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
