"""What a model must beat, on the same test images: uniform pixels, per-pixel histograms, PNG and lossless WebP.

The codecs' numbers are real: 8 times the bytes of files that give every test image back, headers included, divided by the number of
sub-pixels. The test images stand on top of each other in one tall image a file, so that a header is paid once and not for each image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelmodels.data import FIXED_EPOCH, Dataset, binarize_dynamic, decode_rows
from pixelmodels.data.feeds import RESIDENT_BYTES
from pixelmodels.evaluation.leaderboard import BASELINE, LeaderboardRow
from pixelmodels.evaluation.scores import standard_error
from pixelmodels.likelihoods.bits import bits_per_dim
from pixelmodels.pictures import encoded
from pixelmodels.ray_cluster import num_cores
from pixelmodels.shapes import ImageSpec

Images = npt.NDArray[np.uint8]  # (N, C, H, W), integers in [0, levels)

WEBP_MAX_SIDE = 16383  # pixels: what the format can hold
WEBP_SLOW_PIXELS = 2_000_000  # method 6 takes about 25 s for a million pixels on one core, method 4 about 5 s for 1 % more bits
HISTOGRAM_COUNTS = 1 << 27  # counts that are held at once, 4 bytes each: more of them, and the training images are gone through again
PLACES, SCORING_BATCH = 4096, 4096  # sub-pixels and images that are counted, or looked up, at once
STREAMED_BYTES = 64 << 20  # of streamed training images in a batch

NOTES = (
    "uniform: every value equally likely, log2(levels) bits/dim.",
    "histogram: one histogram of the training images for each sub-pixel, add-one smoothed, scored on the test images.",
    "PNG, WebP (lossless): real files of all test images, 8 x bytes / sub-pixels, headers included; the images stand on top of each "
    f"other in one tall image (WebP: as many files of at most {WEBP_MAX_SIDE} rows as it takes). Levels are stored as they are; of PNG's "
    "ways to store them (8 bits, fewer bits for 16 levels or less) the smallest file counts. A file has no standard error.",
    "±: standard error of the mean over test images.",
)


def baselines_of(datasets: Sequence[Dataset]) -> list[LeaderboardRow]:
    """The baselines of each data set, once for those that come twice."""
    rows: list[LeaderboardRow] = []
    for dataset in {dataset.fingerprint: dataset for dataset in datasets}.values():
        rows += baseline_rows(_training_images(dataset), dataset.read("test").images_NCHW, dataset.spec)
    return rows


def baseline_rows(train: Images | Iterable[Images], test_NCHW: Images, spec: ImageSpec) -> list[LeaderboardRow]:
    """Score all baselines on the test images.

    Args:
        train: training images (N, C, H, W), or batches of them when they do not fit in memory; gone through once, and
            of large images several times (see `histogram`).
        test_NCHW: test images. Both hold integers in `[0, levels)`: binarize dynamic images first.

    Raises `ValueError` for images that are not of this shape or these levels, or when there are none.
    """
    _check(test_NCHW, spec)
    batches = [train] if isinstance(train, np.ndarray) else train
    return [uniform(spec), histogram(batches, test_NCHW, spec), png(test_NCHW, spec), webp(test_NCHW, spec)]


def uniform(spec: ImageSpec) -> LeaderboardRow:
    """Every value equally likely: exactly log2(levels) bits/dim for any image."""
    nll_nats = spec.num_subpixels * math.log(spec.levels)
    return _row("uniform", nll_nats, spec, stderr_nats=0.0, seconds=0.0)


def histogram(batches: Iterable[Images], test_NCHW: Images, spec: ImageSpec) -> LeaderboardRow:
    """One independent histogram for each sub-pixel of the training images, (count + 1) / (images + levels), scored on the test images.

    Args: `batches`, which can be gone through several times.

    The counts of as many sub-pixels as `HISTOGRAM_COUNTS` allows are held at once, and the batches are gone through for each so many.
    """
    if isinstance(batches, Iterator):
        raise TypeError("an iterator can be gone through once only; give a list, or what makes one anew")
    started = time.perf_counter()
    nll_nats_N = np.zeros(len(test_NCHW))
    at_once = max(1, HISTOGRAM_COUNTS // spec.levels)
    for first in range(0, spec.num_subpixels, at_once):
        block = slice(first, min(first + at_once, spec.num_subpixels))
        num_train, counts_DL = 0, np.zeros((block.stop - block.start, spec.levels), np.int32)
        for batch_NCHW in batches:
            _check(batch_NCHW, spec)
            for _, places, cells_ND in _cells(batch_NCHW, block, spec):
                part_DL = counts_DL[places]
                part_DL += np.bincount(cells_ND.ravel(), minlength=part_DL.size).reshape(part_DL.shape)
            num_train += len(batch_NCHW)
        if num_train == 0:
            raise ValueError("a histogram needs training images")
        for rows, places, cells_ND in _cells(test_NCHW, block, spec):
            nll_DL = math.log(num_train + spec.levels) - np.log(counts_DL[places] + 1.0)
            nll_nats_N[rows] += nll_DL.ravel()[cells_ND].sum(axis=1)
    seconds = time.perf_counter() - started
    return _row("histogram", float(nll_nats_N.mean()), spec, stderr_nats=standard_error(nll_nats_N), seconds=seconds)


def _cells(images_NCHW: Images, block: slice, spec: ImageSpec) -> Iterator[tuple[slice, slice, npt.NDArray[np.int64]]]:
    """Rows and places of some images' sub-pixels of a block, and where their counts are among those of these places, flattened."""
    images_ND = images_NCHW.reshape(-1, spec.num_subpixels)[:, block]
    for place in range(0, images_ND.shape[1], PLACES):
        for row in range(0, len(images_ND), SCORING_BATCH):
            rows, places = slice(row, row + SCORING_BATCH), slice(place, place + PLACES)
            part_ND = images_ND[rows, places]
            yield rows, places, part_ND + np.arange(part_ND.shape[1], dtype=np.int64) * spec.levels


def png(test_NCHW: Images, spec: ImageSpec) -> LeaderboardRow:
    """Bits of one PNG file with all images on top of each other, at zlib's highest level."""
    started = time.perf_counter()
    return _codec_row("PNG", len(png_file(test_NCHW, spec)), test_NCHW, spec, time.perf_counter() - started)


def webp(test_NCHW: Images, spec: ImageSpec) -> LeaderboardRow:
    """Bits of lossless WebP files with all images on top of each other, at its highest effort (less for more than 2 million pixels)."""
    started = time.perf_counter()
    num_bytes = sum(map(len, webp_files(test_NCHW, spec)))
    return _codec_row("WebP (lossless)", num_bytes, test_NCHW, spec, time.perf_counter() - started)


def png_file(images_NCHW: Images, spec: ImageSpec) -> bytes:
    """All images as one PNG file; of the ways to store these levels the smallest."""
    tall = tall_image(images_NCHW)
    candidates = [encoded(Image.fromarray(tall), format="PNG", optimize=True)]
    if tall.ndim == 2 and spec.levels == 2:
        black_and_white = Image.fromarray(tall * np.uint8(255)).convert("1", dither=Image.Dither.NONE)
        candidates.append(encoded(black_and_white, format="PNG", optimize=True))
    elif tall.ndim == 2 and spec.levels <= 16:
        # Pillow writes fewer than 8 bits a pixel for palettes only: a palette in which each index is the level itself.
        indexed = Image.frombytes("P", (tall.shape[1], tall.shape[0]), tall.tobytes())
        indexed.putpalette([value for level in range(spec.levels) for value in (level,) * 3])
        candidates.append(encoded(indexed, format="PNG", optimize=False, compress_level=9, bits=2 if spec.levels <= 4 else 4))
    return min(candidates, key=len)


def webp_files(images_NCHW: Images, spec: ImageSpec) -> list[bytes]:
    """All images as lossless WebP files of at most 16383 rows, whole images in each."""
    if max(spec.height, spec.width) > WEBP_MAX_SIDE:
        raise ValueError(f"images of {spec.height}x{spec.width} do not fit into WebP, at most {WEBP_MAX_SIDE} pixels a side")
    images_NCHW = _grey_or_rgb(images_NCHW)
    step = WEBP_MAX_SIDE // spec.height
    tall = [tall_image(images_NCHW[start : start + step]) for start in range(0, len(images_NCHW), step)]
    method = 6 if images_NCHW.shape[0] * spec.height * spec.width <= WEBP_SLOW_PIXELS else 4

    def encode(image: Images) -> bytes:
        return encoded(Image.fromarray(image), format="WEBP", lossless=True, quality=100, method=method, exact=True)

    with ThreadPoolExecutor(num_cores()) as pool:  # the encoder runs outside the interpreter's lock
        return list(pool.map(encode, tall))


def tall_image(images_NCHW: Images) -> Images:
    """Images on top of each other: (N*H, W) for one channel, (N*H, W, 3) for RGB; channels of any other number one below the other."""
    images_NCHW = _grey_or_rgb(images_NCHW)
    num_images, channels, height, width = images_NCHW.shape
    tall: Images = np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1)).reshape(num_images * height, width, channels)
    return tall[..., 0] if channels == 1 else tall


def _grey_or_rgb(images_NCHW: Images) -> Images:
    num_images, channels, height, width = images_NCHW.shape
    return images_NCHW if channels in (1, 3) else images_NCHW.reshape(num_images * channels, 1, height, width)


def _codec_row(name: str, num_bytes: int, test_NCHW: Images, spec: ImageSpec, seconds: float) -> LeaderboardRow:
    return _row(name, 8 * num_bytes * math.log(2) / len(test_NCHW), spec, stderr_nats=None, seconds=seconds)


def _row(name: str, nll_nats: float, spec: ImageSpec, *, stderr_nats: float | None, seconds: float) -> LeaderboardRow:
    return LeaderboardRow(
        model=name,
        likelihood=BASELINE,
        parameters=None,
        test_bits_per_dim=bits_per_dim(nll_nats, spec.num_subpixels),
        test_bits_per_dim_stderr=None if stderr_nats is None else bits_per_dim(stderr_nats, spec.num_subpixels),
        test_nll_nats=nll_nats,
        train_images_per_second=None,
        samples_per_second=None,
        seconds=seconds,
    )


def _check(images_NCHW: Images, spec: ImageSpec) -> None:
    if images_NCHW.ndim != 4 or images_NCHW.shape[1:] != spec.shape or len(images_NCHW) == 0:
        raise ValueError(f"images of shape {images_NCHW.shape} given, not (images, {', '.join(map(str, spec.shape))}), at least one")
    if images_NCHW.dtype != np.uint8 or int(images_NCHW.max()) >= spec.levels:
        raise ValueError(f"images of type {images_NCHW.dtype} up to {images_NCHW.max()} given, not uint8 below {spec.levels}")


def _training_images(dataset: Dataset) -> Iterable[Images]:
    """Training images in batches, streamed when there are many; dynamic binarization draws them once."""
    if dataset.split_bytes("train") < RESIDENT_BYTES:
        return [_drawn(dataset, dataset.read("train").images_NCHW, 0)]
    return _Streamed(dataset)


@dataclass(frozen=True)
class _Streamed:
    """Training images of a data set in batches, each time that it is gone through."""

    dataset: Dataset

    def __iter__(self) -> Iterator[Images]:
        most = max(1, min(SCORING_BATCH, STREAMED_BYTES // self.dataset.spec.num_subpixels))
        position = 0
        for batch in self.dataset.stream("train").iter_batches(batch_size=most, batch_format="pyarrow"):
            images_NCHW = decode_rows(batch["image"], self.dataset.spec.shape)
            yield _drawn(self.dataset, images_NCHW, position)
            position += len(images_NCHW)


def _drawn(dataset: Dataset, images_NCHW: Images, position: int) -> Images:
    """Training images from a place in their order on, as a model sees them."""
    if not dataset.train_images_are_grey:
        return images_NCHW
    return binarize_dynamic(images_NCHW, seed=0, epoch=FIXED_EPOCH, indices_N=np.arange(position, position + len(images_NCHW)))
