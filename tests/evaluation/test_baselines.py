from __future__ import annotations

import io
import math
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pixelmodels.data import DatasetConfig, prepare
from pixelmodels.evaluation import baselines
from pixelmodels.evaluation.baselines import baseline_rows, png_file, tall_image, webp_files
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage

SPECS = [
    ImageSpec(1, 5, 7, 2),
    ImageSpec(1, 5, 7, 4),
    ImageSpec(1, 4, 6, 16),
    ImageSpec(1, 8, 8, 17),
    ImageSpec(1, 8, 8, 256),
    ImageSpec(3, 6, 5, 2),
    ImageSpec(3, 6, 5, 256),
    ImageSpec(2, 3, 4, 9),
]


def images_of(spec: ImageSpec, num_images: int = 11) -> np.ndarray:
    return np.random.default_rng(0).integers(0, spec.levels, (num_images, *spec.shape)).astype(np.uint8)


def decode(data: bytes, spec: ImageSpec) -> np.ndarray:
    """The levels in a file, rows by columns (by channels)."""
    image = Image.open(io.BytesIO(data))
    if spec.channels == 3:
        return np.asarray(image.convert("RGB"))
    levels = np.asarray(image.convert("RGB"))[..., 0] if image.mode == "RGB" else np.asarray(image)
    return levels.astype(np.uint8)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_files_give_every_image_back(spec: ImageSpec) -> None:
    images_NCHW = images_of(spec)
    tall = tall_image(images_NCHW)
    np.testing.assert_array_equal(decode(png_file(images_NCHW, spec), spec), tall)
    (file,) = webp_files(images_NCHW, spec)
    np.testing.assert_array_equal(decode(file, spec), tall)


def test_images_stand_on_top_of_each_other() -> None:
    images_NCHW = images_of(ImageSpec(3, 2, 4, 256), 3)
    tall = tall_image(images_NCHW)
    assert tall.shape == (6, 4, 3)
    for index in range(3):
        np.testing.assert_array_equal(tall[2 * index : 2 * index + 2], images_NCHW[index].transpose(1, 2, 0))


def test_webp_makes_as_many_files_as_its_sides_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ImageSpec(1, 8, 8, 17)
    images_NCHW = images_of(spec, 10)
    monkeypatch.setattr(baselines, "WEBP_MAX_SIDE", 31)  # room for 3 images
    files = webp_files(images_NCHW, spec)
    assert len(files) == 4
    np.testing.assert_array_equal(np.concatenate([decode(file, spec) for file in files]), tall_image(images_NCHW))


def test_few_levels_take_few_bits() -> None:
    for levels, bits in ((2, 1), (4, 2), (16, 4), (256, 8)):
        spec = ImageSpec(1, 16, 512, levels)
        num_bits = 8 * len(png_file(images_of(spec, 9), spec)) / (9 * spec.num_subpixels)
        assert bits <= num_bits < 1.03 * bits + 0.05, "noise does not compress, and is stored in no more bits than it needs"


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rows(spec: ImageSpec) -> None:
    train_NCHW, test_NCHW = images_of(spec, 50), images_of(spec, 11)
    uniform, histogram, png, webp = baseline_rows(train_NCHW, test_NCHW, spec)
    assert uniform.test_bits_per_dim == pytest.approx(math.log2(spec.levels), rel=1e-14)
    assert uniform.test_bits_per_dim_stderr == 0
    num_bytes = len(png_file(test_NCHW, spec))
    assert png.test_bits_per_dim == pytest.approx(8 * num_bytes / test_NCHW.size, rel=1e-14)
    assert webp.test_bits_per_dim == pytest.approx(8 * sum(map(len, webp_files(test_NCHW, spec))) / test_NCHW.size, rel=1e-14)
    for row in (uniform, histogram, png, webp):
        assert row.is_baseline and row.parameters is None and row.likelihood == "baseline"
        assert row.test_nll_nats == pytest.approx(row.test_bits_per_dim * spec.num_subpixels * math.log(2), rel=1e-14)
    assert png.test_bits_per_dim_stderr is webp.test_bits_per_dim_stderr is None


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_histogram_by_hand(spec: ImageSpec) -> None:
    train_NCHW, test_NCHW = images_of(spec, 20), images_of(spec, 6)[::-1]
    nll_nats_N = []
    for image in test_NCHW:
        total = 0.0
        for place in np.ndindex(*spec.shape):
            seen = sum(int(other[place] == image[place]) for other in train_NCHW)
            total -= math.log((seen + 1) / (20 + spec.levels))
        nll_nats_N.append(total)
    row = baselines.histogram([train_NCHW[:7], train_NCHW[7:]], test_NCHW, spec)
    assert row.test_nll_nats == pytest.approx(np.mean(nll_nats_N), rel=1e-12)
    stderr = np.std(nll_nats_N, ddof=1) / math.sqrt(6) / math.log(2) / spec.num_subpixels
    assert row.test_bits_per_dim_stderr == pytest.approx(stderr, rel=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("counts", [1, 300])
def test_a_histogram_in_blocks_is_the_same(spec: ImageSpec, counts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train_NCHW, test_NCHW = images_of(spec, 20), images_of(spec, 6)[::-1]
    whole = baselines.histogram([train_NCHW], test_NCHW, spec)
    for name, value in (("HISTOGRAM_COUNTS", counts), ("PLACES", 5), ("SCORING_BATCH", 4)):
        monkeypatch.setattr(baselines, name, value)
    blocks = baselines.histogram([train_NCHW[:7], train_NCHW[7:]], test_NCHW, spec)
    assert blocks.test_nll_nats == pytest.approx(whole.test_nll_nats, rel=1e-13)
    assert blocks.test_bits_per_dim_stderr == pytest.approx(whole.test_bits_per_dim_stderr, rel=1e-10)


def test_a_histogram_of_large_images_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of all sub-pixels at once would take 9.4 MB here, and their logarithms twice as much."""
    spec = ImageSpec(3, 64, 48, 256)
    train_NCHW, test_NCHW = images_of(spec, 3), images_of(spec, 2)
    monkeypatch.setattr(baselines, "HISTOGRAM_COUNTS", 1 << 17)
    monkeypatch.setattr(baselines, "PLACES", 128)
    tracemalloc.start()
    try:
        baselines.histogram([train_NCHW], test_NCHW, spec)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 2_500_000


def test_training_images_are_streamed_as_often_as_they_are_gone_through(
    ray_cluster: None, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepare(DatasetConfig(binarize="dynamic", rows_per_shard=500), storage, say=lambda _: None)
    whole = baselines.baselines_of([dataset])
    for name, value in (("RESIDENT_BYTES", 1), ("HISTOGRAM_COUNTS", 64), ("STREAMED_BYTES", 64 * 100)):
        monkeypatch.setattr(baselines, name, value)
    for resident, streamed in zip(whole, baselines.baselines_of([dataset]), strict=True):
        assert streamed.test_nll_nats == pytest.approx(resident.test_nll_nats, rel=1e-12)


def test_histogram_is_a_distribution() -> None:
    """The probabilities of all images of a tiny shape sum to 1."""
    spec = ImageSpec(1, 1, 3, 4)
    every_NCHW = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 1, 1, 3).astype(np.uint8)
    train = [images_of(spec, 9)]
    total = sum(math.exp(-baselines.histogram(train, one[None], spec).test_nll_nats) for one in every_NCHW)
    assert total == pytest.approx(1, rel=1e-12)


def test_one_image_has_no_standard_error() -> None:
    spec = ImageSpec(1, 3, 3, 5)
    assert baselines.histogram([images_of(spec)], images_of(spec, 1), spec).test_bits_per_dim_stderr is None


def test_digits() -> None:
    digits_NCHW = load_digits().images.astype(np.uint8)[:, None]
    rows = {row.model: row.test_bits_per_dim for row in baseline_rows(digits_NCHW[:1400], digits_NCHW[1400:], ImageSpec(1, 8, 8, 17))}
    assert rows["uniform"] == pytest.approx(4.087, abs=1e-3)
    assert 2.2 < rows["histogram"] < 2.6 < rows["WebP (lossless)"] < 3.3 < rows["PNG"] < 4.2


@pytest.mark.parametrize("wrong", [np.zeros((0, 1, 8, 8), np.uint8), np.zeros((3, 1, 8, 7), np.uint8), np.full((3, 1, 8, 8), 17, np.uint8)])
def test_wrong_images_are_refused(wrong: np.ndarray) -> None:
    spec = ImageSpec(1, 8, 8, 17)
    with pytest.raises(ValueError, match="given, not"):
        baseline_rows(images_of(spec), wrong, spec)
    with pytest.raises(ValueError, match="given, not"):
        baseline_rows([images_of(spec), wrong], images_of(spec), spec)
