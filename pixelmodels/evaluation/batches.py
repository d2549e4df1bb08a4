"""Rows of a data set as what a model takes: whether they fit it, and tensors of a batch with its context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pixelmodels.data import Dataset
from pixelmodels.data.dataset import check_labels
from pixelmodels.data.rows import Rows
from pixelmodels.errors import UserError, listed
from pixelmodels.models import Context, ContextSpec, PixelModel
from pixelmodels.models.context_images import check_makeable, context_of


def check_images_fit(model: PixelModel, dataset: Dataset) -> None:
    """Raise `UserError` when a data set's images are not of a model's shape and levels."""
    if model.spec != dataset.spec:
        ours, theirs = (f"{one.channels}x{one.height}x{one.width} with {one.levels} levels" for one in (model.spec, dataset.spec))
        raise UserError(f"the model was trained on images of {ours}, data set '{dataset.name}' has {theirs}; prepare one that fits")


def check_context_fits(spec: ContextSpec, dataset: Dataset, splits: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the remedy, when a model's context cannot be had of a data set whose images fit it.

    Its classes have to be the model's, in the same order, which is what a label tells. Only of a model of before, which does not know
    their names, their number is all that is looked at.
    """
    names = _differing(spec.class_names, dataset.label_names) if spec.class_names and dataset.num_classes else ""
    remedy_of_data = f"use one that fits, or {remedy}"
    for asked, has, what, how in (
        (spec.num_classes, dataset.num_classes, "{} classes", names),
        (spec.vector_size, dataset.vector_size, "vectors of {} numbers", ""),
    ):
        if asked and asked != has:
            conditioned = f"the model is conditioned on {what.format(asked)}"
            raise UserError(f"{conditioned}, data set '{dataset.name}' has {has}{how}; {remedy_of_data}")
    if names:
        raise UserError(f"the model is conditioned on other classes than data set '{dataset.name}' has{names}; {remedy_of_data}")
    if spec.num_classes:
        check_labels(dataset, splits, remedy)
    check_makeable(spec, dataset.spec, remedy)


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How the names of a model's classes differ from those of a data set, in brackets; nothing where none does."""
    moved = next((i for i, (mine, other) in enumerate(zip(ours, theirs, strict=False)) if mine != other), None)
    alone = {"model": [name for name in ours if name not in theirs], "data set": [name for name in theirs if name not in ours]}
    parts = [f"only the {who} knows {listed(names)}" for who, names in alone.items() if names]
    if moved is not None and not parts:
        parts = [f"label {moved} is '{ours[moved]}' to the model and '{theirs[moved]}' there"]
    return f" ({'; '.join(parts)})" if parts else ""


@dataclass(frozen=True)
class Batch:
    """Rows as tensors."""

    x_BCHW: torch.Tensor  # levels, int64
    label_B: torch.Tensor | None  # int64; None where a model is not conditioned on labels
    vector_BV: torch.Tensor | None  # float32; None where a model is not conditioned on vectors
    order_B: torch.Tensor | None = None  # int64, by which the images are turned; None where they are as they are

    def context(self, spec: ContextSpec) -> Context | None:
        """The whole context of the images."""
        return context_of(spec, self.x_BCHW, self.label_B, self.vector_BV, self.order_B)

    def tensors(self) -> list[torch.Tensor]:
        """All that there are."""
        return [tensor for tensor in (self.x_BCHW, self.label_B, self.vector_BV, self.order_B) if tensor is not None]


def to_batch(rows: Rows, device: torch.device, spec: ContextSpec, order_N: np.ndarray | None = None) -> Batch:
    """Rows as tensors on the device; through pinned memory to a GPU, which is not waited for.

    On the CPU numpy does it, which uses this thread alone: torch would start a team of threads for each thread that calls it.
    Args: `order_N`, by which the rows' images are turned already; None: they are as they are.
    """
    label_B = _moved(rows.labels_N, device) if spec.num_classes and rows.labels_N is not None else None
    vector_BV = _moved(rows.vectors_NV, device) if spec.vector_size and rows.vectors_NV is not None else None
    order_B = None if order_N is None else _moved(order_N, device)
    return Batch(_moved(rows.images_NCHW, device), label_B, vector_BV, order_B)


def _moved(values: np.ndarray, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        tensor = torch.from_numpy(np.ascontiguousarray(values)).pin_memory().to(device, non_blocking=True)  # bytes, as long as they travel
        return tensor if tensor.is_floating_point() else tensor.long()
    return torch.from_numpy(np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else np.int64))


def to_tensors(
    rows: Rows, device: torch.device, spec: ContextSpec, order_N: np.ndarray | None = None
) -> tuple[torch.Tensor, Context | None]:
    """Images and their whole context on the device. Args: `order_N`, as of `to_batch`."""
    batch = to_batch(rows, device, spec, order_N)
    return batch.x_BCHW, batch.context(spec)
