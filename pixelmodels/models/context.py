"""What images are conditioned on: which kinds a model is built for, the values of a batch, and whether the two fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.layers.dropout import keep_masks
from pixelmodels.shapes import ImageSpec

_DROP_STREAM = -1  # of the masks of `Context.dropped`: those of layers count from 0
ABSENT = -1  # as a label, or as every level of a given image; a vector that is absent is a row of NaN


@dataclass(frozen=True)
class ContextSpec:
    """The kinds of context that a model is built for; each may be absent in a batch, or for some of its images."""

    num_classes: int = 0  # labels are 0..num_classes-1; 0: not conditioned on a label
    vector_size: int = 0  # length of an image's vector; 0: not conditioned on a vector
    image: ImageSpec | None = None  # of the image that is given, such as a grey one: as large as the model's, or whole factors apart
    small: ImageSpec | None = None  # of the small image that is given beside it: sub-sampled by whole factors
    class_names: tuple[str, ...] = field(default=(), compare=False)  # of each label, where they are known: they shape nothing
    num_orders: int = 1  # of its pixels that the model has (see `turns`): 1, 2, 4 or 8; it is told which one unless there is one only

    def __post_init__(self) -> None:
        if len(self.class_names) not in (0, self.num_classes):
            raise UserError(f"{len(self.class_names)} names given for {self.num_classes} classes; give one for each, or none")
        for name in ("num_classes", "vector_size"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)} is negative; give 0 or more")

    def __bool__(self) -> bool:
        """Whether images are given anything; by which order they are drawn is not given but chosen."""
        return self.num_classes > 0 or self.vector_size > 0 or self.image is not None or self.small is not None

    @property
    def has_features(self) -> bool:
        """Whether layers take anything of it."""
        return bool(self) or self.num_orders > 1


@dataclass(frozen=True)
class Context:
    """What the images of a batch are conditioned on. A kind that is None is absent for all of them."""

    label_B: Tensor | None = None  # class labels, integers; -1 where an image has none
    vector_BV: Tensor | None = None  # floats; NaN in the whole row where an image has none
    image_BCHW: Tensor | None = None  # levels, integers; -1 in the whole image where there is none
    small_BCHW: Tensor | None = None  # as image_BCHW
    order_B: Tensor | None = None  # by which order each image is turned, integers: never absent, so that None and -1 are order 0

    def __len__(self) -> int:
        """Images that it is the context of; 0 where every kind is None."""
        return next((len(value) for value in self._given().values()), 0)

    def _given(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) is not None}

    def rows(self, index: slice | Tensor) -> Context:
        """The context of some of the images."""
        return Context(**{name: value[index] for name, value in self._given().items()})

    def to(self, device: torch.device) -> Context:
        """The same on a device."""
        return Context(**{name: value.to(device) for name, value in self._given().items()})

    def without(self, drop_B: dict[str, Tensor]) -> Context:
        """The same with kinds absent where `drop_B`, by the field's name, is true."""
        changed: dict[str, Tensor] = {}
        for name, drop in drop_B.items():
            value, absent = _with_absence(getattr(self, name))
            changed[name] = value.masked_fill(drop.view(-1, *[1] * (value.dim() - 1)), absent)
        return replace(self, **changed)

    def dropped(self, rate: float, keys_B: Tensor) -> Context:
        """Each kind of each image left out with probability `rate`, by the images' keys (`layers.dropout.image_keys`) alone."""
        if not rate:
            return self
        kinds = [one.name for one in fields(self) if one.name != "order_B"]  # which is never left out
        kept_BK = keep_masks(keys_B, _DROP_STREAM, len(kinds), rate)
        given = {name: value for name, value in self._given().items() if name in kinds}
        return self.without({name: ~kept_BK[:, kinds.index(name)].to(value.device) for name, value in given.items()})


@dataclass(frozen=True)
class ContextBlend:
    """A point on the way from one context to another: their encoded features are mixed, `share_B` of the second."""

    first: Context
    second: Context
    share_B: Tensor  # in [0, 1], one for each image

    def __len__(self) -> int:
        """Images that it is the context of."""
        return len(self.share_B)

    def rows(self, index: slice | Tensor) -> ContextBlend:
        """The context of some of the images."""
        return ContextBlend(self.first.rows(index), self.second.rows(index), self.share_B[index])

    def to(self, device: torch.device) -> ContextBlend:
        """The same on a device."""
        return ContextBlend(self.first.to(device), self.second.to(device), self.share_B.to(device))


Given = Context | ContextBlend | None  # what a batch is conditioned on


def order_alone(context: Given) -> Context | None:
    """What is left of a context where the images are given nothing: by which order they are turned; None where it tells none."""
    order_B = context.first.order_B if isinstance(context, ContextBlend) else None if context is None else context.order_B
    return None if order_B is None else Context(order_B=order_B)


def join_contexts(contexts: Sequence[Given]) -> Given:
    """The context of several images from the contexts of one image each; what some of them have is absent for the others."""
    device = next((one.share_B.device for one in contexts if isinstance(one, ContextBlend)), None)
    if device is None:
        return _join([one if isinstance(one, Context) else Context() for one in contexts])
    no_share_1 = torch.zeros(1, device=device)
    blends = [one if isinstance(one, ContextBlend) else ContextBlend(one or Context(), one or Context(), no_share_1) for one in contexts]
    shares = [blend.share_B.to(torch.float64) for blend in blends]
    return ContextBlend(_join([blend.first for blend in blends]), _join([blend.second for blend in blends]), torch.cat(shares))


def _join(contexts: Sequence[Context]) -> Context:
    kinds = {field.name: [getattr(one, field.name) for one in contexts] for field in fields(Context)}
    return Context(**{name: _join_kind(values) for name, values in kinds.items() if any(value is not None for value in values)})


def _join_kind(values: Sequence[Tensor | None]) -> Tensor:
    some, absent = _with_absence(next(value for value in values if value is not None))
    return torch.cat([torch.full_like(some, absent) if value is None else value for value in values])


def _with_absence(value: Tensor) -> tuple[Tensor, float]:
    """A value in a type that has a place for what is absent (an unsigned one has none), and what stands there."""
    if value.is_floating_point():
        return value, float("nan")
    return value.to(torch.promote_types(value.dtype, torch.int16)), ABSENT


def whole_factors(given: ImageSpec, model: ImageSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """By how much rows and columns of a given image grow, and by how much they shrink, to the size of the model's images.

    The smaller one may be what sub-sampling leaves, its last row and column standing for fewer. Raises `UserError`
    for sizes that are no whole factors apart.
    """
    (grow_rows, shrink_rows), (grow_columns, shrink_columns) = (
        _whole_factor(theirs, ours, given, model) for theirs, ours in zip(given.shape[1:], model.shape[1:], strict=True)
    )
    return (grow_rows, grow_columns), (shrink_rows, shrink_columns)


def _whole_factor(theirs: int, ours: int, given: ImageSpec, model: ImageSpec) -> tuple[int, int]:
    small, large = sorted((theirs, ours))
    factor = -(-large // small)
    if -(-large // factor) != small:
        size, wanted = (f"{spec.height}x{spec.width}" for spec in (given, model))
        raise UserError(f"context images of {size} are no whole factors apart from images of {wanted}; sub-sample them")
    return (factor, 1) if theirs < ours else (1, factor)


def check_context(context: Given, spec: ContextSpec, batch: int) -> None:
    """`UserError` where a batch's context is not what a model was built for (reads the values: on a GPU it waits for them)."""
    if isinstance(context, ContextBlend):
        check_context(context.first, spec, batch)
        check_context(context.second, spec, batch)
        if context.share_B.shape != (batch,):
            raise UserError(f"shares of shape {tuple(context.share_B.shape)} given for {batch} images; give one for each image")
        orders = [one.order_B for one in (context.first, context.second) if one.order_B is not None]
        if len(orders) == 1 or (len(orders) == 2 and not torch.equal(*orders)):
            raise UserError("the two contexts of a blend are told different orders; there is no order between two: give both the same")
    elif context is not None:
        kinds: tuple[tuple[str, Tensor | None, Any, Callable[[Tensor, Any, int], None]], ...] = (
            ("label", context.label_B, spec.num_classes, _check_labels),
            ("vector", context.vector_BV, spec.vector_size, _check_vectors),
            ("image", context.image_BCHW, spec.image, _check_images),
            ("small image", context.small_BCHW, spec.small, _check_images),
            ("order", context.order_B, spec.num_orders if spec.num_orders > 1 else 0, _check_orders),
        )
        for kind, value, built_for, check in kinds:
            if value is not None and not built_for:
                raise UserError(f"a context {kind} is given to a model that is not conditioned on one; leave it out")
            if value is not None:
                check(value, built_for, batch)


def _check_labels(label_B: Tensor, num_classes: int, batch: int) -> None:
    if label_B.shape != (batch,) or label_B.is_floating_point():
        raise UserError(f"labels of shape {tuple(label_B.shape)} given for {batch} images; give one integer for each image")
    wrong = label_B[(label_B < ABSENT) | (label_B >= num_classes)]
    if len(wrong):
        raise UserError(f"label {int(wrong[0])} is out of range; this model knows 0..{num_classes - 1}, and -1 for no label")


def _check_orders(order_B: Tensor, num_orders: int, batch: int) -> None:
    if order_B.shape != (batch,) or order_B.is_floating_point():
        raise UserError(f"orders of shape {tuple(order_B.shape)} given for {batch} images; give one integer for each image")
    wrong = order_B[(order_B < ABSENT) | (order_B >= num_orders)]
    if len(wrong):
        raise UserError(f"order {int(wrong[0])} is out of range; this model has 0..{num_orders - 1}")


def _check_vectors(vector_BV: Tensor, size: int, batch: int) -> None:
    if vector_BV.shape != (batch, size):
        raise UserError(f"vectors of shape {tuple(vector_BV.shape)} given for {batch} images; this model takes {size} numbers for each")
    unknown = vector_BV.isnan()
    if vector_BV.isinf().any() or (unknown.any(1) != unknown.all(1)).any():
        raise UserError("a vector has numbers that are not finite; give finite numbers, or NaN in all places for no vector")


def _check_images(x_BCHW: Tensor, spec: ImageSpec, batch: int) -> None:
    if x_BCHW.shape != (batch, *spec.shape) or x_BCHW.is_floating_point():
        raise UserError(
            f"context images of shape {tuple(x_BCHW.shape)} given for {batch} images; this model takes integers of shape "
            f"(channels, height, width) = {spec.shape} for each"
        )
    absent_B111 = (x_BCHW == ABSENT).flatten(1).all(1)[:, None, None, None]
    spec.check_values(torch.where(absent_B111, 0, x_BCHW))
