"""Whether guessed rows (`speculation`) are faster than pixel passes, measured for a model on this machine, width by width."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from pixelmodels.models import PixelModel
from pixelmodels.sampling.canvas import Canvas
from pixelmodels.sampling.engine import Engine, Request, draw_all, reserve_of, slot_widths
from pixelmodels.sampling.passes import Passes
from pixelmodels.sampling.speculation import num_steps

ROUNDS = 3  # timings of each, in turn, after one that does not count
ENOUGH_S = 5.0  # of counting rounds, and of timings at all widths
MOST_STEPS = 0.5  # rounds a row, of the pixels in it, beyond which nothing is measured: pixel passes cost less than rounds do
HOPELESS = 1.3  # times the seconds of pixel passes, at which wider batches are not tried: their rounds cost more of what a pass costs


class _Counting(Passes):
    num_rounds = 0

    def settle(self, canvas: Canvas, first: int) -> None:
        self.num_rounds += 1
        super().settle(canvas, first)


def rounds_a_row(model: PixelModel, seed: int = 0, *, most: float = math.inf, most_s: float = math.inf) -> float:
    """Rounds that a row of one image takes, the mean over its rows (and stages); infinite beyond `most`, or `most_s` seconds."""
    made: list[_Counting] = []

    def make_passes(of: PixelModel) -> Passes:
        made.append(_Counting(of))
        return made[-1]

    engine = Engine(model, num_slots=1, make_passes=make_passes, speculates=lambda width: True)
    num_rows, started = sum(passes.model.spec.height for passes in made), time.perf_counter()
    engine.submit(Request(seed=seed))
    while not engine.is_idle:
        engine.step_row()
        rounds = sum(passes.num_rounds for passes in made) / num_rows
        if rounds > most or time.perf_counter() - started > most_s:
            return math.inf
    return rounds


def is_worth_measuring(model: PixelModel) -> bool:
    """Whether rows settle in so few rounds, and so soon, that guessing them may be faster than pixel passes are."""
    most = MOST_STEPS * min(num_steps(stage.model) for stage in model.stages())
    return rounds_a_row(model, most=most, most_s=ENOUGH_S) <= most


def guessed_widths(model: PixelModel, num_slots: int, make_passes: Callable[[PixelModel], Passes] = Passes) -> tuple[int, ...]:
    """The widths, of those that an engine of `num_slots` has, at which guessed rows were faster: draws, and takes some seconds for it.

    To be asked of models that are worth measuring. Widths beyond those that there was time for are none of them.
    Args: `make_passes`, which are given out for each engine: the same ones serve all.
    """
    found, until = list[int](), time.perf_counter() + ENOUGH_S
    for width in slot_widths(num_slots, reserve_of(num_slots)):
        ratio = _times_passes(model, width, make_passes, until)
        if ratio < 1:
            found.append(width)
        if ratio > HOPELESS or time.perf_counter() > until:
            break
    return tuple(found)


def _times_passes(model: PixelModel, width: int, make_passes: Callable[[PixelModel], Passes], until: float) -> float:
    """Seconds of a batch whose rows are guessed over those of pixel passes: the median of some rounds in turn, fewer at the time given."""

    def engine(speculates: Callable[[int], bool]) -> Engine:
        return Engine(model, num_slots=width, max_waiting=width, reserve=0, make_passes=make_passes, speculates=speculates)

    def seconds(engine: Engine, seed: int) -> float:
        started = time.perf_counter()
        draw_all(engine, Request(n=width, seed=seed))
        return time.perf_counter() - started

    guesses, passes = engine(lambda width: True), engine(lambda width: False)
    seconds(guesses, 0), seconds(passes, 0)  # what has not drawn yet
    ratios: list[float] = []
    for seed in range(1, 1 + ROUNDS):
        took = {engine: seconds(engine, seed) for engine in ((guesses, passes) if seed % 2 else (passes, guesses))}
        ratios.append(took[guesses] / took[passes])
        if time.perf_counter() > until:
            break
    return median(ratios)
