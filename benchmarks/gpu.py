"""What a GPU does with every architecture: steps, scores, samples and memory, beside the CPU's; in five minutes, without a download.

    python -m benchmarks.gpu                            # all of it on cuda:0, as far as `--seconds` reach
    python -m benchmarks.gpu --only gated_pixelcnn      # some architectures
    python -m benchmarks.gpu --device cpu --seconds 60  # a rehearsal on a machine that has none

For each architecture, at two sizes:

- scores: the largest difference of `log_prob` from the CPU's in float64, relative, with products in IEEE float32 and in TF32;
- steps: images a second of a training step (forward, backward, clipping, AdamW, average) in IEEE float32, TF32 and bfloat16, and in
  bfloat16 compiled by `torch.compile`; the first call of the compiled one apart;
- memory: the peak of a float32 step over what `--dry-run` estimates;
- samples: images a second of the engine, the share of sub-pixels that differ from the CPU's (float32 rounds otherwise), and the time of
  a row's passes replayed as a CUDA graph over that of the passes as they are.

What the time does not reach is listed as `left_out`. An error of one part is told in its place and ends nothing else. The last thing
printed is one JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.dated import RESULTS, write_dated
from benchmarks.training import Arguments as TrainingArguments
from benchmarks.training import recipe_of
from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with, one_line
from pixelmodels.layers.dropout import image_keys, use_keys
from pixelmodels.models import ARCHITECTURES, PixelModel, architecture_class, build
from pixelmodels.products import Products, products
from pixelmodels.recipes.recipe import OptimizerConfig, Precision, Recipe
from pixelmodels.sampling import Engine, Request, draw_all
from pixelmodels.sampling.passes import Passes
from pixelmodels.shapes import ImageSpec
from pixelmodels.training.averaging import Average
from pixelmodels.training.cost import cost
from pixelmodels.training.optimization import autocast, make_optimizer
from pixelmodels.training.workers import LogProb

SIZES = {"small": (32, 2, 32), "large": (128, 8, 64)}  # features, layers, images of a batch
LEVELS, SIDE = 16, 28  # of the images
TIMED_S = 1.5  # for which steps are timed


@dataclass(frozen=True)
class Arguments:
    """Measure what a GPU does with every architecture."""

    only: tuple[str, ...] = ()  # architectures; all unless given
    device: str = "cuda:0"
    seconds: float = 270.0  # after which nothing more is begun
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        for name in self.only:
            architecture_class(name)
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device '{self.device}' is not there; give --device cpu for a rehearsal")


class Subject:
    """An architecture at one size, on the device and on the CPU."""

    def __init__(self, architecture: str, size: str, device: torch.device):
        features, layers, self.batch = SIZES[size]
        self.device = device
        self.recipe: Recipe = recipe_of(architecture, TrainingArguments(num_features=features, num_layers=layers), 1)
        self.spec = ImageSpec(1, SIDE, SIDE, LEVELS)
        torch.manual_seed(0)
        self.here: PixelModel = build(self.recipe.model, self.spec, self.recipe.likelihood).eval()
        self.x_BCHW = torch.randint(LEVELS, (self.batch, *self.spec.shape), dtype=torch.uint8)
        self.here.initialize(self.x_BCHW)
        self.there = self._copy()

    def _copy(self) -> PixelModel:
        model = build(self.recipe.model, self.spec, self.recipe.likelihood)
        model.load_state_dict(self.here.state_dict())
        return model.to(self.device).eval()

    @torch.no_grad()
    def scores(self) -> dict[str, Any]:
        """Relative differences from the CPU's float64."""
        exact_B = self._copy().cpu().double().log_prob(self.x_BCHW[:8])
        found: dict[str, Any] = {}
        kinds: tuple[Products, ...] = ("ieee", "tf32")
        for kind in kinds:
            with products(kind, self.device):
                nats_B = self.there.log_prob(self.x_BCHW[:8].to(self.device)).double().cpu()
            found[kind] = float(((nats_B - exact_B) / exact_B).abs().max())
        return found

    def step(self, precision: Precision, kind: Products, *, compiled: bool = False) -> dict[str, Any]:
        """Images a second of training steps, and the peak of their memory."""
        model = self._copy().train()
        module: Callable[..., torch.Tensor] = LogProb(model)
        if compiled:
            module = torch.compile(module)
        optimizer, average = make_optimizer(model, OptimizerConfig()), Average(model, 0.999)
        x_BCHW = self.x_BCHW.to(self.device)
        keys_B = image_keys(0, 0, np.arange(self.batch)).to(self.device)

        def once() -> None:
            optimizer.zero_grad(set_to_none=True)
            use_keys(model, keys_B)
            with autocast(self.device, precision):
                nats = -module(x_BCHW).sum() / (self.batch * self.spec.num_subpixels)
            nats.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model, 0)

        with products(kind, self.device):
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            first_s = timed(self.device, once)
            peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
            timed(self.device, once)
            steps = max(1, int(TIMED_S / timed(self.device, once)))
            seconds = timed(self.device, partial(repeat, once, steps))
        found = {"images_per_second": round(steps * self.batch / seconds, 1), "first_step_s": round(first_s, 2)}
        return found if peak is None else {**found, "peak_mib": round(peak / 2**20, 1)}

    def memory(self) -> dict[str, Any]:
        """What is estimated for a float32 step."""
        return {"estimated_mib": round(cost(self.recipe, self.spec).worker_bytes(self.batch) / 2**20, 1)}

    def samples(self) -> dict[str, Any]:
        """Speed of the engine, and what differs from the CPU's images."""
        with products("ieee", self.device):
            there = Engine(self.there, num_slots=self.batch)
            x_NCHW = draw_all(there, Request(4, seed=0)).cpu()
            seconds = timed(self.device, lambda: draw_all(there, Request(self.batch, seed=1)))
        differ = (x_NCHW != draw_all(self.here, Request(4, seed=0))).float().mean()
        return {"images_per_second": round(self.batch / seconds, 2), "differ": round(float(differ), 5)}

    @torch.no_grad()
    def graph(self) -> dict[str, Any]:
        """A row's passes as they are, and replayed as a CUDA graph: milliseconds, and whether the parameters are equal."""
        passes = Passes(self.there)
        canvas = passes.start(self.batch)

        def row() -> torch.Tensor:
            passes.row(canvas)
            return torch.stack([passes.pixel(canvas, c) for c in range(SIDE)], 1)

        with products("ieee", self.device):
            for _ in range(3):
                row()
            state = [tensor.clone() for tensor in canvas.tensors()]
            plain_s = timed(self.device, row)
            put_back(canvas.tensors(), state)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                params = row()
            put_back(canvas.tensors(), state)
            expected = row().clone()
            put_back(canvas.tensors(), state)
            graph_s = timed(self.device, graph.replay)
        return {"plain_ms": round(1e3 * plain_s, 3), "graph_ms": round(1e3 * graph_s, 3), "equal": bool(torch.equal(params, expected))}


def repeat(call: Callable[[], None], times: int) -> None:
    """A call, some times."""
    for _ in range(times):
        call()


def put_back(tensors: Any, values: list[torch.Tensor]) -> None:
    """Tensors as they were."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def timed(device: torch.device, call: Callable[[], object]) -> float:
    """Seconds of a call, until the device is done with it."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else nullcontext
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def parts_of(subject: Subject) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, the most telling first."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "scores": subject.scores,
        "step_ieee": partial(subject.step, "float32", "ieee"),
        "memory": subject.memory,
        "samples": subject.samples,
        "step_bfloat16": partial(subject.step, "bfloat16", "ieee"),
    }
    if subject.device.type == "cuda":
        parts |= {"step_tf32": partial(subject.step, "float32", "tf32"), "graph": subject.graph}
        parts["step_bfloat16_compiled"] = partial(subject.step, "bfloat16", "ieee", compiled=True)
    return parts


def measure(arguments: Arguments) -> dict[str, Any]:
    """All of it, as far as the time reaches."""
    end = time.monotonic() + arguments.seconds
    rows, left_out = list[dict[str, Any]](), list[str]()
    for size in SIZES:
        for name in arguments.only or tuple(ARCHITECTURES):
            row: dict[str, Any] = {"model": name, "size": size}
            if time.monotonic() >= end:
                left_out.append(f"{name} {size}")
                continue
            subject = Subject(name, size, torch.device(arguments.device))
            for part, call in parts_of(subject).items():
                if time.monotonic() >= end:
                    left_out.append(f"{name} {size} {part}")
                    continue
                try:
                    row[part] = call()
                except Exception as error:
                    row[part] = {"error": one_line(error)}
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    return {"rows": rows, "left_out": left_out}


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    is_gpu = arguments.device.startswith("cuda")
    device = torch.cuda.get_device_name(arguments.device) if is_gpu else "cpu"
    write_dated("gpu", {"device": device, "cuda": torch.version.cuda, **measure(arguments)}, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
