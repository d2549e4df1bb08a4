from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pixelmodels import captions as captioning
from pixelmodels.captions import LEAST_CELL, LINE, LONGEST, MARGIN, can_write, least_cell, place_of, with_captions
from pixelmodels.errors import UserError
from pixelmodels.pictures import BACKGROUND, LARGEST_SIDE, grid, png_bytes, to_bytes


def test_every_pixel_is_where_it_belongs() -> None:
    images_NCHW = np.random.default_rng(0).integers(0, 17, (5, 1, 2, 3)).astype(np.uint8)
    picture = grid(images_NCHW, 17, columns=3, scale=2)
    assert picture.shape == ((2 * 3 + 1) * 2, (3 * 4 + 1) * 2, 3)
    expected = np.full((7, 13), BACKGROUND, np.uint8)
    for index in range(5):
        row, column = divmod(index, 3)
        expected[row * 3 + 1 : row * 3 + 3, column * 4 + 1 : column * 4 + 4] = np.round(images_NCHW[index, 0] * (255 / 16))
    for channel in range(3):
        np.testing.assert_array_equal(picture[::2, ::2, channel], expected)
        np.testing.assert_array_equal(picture[1::2, 1::2, channel], expected)


def test_colours_stay_in_their_channels() -> None:
    images_NCHW = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 2)).astype(np.uint8)
    picture = grid(images_NCHW, 256, scale=1)
    np.testing.assert_array_equal(picture[1:3, 1:3], images_NCHW[0].transpose(1, 2, 0))


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_span_black_to_white(levels: int) -> None:
    table = to_bytes(np.arange(levels).astype(np.uint8), levels)
    assert table[0] == 0 and table[-1] == 255
    assert (np.diff(table.astype(int)) > 0).all()


def test_pictures_are_near_square_and_small_images_enlarged() -> None:
    height, width, _ = grid(np.zeros((64, 1, 8, 8), np.uint8), 17).shape
    assert height == width and 256 < height <= 512
    assert grid(np.zeros((4, 3, 300, 300), np.uint8), 256).shape == (603, 603, 3)
    tall, wide, _ = grid(np.zeros((16, 1, 4, 16), np.uint8), 2).shape
    assert 0.5 <= tall / wide <= 2


def test_other_channel_counts_become_grey_images() -> None:
    images_NCHW = np.arange(2 * 2 * 1 * 1).reshape(2, 2, 1, 1).astype(np.uint8)
    np.testing.assert_array_equal(grid(images_NCHW, 4, columns=4, scale=1)[1, 1::2, 0], [0, 85, 170, 255])


def test_png_round_trip() -> None:
    picture = grid(np.random.default_rng(0).integers(0, 5, (3, 1, 4, 4)).astype(np.uint8), 5)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(picture)))), picture)


def test_wrong_images_are_told() -> None:
    with pytest.raises(UserError, match="at least one"):
        grid(np.zeros((0, 1, 4, 4), np.uint8), 2)
    with pytest.raises(UserError, match=r"pixel value 7 is outside \[0, 2\)"):
        grid(np.full((1, 1, 4, 4), 7, np.uint8), 2)


# --- names beside images ---


def images(n: int, channels: int = 1, side: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, side, side)).astype(np.uint8)


@pytest.mark.parametrize(
    ("captions", "columns", "place"),
    [
        ([], 2, ""),
        (["", "", "", ""], 2, ""),
        (["a"] * 4, 2, "all"),
        (["a", "", "", "a"], 2, "all"),
        (["a", "b", "a", "b"], 2, "columns"),
        (["", "a", "b", "", "a", "b"], 3, "columns"),
        (["a", "a", "b", "b"], 2, "rows"),
        (["a", "a", "", "", "b", "b"], 2, "rows"),  # the two ends of a way
        (["", "a", "a", "", "b", "b"], 3, "rows"),
        (["a", "b", "b", "a"], 2, "each"),
        (["a", "b", "c"], 2, "each"),
        (["a", "b"], 1, "rows"),
        (["a", "b"], 2, "columns"),
    ],
)
def test_names_stand_where_they_are_needed_least_often(captions: list[str], columns: int, place: str) -> None:
    assert place_of(captions, columns) == place


@pytest.mark.parametrize("channels", [1, 3])
def test_names_take_nothing_from_the_images(channels: int) -> None:
    """The picture without them is in it, pixel by pixel, and nothing else but letters of one colour."""
    x_NCHW = images(6, channels)
    for captions, columns, place in (
        (["cat"] * 6, 3, "all"),
        (["ant", "", "Egyptian cat"] * 2, 3, "columns"),
        (["ant"] * 3 + [""] * 3, 3, "all"),
        (["ant"] * 3 + ["bee"] * 3, 3, "rows"),
    ):
        plain, named = grid(x_NCHW, 256, columns=columns), grid(x_NCHW, 256, columns=columns, captions=captions)
        assert place_of(captions, columns) == place
        rest = named[-plain.shape[0] :, -plain.shape[1] :]
        np.testing.assert_array_equal(rest, plain)
        strip = named[: -plain.shape[0]] if place != "rows" else named[:, : -plain.shape[1]]
        assert {tuple(pixel) for pixel in strip.reshape(-1, 3)} == {(BACKGROUND,) * 3, (255,) * 3}
    each = grid(x_NCHW, 256, columns=3, captions=["a", "b", "c", "c", "b", "a"])
    plain, step = grid(x_NCHW, 256, columns=3), (each.shape[0] - 2 * LINE) * 5 // 11
    kept = np.concatenate([each[LINE : LINE + step], each[2 * LINE + step :]])
    np.testing.assert_array_equal(kept, plain)


def test_a_name_is_above_its_column_and_beside_its_row() -> None:
    x_NCHW = images(6)
    cell = (grid(x_NCHW, 256, columns=3, scale=16).shape[1] - 16) // 3
    above = grid(x_NCHW, 256, columns=3, scale=16, captions=["", "cat", ""] * 2)  # of all: once, at the left
    assert (above[:LINE] == 255).all(-1).any(0).nonzero()[0].max() < MARGIN + 40
    above = grid(x_NCHW, 256, columns=3, scale=16, captions=["", "cat", "i"] * 2)
    inked = (above[:LINE] == 255).all(-1).any(0).reshape(-1)[: 3 * cell].reshape(3, cell).any(1)
    np.testing.assert_array_equal(inked, [False, True, True])
    beside = grid(x_NCHW, 256, columns=2, scale=16, captions=["", "", "cat", "cat", "dog", ""])
    width = beside.shape[1] - (2 * 80 + 16)
    inked = (beside[:, :width] == 255).all(-1).any(1)[: 3 * 80].reshape(3, 80).any(1)
    np.testing.assert_array_equal(inked, [False, True, True])


def test_long_names_are_written_upwards_and_cut() -> None:
    names = ["a name that is longer than any column is wide", "W" * 500]
    cell = 5 * 16
    picture = grid(images(4), 256, columns=2, scale=16, captions=names * 2)
    height = picture.shape[0] - (2 * cell + 16)
    assert LINE < height <= LONGEST + 2 * MARGIN and picture.shape[1] == 2 * cell + 16
    beside = grid(images(4), 256, columns=2, scale=16, captions=["W" * 500] * 2 + ["x"] * 2)
    assert beside.shape[1] <= 2 * cell + 16 + LONGEST + 2 * MARGIN


def test_names_that_differ_at_their_end_stay_apart() -> None:
    names = [f"n{i:08d}" for i in range(60)]
    for most in (LEAST_CELL, 50):
        inked = {captioning._drawn(name, most).tobytes() for name in names}
        assert len(inked) == len(names) and all(captioning._drawn(name, most).shape[1] <= most for name in names)
    assert captioning._drawn("W" * 500, 3).shape[1] <= 3  # no room for a letter


def test_small_images_are_enlarged_by_whole_numbers_for_their_names() -> None:
    x_NCHW = images(128 * 4, side=4)
    plain, named = grid(x_NCHW, 256, columns=128), grid(x_NCHW, 256, columns=128, captions=["a", "b"] * 256)
    assert plain.shape == (21, 641, 3) and named.shape[1] == 641 * 4  # of 5 pixels each; 20 and more for a line of letters
    np.testing.assert_array_equal(named[-84::4, ::4], plain)
    many = grid(images(2000, side=1), 256, columns=2000, captions=["a", "b"] * 1000)
    assert many.shape[1] == 4001 <= LARGEST_SIDE and (many != 255).any()  # no room for names: none
    np.testing.assert_array_equal(many, grid(images(2000, side=1), 256, columns=2000))


def test_each_channel_of_other_images_has_the_name() -> None:
    x_NCHW = images(2, channels=2)
    captions = ["cat", "dog"]
    flat = x_NCHW.reshape(4, 1, 4, 4)
    np.testing.assert_array_equal(
        grid(x_NCHW, 256, columns=2, captions=captions), grid(flat, 256, columns=2, captions=["cat", "cat", "dog", "dog"])
    )


def test_letters_are_there_or_told_to_be_missing() -> None:
    assert can_write("Größe кошка γάτα قط") and can_write("") and not can_write("鳥") and not can_write("a鳥")


def test_the_same_names_are_the_same_pixels() -> None:
    first = grid(images(4), 256, columns=2, captions=["ant", "bee"] * 2)
    captioning._drawn.cache_clear()
    np.testing.assert_array_equal(grid(images(4), 256, columns=2, captions=["ant", "bee"] * 2), first)
    assert least_cell("each") == (1, LEAST_CELL) and with_captions(first, ["a"], 1, (9, 9), BACKGROUND).shape[0] == first.shape[0] + LINE
