"""The raster engine alone: what `benchmarks/serving.py` measures the service against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pixelmodels import rayctx
from pixelmodels.models.files import load_model
from pixelmodels.sampling.engine import Engine, Request

NUM_SLOTS = 64
NUM_SINGLES = 8  # images drawn alone; the first two warm up


def measure_engine(folder: Path, seconds: float) -> dict[str, float]:
    """Images a second with all slots taken, seconds of an image in that batch, and median seconds of one alone."""
    torch.set_num_threads(rayctx.num_cores())
    model = load_model(folder)
    engine, height = Engine(model, num_slots=NUM_SLOTS, max_waiting=1 << 30), model.spec.height
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


def engine_alone(folder: Path, seconds: float) -> dict[str, float]:
    """The same in a process of its own; raises `CalledProcessError` where that fails."""
    command = [sys.executable, "-m", "benchmarks.serving", "--engine", str(folder), "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(rayctx.num_cores())}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
