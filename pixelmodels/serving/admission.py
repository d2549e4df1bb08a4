"""Who is let in: a bound on the images that wait, and no promise that the measured speed cannot keep."""

from __future__ import annotations

from collections.abc import Iterable

from pixelmodels.serving.refusals import overloaded

SCORING_SHARE = 0.2  # of the time, at most, that scoring takes while images are drawn
# The measured speed may halve once a request is let in: by scoring, and as a flood of requests to receive and refuse takes cores from the
# engine. Fewer images wait than could be drawn in time, which costs no throughput.
MARGIN = 2.0  # a finish that is estimated may take this much longer
SLACK_S = 0.25  # and this much
SMOOTHING = 0.05  # weight of the newest step in the measured speed
BUSY = 0.75  # share of the slots that must be taken for a step to tell the speed


class Speed:
    """Images a second that one engine draws when its slots are taken, measured step by step; 0 until it is known.

    With slots to spare it draws fewer: such a step tells nothing, unless it is faster than what was thought.
    """

    def __init__(self) -> None:
        self.images_per_s = 0.0
        self._num_steps = 0

    def step(self, images: float, seconds: float, *, is_full: bool = True) -> None:
        """A step, and what came between it and the one before, drew this many images' worth of rows."""
        if seconds > 0 and (is_full or 0 < self.images_per_s < images / seconds):
            self._num_steps += 1
            weight = max(SMOOTHING, 1 / self._num_steps)
            self.images_per_s += weight * (images / seconds - self.images_per_s)


def check_room(n: int, num_unfinished: int, bound: int, speed: float) -> None:
    """Raise `Refused` (429) for `n` images more than may be unfinished.

    Args: `num_unfinished`, images drawn, scored or waiting; `bound`, most of them; `speed`, images a second, 0 where it is not known.
    """
    excess = num_unfinished + n - bound
    if excess > 0:
        raise overloaded(f"{num_unfinished} images are unfinished, {bound} at most may be", excess / speed if speed else 1.0)


def check_time(
    n: int, timeout_s: float, waiting: Iterable[tuple[int, float]], num_unfinished: int, num_others: int, slots: int, speed: float
) -> bool:
    """Raise `Refused` (429) for a request of `n` images that cannot be drawn in time, or that would make others late.

    Args: `waiting`, of each request with images that have no slot: how many, and the seconds left to it (infinite where it was
    promised nothing); `num_unfinished`, images drawn, scored or waiting; `num_others`, how many of them take none of these slots;
    `speed`, images a second, 0 where it is not known.

    Where all slots are free any request is let in, as the speed was measured at another time, and so is any one where
    the speed is not known: returns False for one that is expected to be late, or may well be, to which nothing is promised.

    Slots go round in turns, so a request with w waiting images is done once every other one has had up to w more turns. Later requests
    go through this check too, so they cannot take that from it.
    """
    fits = num_unfinished - num_others + n <= slots
    if not speed or fits:
        return fits
    groups: dict[int, tuple[int, float]] = {}  # of the others, by waiting images: how many requests, and the least time left
    for num_waiting, left_s in waiting:
        count, least_s = groups.get(num_waiting, (0, left_s))
        groups[num_waiting] = (count + 1, min(left_s, least_s))

    def needs_s(num_waiting: int, extra: int) -> float:
        turns = sum(min(other, num_waiting) * count for other, (count, _) in groups.items())
        return (slots + turns + extra) / speed

    own_s = needs_s(n, n) * MARGIN + SLACK_S
    if num_unfinished == num_others:
        return own_s <= timeout_s
    if own_s > timeout_s:
        raise overloaded(f"{num_unfinished} images are unfinished; this request would take about {own_s:.0f} s", own_s - timeout_s)
    for num_waiting, (_, left_s) in groups.items():
        # one that would be late at twice the speed is no reason to refuse others
        if needs_s(num_waiting, 0) / MARGIN <= left_s < needs_s(num_waiting, min(n, num_waiting)) * MARGIN + SLACK_S:
            raise overloaded(f"{num_unfinished} images are unfinished, and one more request would make others late", 1.0)
    return True
