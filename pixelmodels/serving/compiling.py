"""Engines with compiled passes: of functions that are in their folder at once, else once a process of its own has compiled them."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from pixelmodels.models import PixelModel
from pixelmodels.sampling.compiled import CannotCompile, NotMade, compiled_or_not
from pixelmodels.sampling.engine import Engine
from pixelmodels.sampling.precompile import Compilation, order_of

logger = logging.getLogger(__name__)


class Compiling:
    """What one replica has compiled: one model at a time, and none again that could not be.

    Engines are made by one thread at a time; others may ask who `waits` meanwhile.
    """

    def __init__(self, num_threads: int):
        self._num_threads = num_threads
        self._current: Compilation | None = None
        self._waiting: dict[str, str] = {}  # versions that wait until it has ended, and what they are told
        self._made: set[str] = set()  # orders that were compiled, until an engine has the functions
        self._why_not: dict[str, str] = {}  # by order: why there are no functions

    def engine(self, key: str, model: PixelModel, *, gives_way: bool = True, **options: Any) -> Engine | str:
        """An engine of a version, by compiled passes where there can be any; what it is told while it waits for these.

        Args: `gives_way`, what compiles them does, to what draws; `options` of the engine.
        """
        order = order_of(model, self._num_threads)
        self._take_note()
        why = self._why_not.get(order)
        instead = NotMade() if why is None else CannotCompile(why)
        try:
            engine = Engine(model, make_passes=partial(compiled_or_not, num_threads=self._num_threads, instead=instead), **options)
        except NotMade:
            if order not in self._made:
                return self._let_wait(key, order, gives_way)
            self._why_not[order] = "they were compiled, and are not found; start the service again if its code was changed"
            return self.engine(key, model, **options)
        self._made.discard(order)
        return engine

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
        self._made.add(ended.order)
        if why := ended.why_not():
            self._why_not[ended.order] = why
