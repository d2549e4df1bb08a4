"""The images that are encoded, a block at a time: files of a folder, or a split of a data set; and what they are conditioned on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pixelmodels.compression.images import ImageFiles
from pixelmodels.compression.options import Encode
from pixelmodels.data import Dataset, find_dataset
from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError
from pixelmodels.evaluation.batches import check_context_fits, check_images_fit, to_tensors
from pixelmodels.models import Context, ContextSpec, PixelModel
from pixelmodels.models.class_names import label_of
from pixelmodels.models.context import ABSENT
from pixelmodels.models.context_images import check_makeable
from pixelmodels.shapes import ImageSpec
from pixelmodels.storage import Storage

FIELDS = {"label": "label_B", "vector": "vector_BV", "grey": "image_BCHW", "small": "small_BCHW"}  # of `Context`, by their names in options


class Source(Protocol):
    """Images that fit a model."""

    @property
    def num(self) -> int:
        """Images."""

    @property
    def others(self) -> tuple[str, ...]:
        """What lies beside its files, and is not encoded."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of files, as they are called when they are decoded; None where they are not kept."""

    def blocks(self, size: int) -> Iterator[Rows]:
        """All of them, `size` at a time, the last ones as many as are left; raises `UserError` for those that cannot be read."""


@dataclass(frozen=True)
class Folder:
    """Image files, all of one class where one is given."""

    files: ImageFiles
    spec: ImageSpec
    names: tuple[str, ...] | None
    label: int | None
    lossy: bool

    @property
    def num(self) -> int:
        """Images."""
        return len(self.files.files)

    @property
    def others(self) -> tuple[str, ...]:
        """Folders and the like."""
        return self.files.others

    def blocks(self, size: int) -> Iterator[Rows]:
        for start in range(0, self.num, size):
            images_NCHW = self.files.read(start, start + size, self.spec, lossy=self.lossy)
            yield Rows(images_NCHW, None if self.label is None else np.full(len(images_NCHW), self.label, np.int32))


@dataclass(frozen=True)
class Held:
    """A split of a data set, a shard of it in memory at a time; all of one class where one is given, else of their own."""

    dataset: Dataset
    split: str
    label: int | None

    @property
    def num(self) -> int:
        """Images."""
        return self.dataset.num_images(self.split)

    @property
    def others(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def names(self) -> None:
        """Its images have none that files could be called by."""

    def blocks(self, size: int) -> Iterator[Rows]:
        left: list[Rows] = []
        for number in range(len(self.dataset.shards(self.split))):
            rows = Rows.joined([*left, self.dataset.read_shard(self.split, number).rows])
            whole = len(rows) // size * size
            yield from (self._labelled(rows.part(start, start + size)) for start in range(0, whole, size))
            left = [rows.part(whole, len(rows))] if whole < len(rows) else []
        yield from map(self._labelled, left)

    def _labelled(self, rows: Rows) -> Rows:
        labels_N = rows.labels_N if self.label is None else np.full(len(rows), self.label, np.int32)
        return Rows(rows.images_NCHW, labels_N, rows.vectors_NV)


def source_of(options: Encode, model: PixelModel, storage: Storage) -> Source:
    """The images that are asked for; raises `UserError` where there are none, or they do not fit the model."""
    spec = model.context_spec
    for kind, has in zip(FIELDS, (spec.num_classes, spec.vector_size, spec.image, spec.small), strict=True):
        if kind in options.condition_on and not has:
            raise UserError(f"--condition-on {kind}: the model is not conditioned on that; leave it out")
    if {"grey", "small"} & set(options.condition_on):
        check_makeable(spec, model.spec, "leave out --condition-on grey and small")
    label = None if options.label is None else label_of(options.label, spec, ABSENT)
    if options.images is not None:
        files = ImageFiles.at(options.images)
        return Folder(files, model.spec, files.names() if options.names else None, label, options.quantize)
    dataset = find_dataset(storage, str(options.dataset))
    check_images_fit(model, dataset)
    if {"label", "vector"} & set(options.condition_on):
        check_context_fits(spec, dataset, (options.split,), "leave out --condition-on")
    if not dataset.num_images(options.split):
        raise UserError(f"data set '{dataset.name}' has no {options.split} images; give another --split")
    return Held(dataset, options.split, label)


def kinds_asked(options: Encode) -> tuple[str, ...]:
    """What the images are conditioned on, by the names of `FIELDS`, in their order."""
    asked = {*options.condition_on, *(["label"] if options.label is not None else [])}
    return tuple(kind for kind in FIELDS if kind in asked)


def context_of_rows(rows: Rows, spec: ContextSpec, kinds: Sequence[str]) -> Context | None:
    """The context of a block, of these kinds only."""
    _, context = to_tensors(rows, torch.device("cpu"), spec)
    return Context(**{FIELDS[kind]: getattr(context, FIELDS[kind]) for kind in kinds}) if kinds else None
