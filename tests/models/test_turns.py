"""The eight turns of an image's grid, and which of them fits what is known of an image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.models.orders import turned, turned_back
from pixelmodels.models.turns import (
    ORDERS,
    best_order,
    check_num_orders,
    check_order,
    known_too_late,
    places,
    row_in_image,
    turned_arrays,
    turned_arrays_back,
)
from pixelmodels.shapes import ImageSpec

BY_HAND = [  # each turned image of 1 2 / 3 4, row by row: the order in which its pixels are drawn
    [1, 2, 3, 4],
    [4, 3, 2, 1],
    [2, 1, 4, 3],
    [3, 4, 1, 2],
    [1, 3, 2, 4],
    [4, 2, 3, 1],
    [2, 4, 1, 3],
    [3, 1, 4, 2],
]


def test_each_order_is_what_its_words_say() -> None:
    x_NCHW = np.array([[[[1, 2], [3, 4]]]] * 8)
    assert turned_arrays(x_NCHW, np.arange(8)).reshape(8, 4).tolist() == BY_HAND
    where = {"rows from the top": (1, 2), "rows from the bottom": (3, 4), "columns from the left": (1, 3), "columns from the right": (2, 4)}
    for words, drawn in zip(ORDERS, BY_HAND, strict=True):
        lines, each = words.split(", each from the ")
        assert set(drawn[:2]) == set(where[lines])
        assert drawn[0] in where[f"{'columns' if 'rows' in lines else 'rows'} from the {each}"]


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5), (4, 1)], ids=str)
def test_turning_back_undoes_a_turn_and_tensors_are_turned_as_arrays(size: tuple[int, int]) -> None:
    orders = len(places(*size))
    assert orders == (8 if size[0] == size[1] else 4)
    rng = np.random.default_rng(0)
    for shape in ((orders, 3, *size), (orders, *size), (0, 3, *size)):
        values, order_N = rng.integers(0, 250, shape).astype(np.uint8), np.arange(shape[0])
        there = turned_arrays(values, order_N)
        assert there.dtype == np.uint8 and np.array_equal(turned_arrays_back(there, order_N), values)
        tensors = turned(torch.from_numpy(values), torch.from_numpy(order_N))
        assert np.array_equal(tensors.numpy(), there)
        assert torch.equal(turned_back(tensors, torch.from_numpy(order_N)), torch.from_numpy(values))


def test_the_turns_of_a_square_are_eight_different_ones_that_make_a_group() -> None:
    table = {tuple(one): order for order, one in enumerate(places(3, 3).tolist())}
    assert len(table) == 8
    assert all(
        tuple(places(3, 3)[first][places(3, 3)[second]].tolist()) in table for first, second in itertools.product(range(8), repeat=2)
    )


@pytest.mark.parametrize("order", range(8))
@pytest.mark.parametrize("every", [1, 2])
def test_a_row_is_told_where_its_pixels_are(order: int, every: int) -> None:
    height, width = (5, 5) if order >= 4 else (5, 4)
    place_HW = places(height, width)[order].reshape(height, width)
    for row in range(-(-height // every)):
        (top, left), (down, right) = row_in_image(order, row, every, height, width)
        found = [(top + j * down) * width + left + j * right for j in range(-(-width // every))]
        assert found == place_HW[row * every, ::every].tolist()


def test_whole_rows_or_columns_from_any_side_and_a_part_of_the_next_are_the_beginning_of_an_order() -> None:
    raster_HW = np.arange(25).reshape(5, 5)
    for order, num_known in itertools.product(range(8), range(1, 25)):
        sequence_HW = turned_arrays_back(raster_HW[None], np.array([order]))[0]
        known_HW = sequence_HW < num_known
        chosen = best_order(known_HW, raster_HW, 8)
        assert not known_too_late(known_HW, raster_HW, chosen).any()
        assert chosen == order or (chosen < order and num_known % 5 in (0, 1, 4)), "lower orders come first only where they fit as well"


def test_of_a_corner_as_much_as_an_order_allows_is_used_and_the_rest_is_told() -> None:
    rank_HW = np.arange(16).reshape(4, 4)
    known_HW = np.zeros((4, 4), bool)
    known_HW[2:, 1:] = True  # lower right: from the bottom, and there from the right
    pairs = {}
    for order in range(8):
        drawn = known_HW.ravel()[places(4, 4)[order]]
        pairs[order] = sum(bool(drawn[i]) and not drawn[j] for i, j in itertools.combinations(range(16), 2))
    chosen = best_order(known_HW, rank_HW, 8)
    assert pairs[chosen] == max(pairs.values()) and chosen == min(order for order in pairs if pairs[order] == max(pairs.values()))
    late_HW = known_too_late(known_HW, rank_HW, 1)
    assert late_HW.tolist() == [[False] * 4, [False] * 4, [False, True, True, True], [False] * 4]
    assert best_order(np.ones((4, 4), bool), rank_HW, 8) == 0 and not known_too_late(np.ones((4, 4), bool), rank_HW, 3).any()
    hole_HW = ~known_HW & ~np.eye(4, dtype=bool)
    assert best_order(hole_HW, rank_HW, 1) == 0


def test_orders_that_there_are_not_are_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="number of orders '3' unknown; have 1, 2, 4, 8"):
        check_num_orders(3, ImageSpec(1, 2, 2, 2))
    with pytest.raises(UserError, match="8 orders exchange rows with columns, which images of 2x3 do not allow; give 4, 2 or 1"):
        check_num_orders(8, ImageSpec(1, 2, 3, 2))
    with pytest.raises(UserError, match=r"order 4 is out of range; the model has 0\.\.3"):
        check_order(4, 4)
    with pytest.raises(UserError, match="order 1 is out of range; the model has 0 only, the raster order"):
        check_order(1, 1)
