"""The raster engine alone: what `benchmarks/serving.py` measures the service against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pixelmodels import ray_cluster
from pixelmodels.models import PixelModel
from pixelmodels.models.files import load_model
from pixelmodels.sampling.engine import Engine, Request
from pixelmodels.sampling.passes import Passes

NUM_SLOTS = 64
NUM_SINGLES = 8  # images drawn alone; the first two warm up


def passes_of(compiled: bool, num_threads: int) -> Callable[[PixelModel], Passes]:
    """What makes the passes of an engine."""
    if not compiled:
        return Passes
    from pixelmodels.sampling.compiled import compiled_or_not

    return partial(compiled_or_not, num_threads=num_threads)


def measure_engine(folder: Path, seconds: float, num_threads: int, compiled: bool) -> dict[str, float]:
    """Images a second with all slots taken, seconds of an image in that batch, and median seconds of one alone."""
    torch.set_num_threads(num_threads)
    model = load_model(folder)
    engine = Engine(model, num_slots=NUM_SLOTS, max_waiting=1 << 30, make_passes=passes_of(compiled, num_threads))
    height = model.spec.height
    singles = []
    for seed in range(NUM_SINGLES):
        began = time.perf_counter()
        engine.submit(Request(seed=seed))
        while not engine.is_idle:
            engine.step_row()
        singles.append(time.perf_counter() - began)
    for seed in range(NUM_SLOTS):  # as many requests as slots: one alone would leave some of them free
        engine.submit(Request(n=1 << 14, seed=seed))
    for _ in range(2 * height):  # until images are at all rows, as they are under load
        engine.step_row()
    began, num_rows = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        num_rows += len(engine.step_row())
    spent_s = time.perf_counter() - began
    images_per_s = num_rows / height / spent_s
    return {"images_per_s": images_per_s, "full_batch_image_s": NUM_SLOTS / images_per_s, "single_s": float(np.median(singles[2:]))}


def engine_alone(folder: Path, seconds: float, compiled: bool) -> dict[str, float]:
    """The same in a process of its own, on all cores; raises `CalledProcessError` where that fails."""
    (found,) = _in_processes(folder, seconds, compiled, 1, ray_cluster.num_cores())
    return found


def engine_on_each_core(folder: Path, seconds: float, compiled: bool) -> float:
    """Images a second of as many engines as there are cores, each in a process of its own with one thread."""
    return sum(found["images_per_s"] for found in _in_processes(folder, seconds, compiled, ray_cluster.num_cores(), 1))


def _in_processes(folder: Path, seconds: float, compiled: bool, num_processes: int, num_threads: int) -> list[dict[str, float]]:
    """What so many engines find that are measured at the same time."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving",
        "--engine",
        str(folder),
        "--seconds",
        str(seconds),
        "--threads",
        str(num_threads),
        *(["--compiled"] if compiled else []),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    root = Path(__file__).resolve().parent.parent
    begun = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root) for _ in range(num_processes)]
    printed = [process.communicate()[0] for process in begun]
    for process in begun:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [json.loads(text.splitlines()[-1]) for text in printed]
