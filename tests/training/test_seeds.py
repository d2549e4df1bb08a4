"""Any whole number of 64 bits is a seed of a whole run."""

from __future__ import annotations

import pytest

from pixelmodels.errors import UserError
from pixelmodels.storage import Storage
from pixelmodels.training.loop import train
from tests.training.tiny_run import tiny_plan, tiny_recipe


@pytest.mark.parametrize("seed", [2**31, 20261128153000, 2**63 - 1, 2**64 - 1])
def test_a_large_seed_trains_to_the_end(seed: int, storage: Storage) -> None:
    result = train(tiny_plan(storage, tiny_recipe(seed=seed, epochs=1)), say=lambda _: None)
    assert result.epochs == 1 and result.test_bits_per_dim > 0


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_what_is_no_seed_is_told_before_anything_is_trained(seed: int) -> None:
    with pytest.raises(UserError, match=f"seed {seed} is no seed; give a whole number from 0 to 18446744073709551615"):
        tiny_recipe(seed=seed)
