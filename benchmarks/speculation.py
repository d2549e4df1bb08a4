"""What guessed rows save: rounds a row, and how fast images are drawn by each path at each width, and by the one that is chosen.

    python pipelines/prepare_data.py --path digits.npz --binarize threshold --name binary_digits   # 28x28 or larger
    python pipelines/train_all.py --recipe-file recipe.yaml --dataset binary_digits
    python -m benchmarks.speculation --models models:/binary_digits/1 --datasets binary_digits

The models (folders of runs or checkpoints, or registered ones) are trained; the first one is timed, with compiled passes, of the others
(on the same images at other numbers of levels, say) only rounds are counted. Bits/dim are those of the first 256 test images. For each
width: pixel passes, guessed rows and a forward pass take turns, `--rounds` times, on seeds that the calibration has not seen. Float32,
torch's own number of threads. The last thing printed is one JSON object; it is also written to `benchmarks/results/` with the date.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.dated import RESULTS, write_dated
from pixelmodels.commandline import parse
from pixelmodels.data import find_dataset
from pixelmodels.errors import UserError, exit_with
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.models import PixelModel, describe
from pixelmodels.runs.loading import find_model, locate
from pixelmodels.sampling import Engine, Request, draw_all
from pixelmodels.sampling.calibration import guessed_widths, rounds_a_row
from pixelmodels.sampling.compiled import CompiledPasses
from pixelmodels.storage import DEFAULT_STORAGE, Storage

NUM_IMAGES = 256  # whose bits/dim are told
FRESH = 1_000_000  # first seed that the calibration has not drawn


@dataclass(frozen=True)
class Arguments:
    """Measure what guessed rows save."""

    models: tuple[str, ...]  # folders of runs or checkpoints, or models:/name/version; the first one is timed
    datasets: tuple[str, ...] = ()  # of each model, whose test images tell its bits/dim
    storage: str = DEFAULT_STORAGE  # storage root of data set and registry
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # images of a batch
    slots: int = 64  # of the engine that the widths are chosen for
    rounds: int = 5  # timings of each
    images: int = 20  # whose rounds are counted
    out: Path = RESULTS  # folder for the JSON

    def __post_init__(self) -> None:
        if not self.models or len(self.models) != len(self.datasets):
            raise UserError(f"{len(self.models)} --models and {len(self.datasets)} --datasets given; give a data set for each model")


def bits_of(model: PixelModel, name: str, storage: Storage) -> dict[str, Any]:
    """Bits/dim of test images of a data set."""
    dataset = find_dataset(storage, name)
    if dataset.spec != model.spec:
        raise UserError(f"data set '{name}' has {dataset.spec}, its model {model.spec}; give the data set that it was trained on")
    x_NCHW = torch.from_numpy(dataset.read("test").images_NCHW[:NUM_IMAGES])
    with torch.inference_mode():
        nats = -torch.cat([model.log_prob(part) for part in x_NCHW.split(16)]).double()
    return {"dataset": dataset.name, "test_bits_per_dim": round(float(bits_per_dim(nats.mean().item(), model.spec.num_subpixels)), 4)}


def rounds_of(model: PixelModel, arguments: Arguments) -> dict[str, Any]:
    """Rounds that a row takes, over some images."""
    means = [rounds_a_row(model, seed) for seed in range(arguments.images)]
    return {"levels": model.spec.levels, "rounds_a_row": round(sum(means) / len(means), 2), "most_of_an_image": round(max(means), 2)}


def forward(model: PixelModel, x_BCHW: torch.Tensor, seed: int) -> None:
    """A forward pass, whatever the seed."""
    with torch.inference_mode():
        model(x_BCHW)


def drawn(engine: Engine, width: int, seed: int) -> None:
    """A batch of images."""
    draw_all(engine, Request(n=width, seed=seed))


def timed(model: PixelModel, arguments: Arguments) -> tuple[list[int], list[dict[str, Any]]]:
    """Widths that the calibration chose, and the seconds of each path at each width."""
    make_passes = cache(lambda of: CompiledPasses(of, speculates=True))
    chosen = guessed_widths(model, arguments.slots, make_passes)
    rows = []
    for width in arguments.widths:
        options: dict[str, Any] = {"num_slots": width, "max_waiting": width, "reserve": 0, "make_passes": make_passes}
        guesses, passes = Engine(model, speculates=lambda width: True, **options), Engine(model, **options)
        x_BCHW = torch.randint(model.spec.levels, (width, *model.spec.shape), dtype=torch.uint8)

        calls: dict[str, Callable[[int], object]] = {
            "forward": partial(forward, model, x_BCHW),
            "passes": partial(drawn, passes, width),
            "guesses": partial(drawn, guesses, width),
        }
        draws = max(1, 32 // width)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(1 + arguments.rounds):  # the first one does not count
            for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
                started = time.perf_counter()
                for draw in range(draws):
                    calls[name](FRESH + number * draws + draw)
                seconds[name].append((time.perf_counter() - started) / draws)
        best, middle = ({name: pick(found[1:]) for name, found in seconds.items()} for pick in (min, median))
        mine, other = ("guesses", "passes") if width in chosen else ("passes", "guesses")
        row: dict[str, Any] = {"width": width, "chosen": mine}
        for name in calls:
            row[name] = {"best_s": round(best[name], 5), "median_s": round(middle[name], 5)}
            if name != "forward":
                row[name]["forward_passes"] = round(middle[name] / middle["forward"], 2)
                row[name]["forward_passes_best"] = round(best[name] / best["forward"], 2)
        row["chosen_over_better"] = round(max(1.0, middle[mine] / middle[other]), 3)
        rows.append(row)
        print(row, file=sys.stderr)
    return list(chosen), rows


def main() -> int:
    """Measure, print and write."""
    arguments = parse(Arguments)
    storage = Storage(arguments.storage)
    models = [find_model(locate(one, storage), storage).eval() for one in arguments.models]
    counted = [
        {**bits_of(model, name, storage), **rounds_of(model, arguments), "model": describe(model)}
        for model, name in zip(models, arguments.datasets, strict=True)
    ]
    chosen, rows = timed(models[0], arguments)
    write_dated("speculation", {"models": counted, "chosen_widths": chosen, "rows": rows}, arguments.out)
    return 0


if __name__ == "__main__":
    exit_with(main)
