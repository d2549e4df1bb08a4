"""Copies of images: exact ones by a hash of their levels, near ones by a perceptual hash in bands and what is left of them at 8x8.

Each image has a *sketch*: a hash of all its levels, its grey values brought to 8x8 by averaging areas, and 64 bits that say how these
vary (the signs of as many projections, so that images which differ little differ in few bits). Two images are *near copies* where

- their sketches, each without its mean, differ (root mean square) by at most a quarter of the contrast of either, and by 12 of 255;
- and the means of their channels by at most 13 of 255.

So an image that was compressed again, made a little brighter or darker, or has a little noise is found, and one that was scaled and
scaled back where it has 16 pixels a side or more. One that was moved or cropped by more than a small part of one of the 8x8 areas is
another image. The less contrast there is at 8x8, the less of this it takes to be no copy; below `LEAST_CONTRAST` (a piece of sky) images
look all alike, and only their exact copies count.

Only images that agree in two whole bytes of the eight of their perceptual hashes are compared (all that differ in six bits or fewer do,
and most that differ in more). Each of the 28 pairs of bytes is a *band*, a piece of work of its own: a sort, and for each image of the
other split its neighbours in that order. Where more than `MOST_NEIGHBOURS` images agree in a band, those that agree in most of the
following bits are compared and the others are counted, so that no kind of images takes time without bound.
Bands: Manku, Jain and Das Sarma, Detecting near-duplicates for web crawling (WWW 2007); signs of projections: Charikar (STOC 2002).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pixelmodels.data.quantization import UInt8, dequantize

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
UInt64 = npt.NDArray[np.uint64]

HASH_BITS = 64
SIDE = 8  # rows and columns of a sketch
LEAST_CONTRAST = 2.0  # standard deviation of a sketch, of 255: below it an image is flat, and has exact copies only
MOST_OF_CONTRAST = 0.25  # of the lesser contrast of the two: root mean square of the difference of near copies
MOST_DIFFERENCE = 12.0  # of 255: the same, at most
MOST_OFFSET = 13.0  # of 255: difference of the means of a channel of near copies
MOST_BITS = 12  # in which the perceptual hashes of near copies differ: 99% of them do in 8 or fewer
MOST_NEIGHBOURS = 2048  # images that one image is compared with in one band
BANDS = tuple(combinations(range(8), 2))  # which two bytes of a perceptual hash agree
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # of red, green and blue: ITU-R BT.601
_FINE = 256  # steps of a sketch's grey values in one of 255
_PIXELS_AT_A_TIME = 4 << 20
_PAIRS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Sketches:
    """What images are compared by; 136 bytes of a grey image, 144 of RGB. All images have one shape."""

    digest_N: npt.NDArray[np.bytes_]  # BLAKE2b, 16 bytes: the same levels have the same one
    hash_N: UInt64  # perceptual: near copies differ in few bits
    grey_NP: npt.NDArray[np.uint16]  # P = 64 values, row-major, in steps of 1/256 of a grey value 0..255
    mean_NC: Float32  # of each channel, 0..255

    def __len__(self) -> int:
        return len(self.hash_N)

    def take(self, rows: Int64) -> Sketches:
        """These images only, in this order."""
        return Sketches(**{spec.name: getattr(self, spec.name)[rows] for spec in fields(self)})

    @staticmethod
    def joined(parts: Sequence[Sketches]) -> Sketches:
        """The sketches of several parts, at least one, as one."""
        return Sketches(**{spec.name: np.concatenate([getattr(part, spec.name) for part in parts]) for spec in fields(Sketches)})

    @staticmethod
    def of(images_NHWC: UInt8, levels: int) -> Sketches:
        """Sketches of images with integers in `[0, levels)`, of any size and any number of channels (of 3: RGB)."""
        num, height, width, channels = images_NHWC.shape
        step = max(1, _PIXELS_AT_A_TIME // (height * width * channels))
        starts = range(0, max(1, num), step)  # of no images one part that is empty
        return Sketches.joined([_sketch(images_NHWC[start : start + step], levels) for start in starts])


@dataclass(frozen=True)
class Near:
    """What one band finds."""

    row_M: Int64  # each image with a near copy among the others, once
    other_M: Int64  # its nearest
    distance_M: Float32  # root mean square of their difference, of 255
    with_copies_K: Int64  # each of the others with a near copy, once
    num_left_out: int = 0  # pairs that were not compared because too many images agree in this band


@dataclass(frozen=True)
class Copies:
    """Which images have a copy among some others, and the nearest of each; the arrays run in parallel, sorted by `row_M`."""

    row_M: Int64  # each image with a copy, once
    other_M: Int64  # its nearest copy; the first of several
    is_exact_M: npt.NDArray[np.bool_]
    distance_M: Float32  # root mean square of their difference at 8x8, of 255; 0 of exact copies
    num_others_exact: int  # of the others, those with an exact copy
    num_others_near: int  # and those with a near one only
    num_left_out: int  # pairs that were not compared; 0 unless thousands of images look nearly the same


InBands = Callable[[Sketches, Sketches], Iterable[Near]]


def find_copies(images: Sketches, others: Sketches, in_bands: InBands | None = None) -> Copies:
    """Which of the images have an exact or near copy among the others.

    Args: `in_bands` gives `near_in_band` of every band, in any order; one after the other unless given.
    Images with the same levels are compared once, however many they are.
    """
    digests_U, first_U, kind_N = np.unique(images.digest_N, return_index=True, return_inverse=True)
    other_digests_V, other_first_V, other_kind_K = np.unique(others.digest_N, return_index=True, return_inverse=True)
    _, same_U, same_V = np.intersect1d(digests_U, other_digests_V, assume_unique=True, return_indices=True)
    nearest_U, distance_U = np.full(len(first_U), -1), np.full(len(first_U), np.inf, np.float32)
    has_near_V, num_left_out = np.zeros(len(other_first_V), np.bool_), 0
    for near in (in_bands or _one_by_one)(images.take(first_U), others.take(other_first_V)):
        is_better = (near.distance_M < distance_U[near.row_M]) | (
            (near.distance_M == distance_U[near.row_M]) & (other_first_V[near.other_M] < nearest_U[near.row_M])
        )
        rows, nearest = near.row_M[is_better], near.other_M[is_better]
        nearest_U[rows], distance_U[rows] = other_first_V[nearest], near.distance_M[is_better]
        has_near_V[near.with_copies_K] = True
        num_left_out += near.num_left_out
    is_exact_U, is_exact_V = np.zeros(len(first_U), np.bool_), np.zeros(len(other_first_V), np.bool_)
    is_exact_U[same_U], is_exact_V[same_V] = True, True
    nearest_U[same_U], distance_U[same_U] = other_first_V[same_V], 0.0
    (row_M,) = np.nonzero(nearest_U[kind_N] >= 0)
    kind_M = kind_N[row_M]
    num_exact, num_near = is_exact_V[other_kind_K].sum(), (has_near_V & ~is_exact_V)[other_kind_K].sum()
    return Copies(row_M, nearest_U[kind_M], is_exact_U[kind_M], distance_U[kind_M], int(num_exact), int(num_near), num_left_out)


def near_in_band(images: Sketches, others: Sketches, band: tuple[int, int]) -> Near:
    """The near copies, among the others, of images whose perceptual hashes agree with theirs in the two bytes of a band.

    Images with the same digest are none of them. The work needs some 100 bytes for each image, and 100 MB.
    """
    (rows_N,), (rows_K,) = (np.nonzero(_contrast(sketches.grey_NP) >= LEAST_CONTRAST) for sketches in (images, others))
    turned_N, turned_K = _turned(images.hash_N[rows_N], band), _turned(others.hash_N[rows_K], band)
    order_N = np.argsort(turned_N, kind="stable")
    turned_N, rows_N = turned_N[order_N], rows_N[order_N]
    prefix_K = turned_K & np.uint64(0xFFFF << 48)
    begin_K = np.searchsorted(turned_N, prefix_K)
    end_K = np.searchsorted(turned_N, prefix_K | np.uint64((1 << 48) - 1), side="right")
    # Of a band in which very many agree, those around the place where the image itself would be.
    place_K = np.searchsorted(turned_N, turned_K)
    first_K = np.clip(place_K - MOST_NEIGHBOURS // 2, begin_K, np.maximum(begin_K, end_K - MOST_NEIGHBOURS))
    last_K = np.minimum(first_K + MOST_NEIGHBOURS, end_K)
    found = []
    for at_M, other_at_M in _pairs(first_K, last_K):
        is_close_M = np.bitwise_count(turned_N[at_M] ^ turned_K[other_at_M]) <= MOST_BITS
        found.append(_near(images, others, rows_N[at_M[is_close_M]], rows_K[other_at_M[is_close_M]]))
    row_M, other_M, distance_M = (np.concatenate(column) for column in zip(*found, strict=True)) if found else _NOTHING
    nearest = np.lexsort((other_M, distance_M, row_M))
    nearest = nearest[np.unique(row_M[nearest], return_index=True)[1]]
    num_left_out = int((end_K - begin_K - (last_K - first_K)).sum())
    return Near(row_M[nearest], other_M[nearest], distance_M[nearest], np.unique(other_M), num_left_out)


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def _one_by_one(images: Sketches, others: Sketches) -> Iterator[Near]:
    return (near_in_band(images, others, band) for band in BANDS)


def _pairs(first_K: Int64, last_K: Int64) -> Iterator[tuple[Int64, Int64]]:
    """Every place from first to last of each k, with that k: some 65,536 pairs at a time."""
    counts_K = last_K - first_K
    ends_K = np.cumsum(counts_K)
    start = 0
    while start < len(counts_K):
        before = ends_K[start] - counts_K[start]
        stop = max(start + 1, int(np.searchsorted(ends_K, before + _PAIRS_AT_A_TIME, side="right")))
        counts = counts_K[start:stop]
        other_M = np.repeat(np.arange(start, stop), counts)
        within_M = np.arange(len(other_M)) - np.repeat(ends_K[start:stop] - counts - before, counts)
        if len(other_M):
            yield first_K[other_M] + within_M, other_M
        start = stop


def _near(images: Sketches, others: Sketches, row_M: Int64, other_M: Int64) -> tuple[Int64, Int64, Float32]:
    """Those of pairs that are near copies and not the same, and their distance."""
    close_M = (np.abs(images.mean_NC[row_M] - others.mean_NC[other_M]) <= MOST_OFFSET).all(1)
    row_M, other_M = row_M[close_M], other_M[close_M]
    sketch_MP, other_MP = (_without_mean(sketches.grey_NP[rows]) for sketches, rows in ((images, row_M), (others, other_M)))
    distance_M, contrast_M, other_contrast_M = (
        np.sqrt(np.square(values_MP).mean(1)) for values_MP in (sketch_MP - other_MP, sketch_MP, other_MP)
    )
    most_M = np.minimum(MOST_DIFFERENCE, MOST_OF_CONTRAST * np.minimum(contrast_M, other_contrast_M))
    is_near_M = (distance_M <= most_M) & (images.digest_N[row_M] != others.digest_N[other_M])
    return row_M[is_near_M], other_M[is_near_M], distance_M[is_near_M]


def _sketch(images_NHWC: UInt8, levels: int) -> Sketches:
    num, height, width, channels = images_NHWC.shape
    images_NHWC = np.ascontiguousarray(images_NHWC)
    digests = [hashlib.blake2b(image_HWC, digest_size=16).digest() for image_HWC in images_NHWC]
    grey_NHWC = (images_NHWC if levels == 256 else dequantize(images_NHWC, levels)).astype(np.float32)
    rows_N8WC = (_averaging(height) @ grey_NHWC.reshape(num, height, width * channels)).reshape(num, SIDE, width, channels)
    weights_C = _LUMA if channels == 3 else np.full(channels, 1 / channels, np.float32)
    grey_N88 = (rows_N8WC @ weights_C) @ _averaging(width).T
    grey_NP = np.round(grey_N88.reshape(num, SIDE * SIDE) * _FINE).astype(np.uint16)
    hash_N = _packed(_without_mean(grey_NP) @ _projections().T > 0)
    return Sketches(np.array(digests, "S16"), hash_N, grey_NP, np.einsum("nrwc->nc", rows_N8WC) / np.float32(SIDE * width))


@functools.cache
def _projections() -> Float32:
    """The matrix (64, P) whose products with sketches have the signs that are the perceptual hash.

    Random rotations of the 27 lowest frequencies of the cosine transform but the mean, each times the root of its frequency: the lower
    ones vary most from image to image, and the higher ones with compression and noise.
    """
    place = np.arange(SIDE)
    waves = np.cos(np.pi * (2 * place[None, :] + 1) * place[:, None] / (2 * SIDE))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    low = [(row, column) for row in range(SIDE) for column in range(SIDE) if 0 < row + column <= 6]
    waves_FP = np.stack([np.hypot(row, column) ** 0.5 * np.outer(waves[row], waves[column]).ravel() for row, column in low])
    generator = np.random.default_rng(0)
    rotations = [np.linalg.qr(generator.normal(size=(len(low), len(low))))[0] for _ in range(-(-HASH_BITS // len(low)))]
    return (np.concatenate(rotations)[:HASH_BITS] @ waves_FP).astype(np.float32)


@functools.cache
def _averaging(size: int) -> Float32:
    """The matrix (8, size) that brings `size` values to 8, each the mean of the part of them that it covers."""
    edges, values = np.arange(SIDE + 1) / SIDE, np.arange(size + 1) / size
    covered = np.minimum(edges[1:, None], values[None, 1:]) - np.maximum(edges[:-1, None], values[None, :-1])
    return (np.maximum(covered, 0) * SIDE).astype(np.float32)


def _without_mean(grey_NP: npt.NDArray[np.uint16]) -> Float32:
    values_NP = grey_NP.astype(np.float32) / _FINE
    return values_NP - values_NP.mean(1, keepdims=True)


def _contrast(grey_NP: npt.NDArray[np.uint16]) -> Float32:
    """Standard deviation of each sketch, of 255; a part at a time."""
    parts = [_without_mean(grey_NP[start : start + 65536]).std(1) for start in range(0, max(1, len(grey_NP)), 65536)]
    return np.concatenate(parts)


def _packed(bits_NB: npt.NDArray[np.bool_]) -> UInt64:
    """64 bits as one number."""
    return np.packbits(bits_NB, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _turned(hash_N: UInt64, band: tuple[int, int]) -> UInt64:
    """Hashes with the two bytes of a band first and the others behind them, as numbers."""
    bytes_N8 = hash_N.astype(">u8").view(np.uint8).reshape(-1, 8)
    order = [*band, *(byte for byte in range(8) if byte not in band)]
    return np.ascontiguousarray(bytes_N8[:, order]).view(">u8")[:, 0].astype(np.uint64)
