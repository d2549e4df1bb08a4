"""Compiled passes: of functions that are in their folder at once, else once a process of its own has compiled them."""

from __future__ import annotations

import logging
import time
from functools import partial

from pixelmodels.models import PixelModel
from pixelmodels.sampling.compiled import CannotCompile, NotMade, compiled_or_not
from pixelmodels.sampling.passes import Passes
from pixelmodels.sampling.precompile import Compilation, order_of

logger = logging.getLogger(__name__)
RETRY_S = 300.0  # after which versions that come are compiled again where the process died


class Compiling:
    """What one replica has compiled: one model at a time, and none again that cannot be.

    Passes are made by one thread at a time; others may ask who `waits` meanwhile.
    """

    def __init__(self, num_threads: int):
        self._num_threads = num_threads
        self._current: Compilation | None = None
        self._waiting: dict[str, str] = {}  # versions that wait until it has ended, and what they are told
        self._made: set[str] = set()  # orders that were compiled, until passes have the functions
        self._why_not: dict[str, str] = {}  # by order: why there are no functions
        self._again_at: dict[str, float] = {}  # orders of which that may be otherwise by now, and from when on

    def passes(self, key: str, model: PixelModel, *, speculates: bool, gives_way: bool = True) -> dict[PixelModel, Passes] | str:
        """The passes of each stage of a version, compiled where they can be; what it is told while it waits for these.

        Args: `speculates`, whether rows are guessed; `gives_way`, what compiles them does, to what draws.
        """
        order = order_of(model, self._num_threads, speculates)
        self._take_note()
        if time.monotonic() >= self._again_at.get(order, float("inf")):
            del self._again_at[order], self._why_not[order]
        why = self._why_not.get(order)
        instead = NotMade() if why is None else CannotCompile(why)
        try:
            made = partial(compiled_or_not, num_threads=self._num_threads, speculates=speculates, instead=instead)
            passes = {stage.model: made(stage.model) for stage in model.stages()}
        except NotMade:
            if order not in self._made:
                return self._let_wait(key, order, gives_way)
            self._why_not[order] = "they were compiled, and are not found; start the service again if its code was changed"
            return self.passes(key, model, speculates=speculates)
        self._made.discard(order)
        return passes

    def waits(self, key: str) -> str | None:
        """What a version is told that waits for a compilation which goes on; None of any other one."""
        current, told = self._current, self._waiting.get(key)
        return told if current is not None and current.is_running else None

    def wait(self) -> None:
        """Until nothing is being compiled."""
        if self._current is not None:
            self._current.wait()

    def _let_wait(self, key: str, order: str, gives_way: bool) -> str:
        """Have the functions of a version compiled, from now on or once those are that are being compiled."""
        if self._current is None:
            logger.warning("compiling the passes of %s in another process, which takes a minute or some, once", key)
            self._current = Compilation(order, gives_way=gives_way)
        told = f"{key} is being made ready (its passes are compiled, which takes a minute or some)"
        if self._current.order != order:
            told = f"{key} is made ready after another version, whose passes are being compiled"
        self._waiting[key] = told
        return told

    def _take_note(self) -> None:
        """What became of a compilation that has ended."""
        ended = self._current
        if ended is None or ended.is_running:
            return
        self._current, self._waiting = None, {}
        if why := ended.why_not():
            self._why_not[ended.order] = why
            if ended.has_died:
                self._again_at[ended.order] = time.monotonic() + RETRY_S
        else:
            self._made.add(ended.order)
