"""Whether guessed rows (`speculation`) are faster than pixel passes, measured for a model on this machine, width by width."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from pixelmodels.models import PixelModel
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.engine import Engine, Request, draw_all, slot_widths
from pixelmodels.sampling.passes import Passes
from pixelmodels.sampling.speculation import num_steps

ROUNDS = 3  # timings of each, in turn, after one that does not count
ENOUGH_S = 5.0  # of timings at one width
MOST_STEPS = 0.5  # rounds a row, of the pixels in it, beyond which nothing is measured: pixel passes cost less than rounds do
HOPELESS = 1.3  # times the seconds of pixel passes, at which wider batches are not tried: their rounds cost more of what a pass costs


class _Counting(Passes):
    num_rounds = 0

    def settle(self, canvas: Canvas, first: int) -> None:
        self.num_rounds += 1
        super().settle(canvas, first)


def rounds_a_row(model: PixelModel, seed: int = 0) -> float:
    """Rounds that a row of one image takes, the mean over its rows (and stages)."""
    made: list[_Counting] = []

    def make_passes(of: PixelModel) -> Passes:
        made.append(_Counting(of))
        return made[-1]

    draw_all(Engine(model, num_slots=1, make_passes=make_passes, speculates=lambda width: True), Request(seed=seed))
    return sum(passes.num_rounds for passes in made) / sum(passes.model.spec.height for passes in made)


def is_worth_measuring(model: PixelModel) -> bool:
    """Whether rows settle in so few rounds that guessing them may be faster than pixel passes are."""
    return rounds_a_row(model) <= MOST_STEPS * min(num_steps(stage.model) for stage in model.stages())


def guessed_widths(model: PixelModel, num_slots: int, make_passes: Callable[[PixelModel], Passes] = Passes) -> tuple[int, ...]:
    """The widths, of those that an engine of `num_slots` has, at which guessed rows were faster: draws, and takes its time for it.

    Args: `make_passes`, which are given out for each engine: the same ones serve all.
    """
    if not is_worth_measuring(model):
        return ()
    found: list[int] = []
    for width in slot_widths(num_slots, 0):
        ratio = _times_passes(model, width, make_passes)
        if ratio < 1:
            found.append(width)
        elif ratio > HOPELESS:
            break
    return tuple(found)


def _times_passes(model: PixelModel, width: int, make_passes: Callable[[PixelModel], Passes]) -> float:
    """Seconds of a batch whose rows are guessed over those of pixel passes: the median of some rounds in turn."""

    def seconds(engine: Engine, seed: int) -> float:
        started = time.perf_counter()
        draw_all(engine, Request(n=width, seed=seed))
        return time.perf_counter() - started

    options = {"num_slots": width, "max_waiting": width, "reserve": 0, "make_passes": make_passes}
    guesses = Engine(model, speculates=lambda width: True, **options)  # type: ignore[arg-type]
    passes = Engine(model, **options)  # type: ignore[arg-type]
    started = time.perf_counter()
    ratios: list[float] = []
    for seed in range(1 + ROUNDS):
        ratios.append(seconds(guesses, seed) / seconds(passes, seed))
        if time.perf_counter() - started > ENOUGH_S:
            break
    return median(ratios[1:] or ratios)
