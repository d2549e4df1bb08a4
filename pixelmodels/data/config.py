"""What a data set is made of: its source and the options that shape its images."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from pixelmodels.errors import UserError, check_seed
from pixelmodels.storage import LONGEST_NAME, check_length, fitting

AUTO = "auto"  # the source that becomes another one as soon as its files are looked at (`recognition.py`)
_WITHOUT_PATH = "digits"  # what it is where there are no files
RECORDS = ("parquet", "huggingface", "webdataset")  # sources of files of records, each an image with what is told of it
_CALLED_BY_PATH = ("arrays", "folder", *RECORDS)  # sources whose data sets are called like their folder, or file
_ENDING = r"\.(npz|npy|parquet|arrow|feather|tar|tar\.gz|tgz)$"
SPLITS = ("train", "validation", "test")
Binarize = Literal["none", "threshold", "dynamic"]
PatchSize = Literal[8, 16, 32]
Splitting = Literal["auto", "hash"]
DropDuplicates = Literal["none", "exact", "near"]
# Pillow refuses images of twice this size whatever is asked for.
LARGEST_MAX_PIXELS = 89_478_485


@dataclass(frozen=True)
class DatasetConfig:
    """One data set to prepare; `None` stands for the source's own value. Raises `UserError` for values out of range.

    Where `labels` is left out, the fingerprint holds what comes of it: the data set is the one of `labels` True, or of False.
    """

    source: str = AUTO  # auto: what the path seems to hold (no path: digits); else a name, such as folder, mnist, arrays (docs/data.md)
    path: str | None = None  # folder, s3://bucket/prefix or gs://bucket/prefix with the source's files (`folder`: images at any depth)
    name: str | None = None  # of the data set; None: the source's name, or the folder's
    size: tuple[int, int] | None = None  # (height, width): the shorter side is resized, then the centre is cropped
    channels: Literal[1, 3] | None = None  # 1 grey, 3 RGB
    levels: int | None = None  # values of a sub-pixel after uniform quantization, 2..256
    binarize: Binarize = "none"  # two levels: by threshold, or drawn anew each epoch from the grey value
    patch_size: PatchSize = 16  # of source `photos`: pixels along a side of a patch
    labels: bool | None = None  # keep class labels (of source `folder`: names of sub-folders); left out: where there are some
    vectors: str | None = None  # Parquet file (path, s3:// or gs:// URI) of columns key and vector: an embedding, say, of each image
    splits: Splitting = "auto"  # auto: the source's own splits where it has some; hash: always by hash of the key
    validation_share: float = 0.1  # of the images, where the source has no validation split of its own
    test_share: float = 0.1  # of the images, where the source has no test split of its own
    seed: int = 0  # of the splits by hash and of the fixed draws of dynamic binarization
    rows_per_shard: int = 2048  # images in one Parquet file, at most; fewer where they are large (64 MiB of pixels)
    # Share of files that may turn out to be no images; one such file is always accepted. The images are the same whatever it is.
    max_bad_share: float = field(default=0.01, compare=False)
    max_pixels: int = 50_000_000  # an image with more pixels than this is put aside before it is decoded
    image_column: str | None = None  # of parquet, huggingface: column of the images; of webdataset: ending of their names; None: found
    label_column: str | None = None  # of the same: column of the labels; ending, or field of the JSON member; None: found
    variant: str | None = None  # of some sources: a set of emnist, such as letters; cifar100's coarse; svhn's extra; a set of arrays

    drop_duplicates: DropDuplicates = "none"  # leave train images out that are copies of test or validation images; near: or nearly are

    def __post_init__(self) -> None:
        if self.source == AUTO and self.path is None:
            object.__setattr__(self, "source", _WITHOUT_PATH)
        check_seed("seed", self.seed)
        for what, value, choices in (
            ("binarize", self.binarize, get_args(Binarize)),
            ("patch size", self.patch_size, get_args(PatchSize)),
            ("splits", self.splits, get_args(Splitting)),
            ("drop_duplicates", self.drop_duplicates, get_args(DropDuplicates)),
        ):
            if value not in choices:
                raise UserError(f"{what} {value!r} unknown; have {', '.join(map(str, choices))}")
        if self.levels is not None and not 2 <= self.levels <= 256:
            raise UserError(f"{self.levels} levels asked for; give 2..256")
        if self.binarize != "none" and self.levels not in (None, 2):
            raise UserError(f"binarize '{self.binarize}' gives 2 levels, but levels is {self.levels}; give 2 levels, or binarize 'none'")
        if self.channels not in (None, 1, 3):
            raise UserError(f"{self.channels} channels asked for; give 1 (grey) or 3 (RGB)")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UserError(f"size {self.size} is not an image size; give height and width, 1 or more each")
        for share in ("validation_share", "test_share"):
            if not 0 < getattr(self, share) < 1:
                raise UserError(f"{share} {getattr(self, share)} out of range; give a share between 0 and 1")
        if self.validation_share + self.test_share >= 1:
            both = self.validation_share + self.test_share
            raise UserError(f"validation_share and test_share add up to {both:g}; give less than 1, to leave something to train on")
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"max_bad_share {self.max_bad_share} out of range; give a share from 0 to 1")
        if self.rows_per_shard < 1:
            raise UserError(f"rows_per_shard {self.rows_per_shard} is too small; give 1 or more")
        if not 1 <= self.max_pixels <= LARGEST_MAX_PIXELS:
            raise UserError(f"max_pixels {self.max_pixels} out of range; give 1..{LARGEST_MAX_PIXELS}")
        check_length("data set name", self.name or "")
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise UserError(f"data set name '{self.name}' will not do; give letters, digits, '.', '_' and '-' only")

    def dataset_name(self) -> str:
        """The name given, or the folder's (shortened with a hash where it is too long), or the source's, and the variant's."""
        if self.name is not None:
            return self.name
        if self.source not in _CALLED_BY_PATH:
            return f"{self.source}_{self.variant}" if self.variant else self.source
        last = (self.path or "").rstrip("/").rsplit("/", 1)[-1]
        last = last if self.source == "folder" else re.sub(_ENDING, "", last)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-._") or self.source
        return fitting(f"{name}_{self.variant}" if self.variant else name, LONGEST_NAME)
