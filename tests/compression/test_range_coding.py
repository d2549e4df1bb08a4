"""The coder keeps tables of integers as they are, loses nothing, and ends in as few bytes as it can."""

from __future__ import annotations

import math

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelmodels.compression.range_coding import RangeDecoder, RangeEncoder, Undecodable
from pixelmodels.compression.tables import PRECISION, frequencies
from pixelmodels.errors import UserError


def some_tables(num: int, levels: int, seed: int, sharpness: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(levels, sharpness), size=num)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("table_bits", [24, 20, 12])
def test_the_coder_keeps_the_integers(levels: int, table_bits: int) -> None:
    """Its interval after one symbol is that of the integers: no rounding of its own."""
    tables_BL = frequencies(some_tables(20, levels, seed=levels), table_bits)
    parts_BL = tables_BL.astype(np.int64) + 1
    assert (parts_BL > 0).all() and (parts_BL.sum(1) == 2**PRECISION).all()
    assert (parts_BL % 2 ** (PRECISION - table_bits) == 0).all()
    unit = (2**64 - 1) >> PRECISION
    for table_L, parts_L in zip(tables_BL, parts_BL, strict=True):
        before_L = np.cumsum(parts_L) - parts_L
        for level in range(0, levels, max(1, levels // 20)):
            coder = constriction.stream.queue.RangeEncoder()
            coder.encode(np.array([level], np.int32), constriction.stream.model.Categorical(perfect=False), table_L[None])
            assert coder.pos() == (0, (unit * int(before_L[level]), unit * int(parts_L[level])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_level_costs_much_more_than_its_probability_says(dtype: type) -> None:
    probabilities_BL = some_tables(200, 256, seed=5, sharpness=0.02).astype(dtype)
    shares_BL = (frequencies(probabilities_BL).astype(np.float64) + 1) / 2**PRECISION
    more_nats_BL = np.log(np.maximum(probabilities_BL.astype(np.float64), 1e-300)) - np.log(shares_BL)
    assert more_nats_BL.max() < 1.01 * (256 / 2**PRECISION + 2**-16)


def test_certain_and_impossible_levels_have_a_place() -> None:
    (parts_L,) = frequencies(np.array([[0.0, 1.0, 0.0]])).astype(np.int64) + 1
    assert parts_L.tolist() == [257, 2**PRECISION - 258, 1]  # what is spared for roundings, about 2^-16, is the first one's


def test_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        frequencies(np.array([[0.5, np.nan]]))
    for wrong in ([[0.5, 0.4]], [[0.7, 0.7]], [[2.0, -1.5]]):
        with pytest.raises(ValueError, match="no distribution"):
            frequencies(np.array(wrong))


@settings(max_examples=300, deadline=None)
@given(num=st.integers(0, 40), levels=st.sampled_from([2, 5, 256]), seed=st.integers(0, 2**32), sharpness=st.sampled_from([0.01, 0.1, 10]))
def test_symbols_come_back_and_cost_what_their_tables_say(num: int, levels: int, seed: int, sharpness: float) -> None:
    rng = np.random.default_rng(seed)
    tables = [frequencies(some_tables(7, levels, seed + i, sharpness)) for i in range(num)]
    symbols = [rng.integers(levels, size=7) for _ in range(num)]
    encoder = RangeEncoder()
    encoder.put_uniform(np.array([1, 10, 0]), 11)
    for symbols_M, tables_ML in zip(symbols, tables, strict=True):
        encoder.put(symbols_M, tables_ML)
    data = encoder.finish()
    decoder = RangeDecoder(data)
    assert decoder.take_uniform(3, 11).tolist() == [1, 10, 0]
    for symbols_M, tables_ML in zip(symbols, tables, strict=True):
        assert np.array_equal(decoder.take(tables_ML), symbols_M)
    assert 8 * len(data) <= _bits(symbols, tables) + 3 * math.log2(11) + 33 + 0.006 * (3 + 7 * num)  # at the worst


def test_streams_end_in_few_bits() -> None:
    rng, over_bits = np.random.default_rng(0), []
    for seed in range(200):
        tables, symbols = [frequencies(some_tables(9, 17, seed))], [rng.integers(17, size=9)]
        encoder = RangeEncoder()
        encoder.put(symbols[0], tables[0])
        over_bits.append(8 * len(encoder.finish()) - _bits(symbols, tables))
    assert np.mean(over_bits) < 6 and np.quantile(over_bits, 0.95) < 10


def _bits(symbols: list[np.ndarray], tables: list[np.ndarray]) -> float:
    """What tables say that symbols cost."""
    picked = [tables_ML[np.arange(len(symbols_M)), symbols_M] for symbols_M, tables_ML in zip(symbols, tables, strict=True)]
    return sum(float((PRECISION - np.log2(picked_M.astype(np.float64) + 1)).sum()) for picked_M in picked)


def test_nothing_takes_no_bytes() -> None:
    assert RangeEncoder().finish() == b""
    assert RangeDecoder(b"").take_uniform(0, 5).tolist() == []


def test_bytes_that_no_symbols_have_are_told() -> None:
    table_1L = frequencies(np.array([[0.25] * 4]))
    decoder = RangeDecoder(b"\xff" * 12)
    with pytest.raises(Undecodable):
        for _ in range(20):
            decoder.take(table_1L)
    decoder = RangeDecoder(b"\xff" * 12)
    with pytest.raises(Undecodable):
        decoder.take_uniform(40, 3)
