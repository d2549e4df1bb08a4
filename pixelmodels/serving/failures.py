"""Which failures of an engine end its requests only, and which ones end the replica: a broken device does not heal."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

from pixelmodels.errors import device_failed
from pixelmodels.sampling.engine import Engine

logger = logging.getLogger(__name__)
MOST = 2  # failures of an engine one after the other, with nothing between them that went well


class Failures:
    """Counts the failures of engines; of the engine's thread only."""

    def __init__(self) -> None:
        self._in_a_row: WeakKeyDictionary[Engine, int] = WeakKeyDictionary()

    def judge(self, engine: Engine, error: Exception | None) -> None:
        """An engine did what it was to do (None), or raised this; raises it again where the replica is of no more use."""
        if error is None:
            self._in_a_row.pop(engine, None)
            return
        logger.error("an engine failed", exc_info=error)
        self._in_a_row[engine] = self._in_a_row.get(engine, 0) + 1
        if self._in_a_row[engine] >= MOST or device_failed(error):
            raise error
