"""Whether every published recipe works here: it builds, trains a step or two at batch 1, and draws four rows of an image.

    python benchmarks/published.py                       # all of them; an hour or so on 2 cores
    python benchmarks/published.py --only cifar10/pixelcnn mnist_fixed/pixelcnn

Images are random: likelihoods mean nothing. A second step is left out where the first took more than half a minute. Steps are
in float32 unless --precision says otherwise (CPUs without units for bfloat16 take many times as long). Parameters must be those
of the published model where these are known. Each recipe has a process of its own, whose largest memory is noted. The last
thing printed is one JSON object; it is also written to `benchmarks/results/`, with the date (and a precision other than float32) in
its name. With --only it goes into the day's file. A file of another torch or machine is never written over. Status 1 where anything failed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pixelmodels.commandline import parse
from pixelmodels.errors import UserError, exit_with, unknown
from pixelmodels.models import Context, build
from pixelmodels.recipes.papers import Published, PublishedData
from pixelmodels.recipes.recipe import Precision
from pixelmodels.recipes.suites import PUBLISHED, published
from pixelmodels.sampling import sample
from pixelmodels.training.averaging import Average
from pixelmodels.training.optimization import autocast, checkpoint_activations, make_optimizer

RESULTS = Path(__file__).parent / "results"
NUM_ROWS = 4
LONG_S = 30.0  # a first step that took longer is the only one


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Check the published recipes."""

    only: tuple[str, ...] = ()  # suite/recipe, such as cifar10/pixelcnn_pp; all unless given
    precision: Precision = "float32"  # of the steps
    timeout_s: float = 3600.0  # seconds that one recipe may take
    out: Path = RESULTS  # folder for the JSON
    here: str | None = None  # internal: check one recipe in this process and print what was found


def entries() -> dict[str, tuple[PublishedData, Published]]:
    """Every published recipe, as suite/recipe."""
    suites = {name: found for name in PUBLISHED if (found := published(name)) is not None}
    return {f"{name}/{entry.recipe.name}": (found.data, entry) for name, found in suites.items() for entry in found.entries}


def check(data: PublishedData, entry: Published, precision: Precision) -> dict[str, Any]:
    """Build, train, draw; what was found, with seconds of each."""
    recipe = entry.recipe
    torch.manual_seed(recipe.seed)
    started = time.monotonic()
    model = build(recipe.model, data.image, recipe.likelihood, data.context(recipe))
    average = Average(model, recipe.optimizer.average_decay)
    optimizer = make_optimizer(model, recipe.optimizer)
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    found: dict[str, Any] = {"parameters": model.num_parameters, "published_parameters": entry.parameters}
    found["build_s"] = round(time.monotonic() - started, 2)
    context = Context(label_B=torch.zeros(1, dtype=torch.long)) if "label" in recipe.condition_on else None
    total_steps = recipe.epochs * data.num_training(recipe) // recipe.batch_size
    seconds: list[float] = []
    bits: list[float] = []
    while len(seconds) < (1 if seconds and seconds[0] > LONG_S else 2):
        started = time.monotonic()
        x_BCHW = torch.randint(data.image.levels, (1, *data.image.shape))
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.learning_rate_at(len(seconds), total_steps)
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), precision):
            nll_nats = -model.log_prob_map(x_BCHW, context).sum()
        (nll_nats / data.image.num_subpixels).backward()
        optimizer.step()
        average.update(model, len(seconds))
        seconds.append(round(time.monotonic() - started, 2))
        bits.append(round(float(nll_nats.detach()) / data.image.num_subpixels / math.log(2), 4))
    started = time.monotonic()
    few_rows = dataclasses.replace(data.image, height=NUM_ROWS)
    short = build(recipe.model, few_rows, recipe.likelihood, data.context(recipe))
    short.load_state_dict(average.model.state_dict())
    drawn_BCHW = sample(short.eval(), 1, seed=0, context=context).long()
    found |= {"step_s": seconds, "bits_per_dim": bits, "four_rows_s": round(time.monotonic() - started, 2)}
    found["peak_memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2)
    in_range = bool(((drawn_BCHW >= 0) & (drawn_BCHW < data.image.levels)).all())
    is_as_published = entry.parameters is None or entry.parameters == model.num_parameters
    found["ok"] = in_range and is_as_published and all(map(math.isfinite, bits)) and drawn_BCHW.shape == (1, *few_rows.shape)
    return found


def check_apart(name: str, arguments: Arguments) -> dict[str, Any]:
    """`check` in a process of its own."""
    command = [sys.executable, __file__, "--here", name, "--precision", arguments.precision]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout_s)
    except subprocess.TimeoutExpired:
        return {"ok": False, "reason": f"took more than {arguments.timeout_s:g} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        return {"ok": False, "reason": reason}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def recorded(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The recipes of a file, if there is one; raises `UserError` where it is of something else than this record."""
    if not path.exists():
        return {}
    before: dict[str, Any] = json.loads(path.read_text())
    if differ := [f"{name} {before.get(name)}, here {value}" for name, value in record.items() if before.get(name) != value]:
        raise UserError(f"'{path}' is of {'; '.join(differ)}, and is not written over; move it away, or give another --out")
    recipes: dict[str, Any] = before["recipes"]
    return recipes


def main(argv: list[str] | None = None) -> int:
    """Check all recipes that are asked for; status 1 where one failed."""
    arguments, known = parse(Arguments, argv), entries()
    for name in (*arguments.only, *([arguments.here] if arguments.here else [])):
        if name not in known:
            raise unknown("published recipe", name, known)
    if arguments.here is not None:
        print(json.dumps(check(*known[arguments.here], arguments.precision)))
        return 0
    if arguments.timeout_s <= 0:
        raise UserError(f"--timeout-s {arguments.timeout_s:g} is too short; give more than 0")
    date = datetime.date.today().isoformat()
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    record: dict[str, Any] = {"date": date, "precision": arguments.precision, **machine}
    path = arguments.out / f"published-{date}{'' if arguments.precision == 'float32' else f'-{arguments.precision}'}.json"
    recorded(path, record)
    found: dict[str, Any] = {}
    for name in arguments.only or known:
        found[name] = check_apart(name, arguments)
        print(f"{name}: {found[name]}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    record["recipes"] = recorded(path, record) | found if arguments.only else found  # with the rest of the day's
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
    return 0 if all(one["ok"] for one in found.values()) else 1


if __name__ == "__main__":
    exit_with(main)
