from __future__ import annotations

import numpy as np
import pytest

from benchmarks.duplicates import CHANGES, SCALED, are_found, contrasts, digits, noisy, num_mistaken, patches
from pixelmodels.data import duplicates
from pixelmodels.data.duplicates import BANDS, Copies, Sketches, find_copies, near_in_band
from pixelmodels.data.quantization import UInt8, dequantize


def with_contrast(size: int) -> UInt8:
    """Patches of the two photographs that are no sky or blur."""
    images_NHWC = patches(size)
    return images_NHWC[contrasts(images_NHWC, 256) >= 4]


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_of_digits_are_found(change: str) -> None:
    assert are_found(digits(), 17, CHANGES[change]).mean() >= 0.95


@pytest.mark.parametrize("change", CHANGES | SCALED)
@pytest.mark.parametrize("size", [16, 32])
def test_near_copies_of_photographs_are_found(size: int, change: str) -> None:
    assert are_found(with_contrast(size), 256, (CHANGES | SCALED)[change]).mean() >= 0.95


def test_few_of_the_digits_are_taken_for_copies_of_others() -> None:
    for seed in range(5):
        num_taken, num_train = num_mistaken(digits(), 17, seed)
        assert num_taken <= 0.001 * num_train


def test_exact_copies_are_found_wherever_they_are_and_the_first_is_told() -> None:
    images_NHWC = np.random.default_rng(0).integers(0, 256, (50, 12, 9, 3), np.uint8)
    train_NHWC, others_NHWC = images_NHWC[[3, 1, 3, 0, 9, 3]], images_NHWC[[20, 3, 30, 3, 1]]
    found = find_copies(Sketches.of(train_NHWC, 256), Sketches.of(others_NHWC, 256))
    assert found.row_M.tolist() == [0, 1, 2, 5] and found.other_M.tolist() == [1, 4, 1, 1]
    assert found.is_exact_M.all() and not found.distance_M.any()
    assert found.num_others_exact == 3 and found.num_others_near == 0 and found.num_left_out == 0


def test_one_level_in_one_pixel_makes_a_copy_near() -> None:
    image_HWC = with_contrast(32)[5]
    other_HWC = image_HWC.copy()
    other_HWC[0, 0, 0] ^= 1
    found = find_copies(Sketches.of(image_HWC[None], 256), Sketches.of(np.stack([image_HWC[::-1], other_HWC]), 256))
    assert found.other_M.tolist() == [1] and not found.is_exact_M.any() and found.num_others_near == 1


def test_another_colour_makes_another_image() -> None:
    image_HWC = with_contrast(32)[5:6].copy()
    assert len(find_copies(Sketches.of(image_HWC, 256), Sketches.of(image_HWC[..., ::-1], 256)).row_M) == 0


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (8, 8), (28, 28), (33, 47)])
def test_sketches_of_every_shape_average_areas(size: tuple[int, int], channels: int, levels: int) -> None:
    images_NHWC = np.random.default_rng(1).integers(0, levels, (5, *size, channels), np.uint8)
    sketches = Sketches.of(images_NHWC, levels)
    grey_NHWC = dequantize(images_NHWC, levels).astype(np.float64)
    # Each pixel as 8x8 of its own, then the mean of each of 8x8 blocks of them: the same areas.
    large_NHWC = grey_NHWC.repeat(8, 1).repeat(8, 2).reshape(5, 8, size[0], 8, size[1], channels).mean((2, 4))
    luma_NHW = large_NHWC @ ((0.299, 0.587, 0.114) if channels == 3 else np.full(channels, 1 / channels))
    np.testing.assert_allclose(sketches.grey_NP / 256, luma_NHW.reshape(5, 64), atol=0.01)
    np.testing.assert_allclose(sketches.mean_NC, grey_NHWC.mean((1, 2)), atol=1e-3)
    assert len(find_copies(sketches, sketches).row_M) == 5


def made(hash_N: np.ndarray, grey_NP: np.ndarray) -> Sketches:
    """Sketches with these hashes and grey values, all with digests of their own."""
    digests = np.array([np.random.default_rng(i).bytes(15) + b"." for i in hash_N.tolist()], "S16")
    grey_NP = np.round(grey_NP * 256).astype(np.uint16)
    return Sketches(digests, hash_N, grey_NP, grey_NP.mean(1, keepdims=True, dtype=np.float32) / 256)


def test_all_whose_hashes_differ_in_six_bits_are_compared() -> None:
    generator = np.random.default_rng(3)
    hash_N = generator.integers(0, 2**64, 300, np.uint64)
    grey_NP = generator.uniform(0, 255, (300, 64))
    flips = [sum(1 << int(bit) for bit in generator.choice(64, 6, replace=False)) for _ in hash_N]
    found = find_copies(made(hash_N, grey_NP), made(hash_N ^ np.array(flips, np.uint64), grey_NP))
    assert found.row_M.tolist() == found.other_M.tolist() == list(range(300)) and not found.is_exact_M.any()


def by_definition(images: Sketches, others: Sketches) -> tuple[list[int], list[int], int]:
    """The images with near copies, the nearest of each, and how many of the others have some: every pair looked at, one by one."""
    values_NP, other_KP = images.grey_NP / 256, others.grey_NP / 256
    rows, nearest, with_copies = [], [], set()
    for row, value_P in enumerate(values_NP):
        near = []
        for other, other_P in enumerate(other_KP):
            centred_P, other_centred_P = value_P - value_P.mean(), other_P - other_P.mean()
            distance, contrast = (centred_P - other_centred_P).std(), min(centred_P.std(), other_centred_P.std())
            is_near = contrast >= 2 and distance <= min(12, contrast / 4) and abs(images.mean_NC[row] - others.mean_NC[other]).max() <= 13
            difference = int(images.hash_N[row] ^ others.hash_N[other])
            num_equal = sum(not difference >> 8 * byte & 255 for byte in range(8))
            if is_near and num_equal >= 2 and difference.bit_count() <= 12 and images.digest_N[row] != others.digest_N[other]:
                near.append((distance, other))
        if near:
            rows.append(row)
            nearest.append(min(near)[1])
            with_copies |= {other for _, other in near}
    return rows, nearest, len(with_copies)


def test_bands_find_what_comparing_every_pair_finds() -> None:
    images_NHWC = with_contrast(16)[::3]
    generator = np.random.default_rng(0)
    copies_NHWC = np.stack([noisy(image_HWC) for image_HWC in images_NHWC[generator.integers(0, len(images_NHWC), 120)]])
    images, others = Sketches.of(images_NHWC, 256), Sketches.of(copies_NHWC, 256)
    found = find_copies(images, others)
    rows, nearest, num_others = by_definition(images, others)
    assert len(rows) > 50
    assert (found.row_M.tolist(), found.other_M.tolist(), found.num_others_near) == (rows, nearest, num_others)


def test_flat_images_have_exact_copies_only_however_many_they_are() -> None:
    generator = np.random.default_rng(0)
    flat_NHWC = np.broadcast_to(generator.integers(0, 256, (20_000, 1, 1, 1), np.uint8), (20_000, 4, 4, 1)).copy()
    flat_NHWC[::2, 0, 0] ^= 1
    found = find_copies(Sketches.of(flat_NHWC[:10_000], 256), Sketches.of(flat_NHWC[10_000:], 256))
    assert found.is_exact_M.all() and len(found.row_M) == 10_000 and found.num_others_exact == 10_000 and found.num_left_out == 0


def test_images_that_are_all_alike_take_bounded_time_and_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST_NEIGHBOURS", 16)
    image_HWC = with_contrast(16)[0].astype(np.int64)
    noise_NHWC = np.random.default_rng(0).integers(-1, 2, (600, *image_HWC.shape))
    images_NHWC = np.clip(image_HWC + noise_NHWC, 0, 255).astype(np.uint8)
    images, others = Sketches.of(images_NHWC[:500], 256), Sketches.of(images_NHWC[500:], 256)
    compared = 0

    def counted(*arguments: object) -> object:
        nonlocal compared
        compared += len(arguments[2])  # type: ignore[arg-type]
        return near(*arguments)  # type: ignore[arg-type]

    near = duplicates._near
    monkeypatch.setattr(duplicates, "_near", counted)
    found = find_copies(images, others)
    assert compared <= len(BANDS) * 16 * 100
    assert found.num_others_near == 100 and found.num_left_out > 0


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0)])
def test_no_images_have_no_copies(counts: tuple[int, int]) -> None:
    images_NHWC = with_contrast(16)[:3]
    images, others = (Sketches.of(images_NHWC[:count], 256) for count in counts)
    found = find_copies(images, others)
    assert len(found.row_M) == found.num_others_exact == found.num_others_near == 0


def test_bands_in_any_order_and_sketches_in_any_parts_give_the_same() -> None:
    images_NHWC = with_contrast(16)[:200]
    images, others = Sketches.of(images_NHWC, 256), Sketches.of(np.stack([noisy(image_HWC) for image_HWC in images_NHWC[::4]]), 256)
    parts = Sketches.joined([Sketches.of(images_NHWC[start : start + 30], 256) for start in range(0, 200, 30)])
    one = find_copies(images, others)
    other: Copies = find_copies(parts, others, lambda some, more: [near_in_band(some, more, band) for band in reversed(BANDS)])
    for name in ("row_M", "other_M", "is_exact_M", "distance_M"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert len(one.row_M) >= 50 and one.num_others_near == other.num_others_near
