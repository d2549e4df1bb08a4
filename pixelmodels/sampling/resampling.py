"""Pixels of a finished image that are drawn again, a square at a time: sweeps over a hole by orders drawn at random, and dreams.

Each time the pixels of a square that are not known are drawn from p_o(square | all other pixels before it in order o), exactly. The other
pixels stay. Those that come later are not taken into account, and another order takes others. So the squares' conditionals need not
be those of one distribution over images, and what comes of many of them is an approximation: a pseudo-Gibbs sampler, as that of
dependency networks (Heckerman et al., Journal of Machine Learning Research 1, 2000, section 3.2), in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pixelmodels.errors import UserError

MOST_REDRAWS = 100_000  # of one image
MOST_OF_SWEEP = 9  # squares of one sweep: three along each side of the hole at most
_NOISE, _PLAN = 1, 2  # streams beside those of the image's noise, whose key is (index,), and of its order, whose key is (index, 0)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Dream:
    """An image that is drawn again in squares, for ever if it were let: what remains is what the model takes to be likely."""

    num_steps: int  # squares, one after the other
    side: int  # of each, pixels; cut off at the edges of the image

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= MOST_REDRAWS:
            raise UserError(f"{self.num_steps} steps of a dream asked for; give 1..{MOST_REDRAWS}")
        if self.side < 1:
            raise UserError(f"a dream in squares of {self.side} pixels asked for; give 1 or more")


@dataclass(frozen=True)
class Redraw:
    """A square of an image, and by which order what is not known of it is drawn again."""

    top: int  # first row
    left: int  # first column
    side: int  # rows and columns; beyond the image's edges is nothing
    order: int

    def region(self, free_HW: Mask) -> Mask:
        """Which pixels are drawn again. Args: `free_HW`, those that may be."""
        region_HW = np.zeros_like(free_HW)
        inside = np.s_[max(0, self.top) : max(0, self.top + self.side), max(0, self.left) : max(0, self.left + self.side)]
        region_HW[inside] = free_HW[inside]
        return region_HW


def sweeps_over(free_HW: Mask, num_sweeps: int, num_orders: int, seed: int, index: int) -> list[Redraw]:
    """The squares of some sweeps over the pixels that are not known of image `index` of a seed: a function of the arguments alone.

    Each sweep cuts the hole by a grid of squares half as large as it is, whose place is drawn anew, and draws every square again,
    in a random order, each by an order of the pixels that is drawn for it. A sweep has `MOST_OF_SWEEP` squares at most.
    """
    rows, columns = np.flatnonzero(free_HW.any(1)), np.flatnonzero(free_HW.any(0))
    if not len(rows):
        return []
    side = (max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 2) // 2  # half the longer side of the hole, rounded up
    found: list[Redraw] = []
    for sweep in range(num_sweeps):
        rng = _generator(seed, index, _PLAN, sweep)
        top, left = (int(first) - int(rng.integers(side)) for first in (rows[0], columns[0]))
        squares = [(r, c) for r in range(top, int(rows[-1]) + 1, side) for c in range(left, int(columns[-1]) + 1, side)]
        for at in rng.permutation(len(squares)):
            redraw = Redraw(squares[at][0], squares[at][1], side, int(rng.integers(num_orders)))
            if redraw.region(free_HW).any():
                found.append(redraw)
    return found


def dream_of(free_HW: Mask, dream: Dream, num_orders: int, order: int | None, seed: int, index: int) -> list[Redraw]:
    """The squares of a dream of image `index` of a seed: each around a pixel drawn from those that are not known, by an order drawn too.

    Args: `order`, the only one, where one is asked for.
    """
    places_N2 = np.argwhere(free_HW)
    if not len(places_N2):
        return []
    rng = _generator(seed, index, _PLAN)
    found: list[Redraw] = []
    for _ in range(dream.num_steps):
        row, column = (int(at) for at in places_N2[rng.integers(len(places_N2))])
        drawn = int(rng.integers(num_orders))
        found.append(Redraw(row - dream.side // 2, column - dream.side // 2, dream.side, drawn if order is None else order))
    return found


def redraw_noise(shape_HWU: tuple[int, int, int], seed: int, index: int, number: int) -> npt.NDArray[np.float64]:
    """Uniforms in [0, 1) for the redraw of this number (from 0) of one image of a seed; H W U."""
    return _generator(seed, index, _NOISE, number).random(shape_HWU)


def _generator(seed: int, index: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(index, *key))))
