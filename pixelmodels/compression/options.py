"""What `compress.py` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pixelmodels.compression.arithmetic import MAX_WIDTH
from pixelmodels.errors import UserError, check_at_least
from pixelmodels.storage import DEFAULT_STORAGE

Given = Literal["label", "vector", "grey", "small"]


@dataclass(frozen=True)
class Encode:
    """Write images into one file, losslessly: the bits that the model's own likelihood says, and a little more.

    Every image comes back with exactly the levels that it has. What image files hold beyond the model's levels is refused, unless
    --quantize lets it be lost before. The decoder needs the same model, and a machine that rounds like this one (--portable needs less).
    """

    model: Annotated[str, tyro.conf.Positional]  # folder of a run or checkpoint (path or URI), or models:/name/version
    out: str  # the file to write
    images: str | None = None  # folder of image files, or one of them: as large as the model's images
    dataset: str | None = None  # or a prepared data set
    split: Literal["train", "validation", "test"] = "test"  # of --dataset
    block: int = 64  # images that are coded together; one block is decoded without the others; 1: each image by itself
    names: bool = True  # keep the names of the image files
    label: str | int | None = None  # the class of all images, by name or number, of a model of classes
    # What the model is given of each image, and the file holds beside it: labels and vectors of --dataset; grey and small images are made
    # of the images, and nearly always cost more than they are worth.
    condition_on: tuple[Given, ...] = ()
    quantize: bool = False  # let levels, colours and transparency be lost that the model's images do not have
    portable: bool = False  # compute on a way that other processors and versions of torch follow nearly always: slower
    use_gpu: bool = False  # the decoder then needs the same kind of GPU
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix

    def __post_init__(self) -> None:
        check_at_least(self, block=1)
        if self.block > MAX_WIDTH:
            raise UserError(f"--block {self.block} is too many; give {MAX_WIDTH} or fewer")
        if (self.images is None) == (self.dataset is None):
            what = "both are" if self.images is not None else "neither is"
            raise UserError(f"--images FOLDER and --dataset NAME say what to encode, and {what} given; give one of them")
        if self.label is not None and "label" in self.condition_on:
            raise UserError("--label and --condition-on label both give a class; leave one of them out")
        of_dataset = [kind for kind in self.condition_on if kind in ("label", "vector")]
        if self.dataset is None and of_dataset:
            remedy = "give --label CLASS, or --dataset" if "label" in of_dataset else "give --dataset"
            raise UserError(f"--condition-on {of_dataset[0]}: image files have none; {remedy}")
        if "://" in self.out:
            raise UserError(f"--out '{self.out}' is no local file; give a local name")
        if self.out.endswith("/"):
            raise UserError(f"--out '{self.out}' is a folder; give the name of a file in it")


@dataclass(frozen=True)
class Decode:
    """Write the images of a file that was encoded, as PNG files or arrays; every image is checked before it is written."""

    file: Annotated[str, tyro.conf.Positional]  # what `encode` wrote
    out: str  # folder of PNG files, or a name that ends in .npz: levels, N C H W, with names and what the images are conditioned on
    model: str | None = None  # the model that encoded it, where it is not found by the name that the file has; as for `encode`
    blocks: tuple[int, ...] = ()  # decode these alone, counted from 0
    use_gpu: bool = False  # for a file that was encoded with it
    storage: str = DEFAULT_STORAGE  # storage root: a local folder, s3://bucket/prefix or gs://bucket/prefix

    def __post_init__(self) -> None:
        if "://" in self.out:
            raise UserError(f"--out '{self.out}' is no local folder; give a local one, or a name that ends in .npz")


@dataclass(frozen=True)
class Show:
    """Tell what is in a file that was encoded, and what decodes it, without decoding it."""

    file: Annotated[str, tyro.conf.Positional]  # what `encode` wrote
