"""Range coding of symbols by tables of integers: `constriction`'s coder, and its words as few bytes."""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from pixelmodels.compression.tables import Float32

Int32 = npt.NDArray[np.int32]

WORD_BYTES = 4
_STATE_BITS = 64  # of the coder's interval
# Given integers that sum to 2^24 less their number it scales by exactly 1, and adds 1 to each: no rounding of its own is left. Of arrays
# that are not contiguous it would read other numbers.
_BY_TABLE: Any = constriction.stream.model.Categorical(perfect=False)


class Undecodable(Exception):
    """Bytes that no symbols are coded by under these tables: they are damaged, or the tables are others."""


class RangeEncoder:
    """Symbols to bytes."""

    def __init__(self) -> None:
        self._coder: Any = constriction.stream.queue.RangeEncoder()

    def put(self, symbols_M: npt.NDArray[Any], frequencies_ML: Float32) -> None:
        """Add symbols, each by a table of its own (see `tables.frequencies`)."""
        self._coder.encode(symbols_M.astype(np.int32), _BY_TABLE, np.ascontiguousarray(frequencies_ML))

    def put_uniform(self, symbols_M: npt.NDArray[Any], num: int) -> None:
        """Add symbols in [0, num), all of which are equally likely."""
        if symbols_M.size and num > 1:
            self._coder.encode(symbols_M.astype(np.int32), constriction.stream.model.Uniform(num))

    def finish(self) -> bytes:
        """The shortest bytes that the symbols can be decoded from: behind them a decoder reads zeros."""
        words: npt.NDArray[np.uint32] = self._coder.get_compressed()
        num_before, (lower, width) = self._coder.pos()
        if num_before < len(words):  # any point of the interval will do: the roundest one, if no carry into the words before is involved
            point = lower + 2 ** (_STATE_BITS - 32) - 1  # whose upper word the coder takes
            for bits in (56, 48, 40):
                rounder = -(-lower >> bits) << bits
                if max(point, rounder) < 2**_STATE_BITS and rounder - lower < width:
                    words = np.append(words[:num_before], np.uint32(rounder >> 32))
                    break
        return words.astype(">u4").tobytes().rstrip(b"\0")


class RangeDecoder:
    """Bytes to symbols, by the same tables in the same order."""

    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % WORD_BYTES + 2 * WORD_BYTES)
        self._coder: Any = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def take(self, frequencies_ML: Float32) -> Int32:
        """The next symbols, one for each table; raises `Undecodable`."""
        try:
            symbols_M: Int32 = self._coder.decode(_BY_TABLE, np.ascontiguousarray(frequencies_ML))
        except AssertionError as error:
            raise Undecodable(str(error)) from error
        return symbols_M

    def take_uniform(self, count: int, num: int) -> Int32:
        """The next `count` symbols of those in [0, num) that are equally likely; raises `Undecodable`."""
        if not count or num == 1:
            return np.zeros(count, np.int32)
        try:
            symbols_M: Int32 = self._coder.decode(constriction.stream.model.Uniform(num), count)
        except AssertionError as error:
            raise Undecodable(str(error)) from error
        return symbols_M
