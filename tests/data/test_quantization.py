from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelmodels.data import FIXED_EPOCH, binarize_dynamic, dequantize, quantize

GREY = np.arange(256, dtype=np.uint8)
LEVELS = range(2, 257)


def test_quantization_is_uniform_and_monotone_and_reaches_every_level() -> None:
    for levels in LEVELS:
        bins = quantize(GREY, levels).astype(int)
        assert (np.diff(bins) >= 0).all()
        counts = np.bincount(bins, minlength=levels)
        assert len(counts) == levels and counts.min() >= 1
        assert counts.max() - counts.min() <= 1


def test_dequantization_is_inverted_by_quantization() -> None:
    for levels in LEVELS:
        every = np.arange(levels, dtype=np.uint8)
        grey = dequantize(every, levels)
        assert grey[0] == 0 and grey[-1] == 255
        assert (np.diff(grey.astype(int)) > 0).all()
        np.testing.assert_array_equal(quantize(grey, levels), every)


def test_known_values() -> None:
    np.testing.assert_array_equal(quantize(GREY, 256), GREY)
    np.testing.assert_array_equal(dequantize(GREY, 256), GREY)
    np.testing.assert_array_equal(quantize(np.array([0, 127, 128, 255], np.uint8), 2), [0, 0, 1, 1])
    np.testing.assert_array_equal(dequantize(np.array([0, 1, 2], np.uint8), 3), [0, 128, 255])


@given(seed=st.integers(0, 2**40), epoch=st.integers(-1, 1000), index=st.integers(0, 2**63 - 1))
@settings(max_examples=50)
def test_black_stays_black_and_white_stays_white(seed: int, epoch: int, index: int) -> None:
    images = np.zeros((1, 1, 4, 4), np.uint8)
    images[..., 2:] = 255
    drawn = binarize_dynamic(images, seed=seed, epoch=epoch, indices_N=[index])
    np.testing.assert_array_equal(drawn, images // 255)


def test_draws_follow_the_grey_value_over_epochs() -> None:
    images = GREY.reshape(1, 1, 16, 16)
    epochs = 2000
    share = np.mean([binarize_dynamic(images, seed=1, epoch=epoch, indices_N=[7]) for epoch in range(epochs)], axis=0)
    probability = images / 255
    deviation = np.sqrt(probability * (1 - probability) / epochs)
    assert (np.abs(share - probability) <= 5 * deviation + 1e-12).all()  # 256 values: all within 5 sigma but once in 7,000 runs
    assert np.abs((share - probability)[0, 0].mean()) < 5e-3


def test_draws_are_unrelated_between_pixels_images_epochs_and_seeds() -> None:
    images = np.full((400, 1, 10, 10), 128, np.uint8)

    def centred(seed: int, epoch: int) -> np.ndarray:
        return binarize_dynamic(images, seed=seed, epoch=epoch, indices_N=np.arange(400)).reshape(400, 100) - 128 / 255

    first = centred(0, 0)
    limit = 5 * 0.25 / np.sqrt(first.size)  # 5 sigma of the mean of products of independent draws
    for other in (centred(0, 1), centred(1, 0), np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)):
        assert abs((first * other).mean()) < limit


def test_an_image_is_drawn_alike_in_any_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 4), dtype=np.uint8)
    indices = np.arange(100, 112)
    together = binarize_dynamic(images, seed=3, epoch=4, indices_N=indices)
    order = np.array([5, 2, 11])
    np.testing.assert_array_equal(binarize_dynamic(images[order], seed=3, epoch=4, indices_N=indices[order]), together[order])
    assert (binarize_dynamic(images, seed=3, epoch=FIXED_EPOCH, indices_N=indices) != together).any()
    assert binarize_dynamic(images[:0], seed=3, epoch=4, indices_N=[]).shape == (0, 3, 5, 4)


def test_draws_stay_what_they_were() -> None:
    """Stored validation and test draws, and resumed runs, depend on these very numbers."""
    drawn = binarize_dynamic(np.full((2, 1, 1, 16), 100, np.uint8), seed=0, epoch=0, indices_N=[0, 1])
    assert ["".join(map(str, row)) for row in drawn.reshape(2, 16)] == ["1001010110000000", "1000100011001001"]
