from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pixelmodels.errors import UserError
from pixelmodels.pictures import BACKGROUND, grid, png_bytes, to_bytes


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
