"""Tables of integers for a range coder, made of exact tables of probabilities; every level has a place in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pixelmodels.errors import UserError

Float32 = npt.NDArray[np.float32]

PRECISION = 24  # bits of the coder's own tables: their frequencies sum to 2^24
_SPARE = 2.0**-16  # share that is not given out, so that probabilities may sum to a little more than 1, as they are rounded
MIN_TABLE_BITS = 12  # a table of 256 levels then still has 15 of 16 parts for its probabilities


def frequencies(probabilities_BL: npt.NDArray[Any], table_bits: int = PRECISION) -> Float32:
    """Integers as the coder takes them, B L: it adds 1 to each, and the sums are then 2^24 exactly.

    A level of probability p gets at least p (2^bits - L) (1 - 2^-16) of 2^bits parts, so about L / 2^bits + 2^-16 nats more than -log p
    at most; the first one takes what is left over. Products are rounded as IEEE 754 has it, and sums are of integers of at most 24 bits,
    which are exact in any order: the same probabilities give the same integers everywhere.

    Args: `table_bits`, of which the parts are multiples; fewer make a table that another rounding of its probabilities changes more rarely.
    Raises `UserError` for probabilities that are not finite, and `ValueError` for such that are no distribution.
    """
    num_levels = probabilities_BL.shape[1]
    parts = 2**table_bits - num_levels
    taken_BL = np.floor(probabilities_BL * probabilities_BL.dtype.type(parts * (1 - _SPARE)))
    left_B = parts - taken_BL.sum(1)
    if not np.isfinite(left_B).all():
        raise UserError("the network gave parameters that are not finite: its weights, or what it is conditioned on, are broken")
    if (left_B < 0).any() or (left_B > num_levels + parts * 2 * _SPARE).any() or (taken_BL < 0).any():
        raise ValueError(f"probabilities that sum to {float(probabilities_BL.sum(1).max())} are no distribution")
    taken_BL[:, 0] += left_B
    if table_bits != PRECISION:
        taken_BL = (taken_BL + 1) * 2 ** (PRECISION - table_bits) - 1
    return taken_BL.astype(np.float32, copy=False)
