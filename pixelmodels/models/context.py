"""What images are conditioned on, and how it reaches the layers: as feature maps, made once for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.errors import UserError
from pixelmodels.shapes import ImageSpec

ABSENT = -1  # as a label, or as every level of a given image; a vector that is absent is a row of NaN


@dataclass(frozen=True)
class ContextSpec:
    """The kinds of context that a model is built for; each may be absent in a batch, or for some of its images."""

    num_classes: int = 0  # labels are 0..num_classes-1; 0: not conditioned on a label
    vector_size: int = 0  # length of an image's vector; 0: not conditioned on a vector
    image: ImageSpec | None = None  # of the image that is given, such as a grey one: as large as the model's, or whole factors apart
    small: ImageSpec | None = None  # of the small image that is given beside it: sub-sampled by whole factors

    def __post_init__(self) -> None:
        for name in ("num_classes", "vector_size"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)} is negative; give 0 or more")

    def __bool__(self) -> bool:
        return self.num_classes > 0 or self.vector_size > 0 or self.image is not None or self.small is not None


@dataclass(frozen=True)
class Context:
    """What the images of a batch are conditioned on. A kind that is None is absent for all of them."""

    label_B: Tensor | None = None  # class labels, integers; -1 where an image has none
    vector_BV: Tensor | None = None  # floats; NaN in the whole row where an image has none
    image_BCHW: Tensor | None = None  # levels, integers; -1 in the whole image where there is none
    small_BCHW: Tensor | None = None  # as image_BCHW

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
            value: Tensor = getattr(self, name)
            absent = float("nan") if value.is_floating_point() else ABSENT
            if not value.is_floating_point() and not value.dtype.is_signed:
                value = value.to(torch.int16)
            changed[name] = value.masked_fill(drop.view(-1, *[1] * (value.dim() - 1)), absent)
        return replace(self, **changed)

    def dropped(self, rate: float) -> Context:
        """Each kind of each image left out with probability `rate`, drawn from torch's global generator."""
        given = self._given()
        return self.without({name: torch.rand(len(value)).to(value.device) < rate for name, value in given.items()}) if rate else self


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


def join_contexts(contexts: Sequence[Given]) -> Given:
    """The context of several images from the contexts of one image each; what some of them have is absent for the others."""
    if any(isinstance(one, ContextBlend) for one in contexts):
        blends = [one if isinstance(one, ContextBlend) else _no_way(one) for one in contexts]
        shares = [blend.share_B.to(torch.float64) for blend in blends]
        return ContextBlend(_join([blend.first for blend in blends]), _join([blend.second for blend in blends]), torch.cat(shares))
    return _join([one if isinstance(one, Context) else Context() for one in contexts])


def _no_way(context: Context | None) -> ContextBlend:
    """A context as a blend with itself."""
    context = context or Context()
    return ContextBlend(context, context, torch.zeros(1))


def _join(contexts: Sequence[Context]) -> Context:
    kinds = {field.name: [getattr(one, field.name) for one in contexts] for field in fields(Context)}
    return Context(**{name: _join_kind(values) for name, values in kinds.items() if any(value is not None for value in values)})


def _join_kind(values: Sequence[Tensor | None]) -> Tensor:
    some = next(value for value in values if value is not None)
    if some.is_floating_point():
        absent = torch.full_like(some, float("nan"))
    else:  # an unsigned type has no place for what is absent
        absent = torch.full(some.shape, ABSENT, dtype=torch.promote_types(some.dtype, torch.int16), device=some.device)
    return torch.cat([absent if value is None else value for value in values])


class ImageEncoder(nn.Module):
    """A given image to features at every pixel of the model's images: two 3 x 3 convolutions, then its size is changed.

    A linear map of the image itself goes beside them, which keeps its levels exact. A summary of the whole image (a
    linear map of the mean) is added everywhere, so that all of it is seen from any pixel. An image that is absent is
    zeros in the channel of ones too, as the padding is: what comes of them is learned.
    """

    def __init__(self, spec: ImageSpec, model_spec: ImageSpec, num_features: int):
        super().__init__()
        self.spec, self.size = spec, model_spec.shape[1:]
        grow, shrink = whole_factors(spec, model_spec)
        self.conv1 = nn.Conv2d(spec.channels + 1, num_features, 3, padding=1)
        self.conv2 = nn.Conv2d(num_features, num_features, 3, padding=1)
        self.straight = nn.Conv2d(spec.channels + 1, num_features, 1)
        self.summary = nn.Linear(num_features, num_features)
        self.shrink = nn.Conv2d(num_features, num_features, shrink, stride=shrink) if max(shrink) > 1 else None
        self.grow = nn.ConvTranspose2d(num_features, num_features, grow, stride=grow)

    def forward(self, image_BHWC: Tensor) -> Tensor:
        """Features c_BHWD from inputs as `scaled_image` makes them."""
        image_BCHW = image_BHWC.permute(0, 3, 1, 2)
        h = F.elu(self.conv2(F.elu(self.conv1(image_BCHW))))
        h = h + self.straight(image_BCHW) + self.summary(h.mean((2, 3)))[:, :, None, None]
        if self.shrink is not None:
            (rows, columns), (height, width) = self.shrink.stride, h.shape[2:]
            h = self.shrink(F.pad(h, (0, -width % columns, 0, -height % rows)))
        h = self.grow(h)
        c_BHWD: Tensor = h[..., : self.size[0], : self.size[1]].permute(0, 2, 3, 1)
        return c_BHWD

    def inputs(self, x_BCHW: Tensor | None, batch: int) -> Tensor:
        """Inputs from levels, with zeros for images that are absent."""
        weight = self.conv1.weight
        if x_BCHW is None:
            return weight.new_zeros(batch, *self.spec.shape[1:], self.spec.channels + 1)
        x_BCHW = x_BCHW.to(weight.device)
        given_B111 = (x_BCHW >= 0).flatten(1).all(1)[:, None, None, None]
        return scaled_image(x_BCHW, self.spec.levels, weight.dtype) * given_B111


class ContextEncoder(nn.Module):
    """Context to features `c_BHWD`, where H and W are 1 for what holds for the whole image.

    A label is an embedding, a vector a linear map, a given image goes through convolutions; their features are added
    up. What is absent adds a learned null.
    """

    def __init__(self, spec: ContextSpec, model_spec: ImageSpec, num_features: int):
        super().__init__()
        self.spec = spec
        if spec.num_classes:
            self.label = nn.Embedding(spec.num_classes + 1, num_features)  # the last is the null
        if spec.vector_size:
            self.vector = nn.Linear(spec.vector_size, num_features)
            self.no_vector = nn.Parameter(torch.randn(num_features))
        self.image = ImageEncoder(spec.image, model_spec, num_features) if spec.image is not None else None
        self.small = ImageEncoder(spec.small, model_spec, num_features) if spec.small is not None else None

    def forward(self, context: Given, batch: int, small_BHWC: Tensor | None = None) -> Tensor:
        """Features of a batch's context, which `check_context` has accepted; `small_BHWC` are inputs of the small image."""
        if isinstance(context, ContextBlend):
            first, second = self(context.first, batch, small_BHWC), self(context.second, batch, small_BHWC)
            return torch.lerp(first, second, context.share_B.to(first).view(-1, 1, 1, 1))
        context, parts = context or Context(), []
        if self.spec.num_classes:
            parts.append(self.encode_labels(context.label_B, batch))
        if self.spec.vector_size:
            parts.append(self.encode_vectors(context.vector_BV, batch))
        if self.image is not None:
            parts.append(self.image(self.image.inputs(context.image_BCHW, batch)))
        if self.small is not None:
            parts.append(self.small(self.small.inputs(context.small_BCHW, batch) if small_BHWC is None else small_BHWC))
        c_BHWD: Tensor = sum(parts[1:], parts[0])
        return c_BHWD

    def encode_labels(self, label_B: Tensor | None, batch: int) -> Tensor:
        """Labels to features; the null for -1."""
        device = self.label.weight.device
        label_B = torch.full((batch,), ABSENT, device=device) if label_B is None else label_B.to(device)
        c_BD: Tensor = self.label(label_B.long() % (self.spec.num_classes + 1))
        return c_BD[:, None, None]

    def encode_vectors(self, vector_BV: Tensor | None, batch: int) -> Tensor:
        """Vectors to features; the null for a row of NaN."""
        if vector_BV is None:
            return self.no_vector.expand(batch, 1, 1, -1)
        vector_BV = vector_BV.to(self.no_vector)
        absent_B1 = vector_BV.isnan().any(1, keepdim=True)
        known_BD = self.vector(vector_BV.masked_fill(absent_B1, 0.0))
        return torch.where(absent_B1, self.no_vector, known_BD)[:, None, None]


class PositionLinear(nn.Linear):
    """A linear map of what holds at a position, for a layer that adds it: at the resolution of that layer."""

    resolution: int = 1  # 1 at full resolution, 2 after one stride of two, ...

    def __init__(self, num_in: int, num_features: int):
        super().__init__(num_in, num_features, bias=False)


Features = dict[PositionLinear, Tensor]  # what layers take of the context, by the linear map that made it


class ContextProjection(PositionLinear):
    """What one layer takes of the context (V of section 2.3, arXiv:1606.05328); a bias at each position."""


def projection(spec: ContextSpec, num_context: int, num_features: int) -> ContextProjection | None:
    """A layer's projection, or None for a model that is not conditioned."""
    return ContextProjection(num_context, num_features) if spec else None


def scaled_image(x_BCHW: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Levels to a network's inputs: on [-1, 1], channel-last, with a channel of ones."""
    scaled = x_BCHW.to(dtype).permute(0, 2, 3, 1) * (2 / (levels - 1)) - 1
    return F.pad(scaled, (0, 1), value=1.0)


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
    elif context is not None:
        for kind, value, built in (
            ("label", context.label_B, spec.num_classes > 0),
            ("vector", context.vector_BV, spec.vector_size > 0),
            ("image", context.image_BCHW, spec.image is not None),
            ("small image", context.small_BCHW, spec.small is not None),
        ):
            if value is not None and not built:
                raise UserError(f"a context {kind} is given to a model that is not conditioned on one; leave it out")
        if context.label_B is not None:
            _check_labels(context.label_B, spec.num_classes, batch)
        if context.vector_BV is not None:
            _check_vectors(context.vector_BV, spec.vector_size, batch)
        if context.image_BCHW is not None and spec.image is not None:
            _check_images(context.image_BCHW, spec.image, batch)
        if context.small_BCHW is not None and spec.small is not None:
            _check_images(context.small_BCHW, spec.small, batch)


def _check_labels(label_B: Tensor, num_classes: int, batch: int) -> None:
    if label_B.shape != (batch,) or label_B.is_floating_point():
        raise UserError(f"labels of shape {tuple(label_B.shape)} given for {batch} images; give one integer for each image")
    wrong = label_B[(label_B < ABSENT) | (label_B >= num_classes)]
    if len(wrong):
        raise UserError(f"label {int(wrong[0])} is out of range; this model knows 0..{num_classes - 1}, and -1 for no label")


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
