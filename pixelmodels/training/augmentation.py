"""Training images moved by a few pixels, or mirrored: more images than there are, for data sets of which a model soon knows each one.

And images some of whose sub-pixels are replaced by levels drawn at random (mutated): a model trained on them knows what all images of
these levels have in common and little of what the data set's own show, and is the background that likelihoods are held against
(arXiv:1906.02845).

What is done to an image is a function of (seed, step, its place in the step), like its dropout, so that the number of workers changes
nothing. Sub-pixels are mutated in all steps. Toward the end of a run images are no longer moved (`Recipe.augmented_share`): the model is
scored on such ones, and what it has learned of moved ones is given up in a few epochs, while what it has learned from them is kept.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pixelmodels.data.quantization import UInt8
from pixelmodels.data.rows import Rows
from pixelmodels.layers.dropout import image_keys

_STREAM = 0x6D6F766564  # makes the words others than those that dropout goes by
_MUTATED_STREAM = 0x6D757461746564  # and others than those that images are moved by


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images."""

    shift: int = 0  # most pixels by which an image is moved, up or down and to either side
    mirror: bool = False  # whether every second image, by chance, is mirrored left to right
    num_steps: int = 0  # first steps of the run, whose images are moved and mirrored
    mutated_share: float = 0.0  # probability with which a sub-pixel is replaced by a level drawn uniformly, in all steps
    levels: int = 256  # from which that one is drawn

    def __call__(self, rows: Rows, seed: int, step: int, places_N: np.ndarray) -> Rows:
        """Rows of a step, changed. Args: `places_N`, of the rows among all of the step."""
        if not len(rows):
            return rows
        return self._mutated(self._moved(rows, seed, step, places_N), seed, step, places_N)

    def _moved(self, rows: Rows, seed: int, step: int, places_N: np.ndarray) -> Rows:
        if step >= self.num_steps or not (self.shift or self.mirror):
            return rows
        words_N = image_keys(seed ^ _STREAM, step, places_N).numpy().view(np.uint64)
        images_NCHW = rows.images_NCHW
        if self.mirror:
            is_mirrored_N = (words_N >> np.uint64(63)).astype(bool)
            images_NCHW = np.where(is_mirrored_N[:, None, None, None], images_NCHW[..., ::-1], images_NCHW)
        if self.shift:
            width = np.uint64(2 * self.shift + 1)
            down_N, right_N = ((words_N >> np.uint64(bits) & np.uint64(2**24 - 1)) % width for bits in (0, 24))
            images_NCHW = moved(images_NCHW, down_N.astype(np.int64) - self.shift, right_N.astype(np.int64) - self.shift)
        return dataclasses.replace(rows, images_NCHW=images_NCHW)

    def _mutated(self, rows: Rows, seed: int, step: int, places_N: np.ndarray) -> Rows:
        if not self.mutated_share:
            return rows
        images_NCHW = rows.images_NCHW
        num = images_NCHW[0].size
        places_ND = places_N[:, None] * num + np.arange(num)
        words = image_keys(seed ^ _MUTATED_STREAM, step, places_ND.ravel()).numpy().view(np.uint64).reshape(images_NCHW.shape)
        is_mutated = (words >> np.uint64(32)) < np.uint64(round(self.mutated_share * 2**32))
        drawn = ((words & np.uint64(2**32 - 1)) * np.uint64(self.levels)) >> np.uint64(32)
        return dataclasses.replace(rows, images_NCHW=np.where(is_mutated, drawn.astype(np.uint8), images_NCHW))


def moved(images_NCHW: UInt8, down_N: np.ndarray, right_N: np.ndarray) -> UInt8:
    """Each image moved by its numbers of pixels (negative: up, left); what comes in at an edge is the edge's pixels again."""
    height, width = images_NCHW.shape[2:]
    rows_NH = np.clip(np.arange(height) - down_N[:, None], 0, height - 1)
    columns_NW = np.clip(np.arange(width) - right_N[:, None], 0, width - 1)
    images_NHWC = images_NCHW.transpose(0, 2, 3, 1)
    taken: UInt8 = images_NHWC[np.arange(len(images_NCHW))[:, None, None], rows_NH[:, :, None], columns_NW[:, None, :]]
    return np.ascontiguousarray(taken.transpose(0, 3, 1, 2))
