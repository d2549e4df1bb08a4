"""What `find_anomalies.py` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pixelmodels.errors import UserError, check_at_least, check_seed
from pixelmodels.storage import DEFAULT_STORAGE

RATES = (0.001, 0.01, 0.05, 0.1)  # false-alarm rates whose thresholds are told, beside the one that is asked for


@dataclass(frozen=True)
class FindAnomalies:
    """Find the images that are unlike those a model was trained on: several scores of each, with their p-values.

    P-values are held against the validation split of --normal: of images like those a share of --rate is told, whatever the model is. With
    two sets, normal images first, it is also told how well each score tells them apart.
    """

    model: Annotated[str, tyro.conf.Positional]  # folder of a run or checkpoint (path or URI), or models:/name/version
    normal: str  # prepared data set of normal images, such as the one that the model was trained on; its validation split calibrates
    # One set to look at, or two: normal ones, then others. Each a prepared data set (NAME is its test split; else NAME/train), or image
    # files: a folder, s3://bucket/prefix, gs://bucket/prefix, or one file. The test split of --normal unless given.
    sets: tuple[str, ...] = ()
    background: str | None = None  # a model trained with `mutated_share`: its likelihood is divided by (score likelihood_ratio)
    rate: float = 0.01  # share of normal images that may be told, wrongly
    codecs: tuple[str, ...] = ("png", "webp")  # by the best of which complexity is measured; jpegxl, too, where imagecodecs is installed
    num_images: int = 24  # most anomalous images of each set on the page
    without_context: bool = False  # score a conditional model with all that it is conditioned on left out
    resamples: int = 1000  # of the two sets, by which intervals are found
    seed: int = 0  # of these
    num_workers: int | None = None  # actors that hold the models; as many as the cluster has room for unless given
    use_gpu: bool = False  # one GPU an actor
    batch_size: int = 128  # images scored at a time
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix

    def __post_init__(self) -> None:
        check_seed("--seed", self.seed)
        check_at_least(self, num_images=1, resamples=1, num_workers=1, batch_size=1)
        if len(self.sets) > 2:
            raise UserError(f"--sets names {len(self.sets)} sets; give one to look at, or two: normal images, then others")
        if len(set(self.sets)) < len(self.sets):
            raise UserError(f"--sets names '{self.sets[0]}' twice; give two sets, or one")
        if not 0 < self.rate < 1:
            raise UserError(f"--rate {self.rate:g} is no false-alarm rate; give a share above 0 and below 1, such as 0.01")
        if len(set(self.codecs)) < len(self.codecs):
            raise UserError(f"--codecs {' '.join(self.codecs)} names one twice; give each once")
