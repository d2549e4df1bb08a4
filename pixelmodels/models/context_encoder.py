"""How context reaches the layers: as feature maps, made once for each image, of which each layer has a projection of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelmodels.layers.base import Layer
from pixelmodels.models.context import ABSENT, Context, ContextBlend, ContextSpec, Given, whole_factors
from pixelmodels.shapes import ImageSpec

CONTEXT_FEATURES = 32  # D: features of the encoded context


class ImageEncoder(nn.Module):
    """A given image to features at every pixel of the model's images: two 3 x 3 convolutions, then its size is changed.

    A linear map of the image itself goes beside them, which keeps its levels exact. A summary of the whole image (a
    linear map of the mean) is added everywhere, so that all of it is seen from any pixel. An image that is absent is
    zeros in the channel of ones too, as the padding is: what comes of them is learned.
    """

    def __init__(self, spec: ImageSpec, model_spec: ImageSpec):
        super().__init__()
        self.spec, self.size = spec, model_spec.shape[1:]
        grow, shrink = whole_factors(spec, model_spec)
        num_features = CONTEXT_FEATURES
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
        return scaled_image(x_BCHW, self.spec, weight.dtype) * given_B111


class ContextEncoder(nn.Module):
    """Context to features `c_BHWD`, where H and W are 1 for what holds for the whole image.

    A label and an order are embeddings, a vector a linear map, a given image goes through convolutions; their features are
    added up. What is absent adds a learned null, but an order: without any it is the first.
    """

    def __init__(self, spec: ContextSpec, model_spec: ImageSpec):
        super().__init__()
        self.spec = spec
        if spec.num_classes:
            self.label = nn.Embedding(spec.num_classes + 1, CONTEXT_FEATURES)  # the last is the null
        if spec.vector_size:
            self.vector = nn.Linear(spec.vector_size, CONTEXT_FEATURES)
            self.no_vector = nn.Parameter(torch.randn(CONTEXT_FEATURES))
        self.image = ImageEncoder(spec.image, model_spec) if spec.image is not None else None
        self.small = ImageEncoder(spec.small, model_spec) if spec.small is not None else None
        if spec.num_orders > 1:
            self.order = nn.Embedding(spec.num_orders, CONTEXT_FEATURES)

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
        if self.spec.num_orders > 1:
            parts.append(self.encode_orders(context.order_B, batch))
        c_BHWD: Tensor = sum(parts[1:], parts[0])
        return c_BHWD

    def encode_labels(self, label_B: Tensor | None, batch: int) -> Tensor:
        """Labels to features; the null for -1."""
        device = self.label.weight.device
        label_B = torch.full((batch,), ABSENT, device=device) if label_B is None else label_B.to(device)
        c_BD: Tensor = self.label(label_B.long() % (self.spec.num_classes + 1))
        return c_BD[:, None, None]

    def encode_orders(self, order_B: Tensor | None, batch: int) -> Tensor:
        """Orders to features; order 0 for -1."""
        device = self.order.weight.device
        order_B = torch.zeros(batch, dtype=torch.long, device=device) if order_B is None else order_B.to(device).long().clamp(min=0)
        c_BD: Tensor = self.order(order_B)
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
    """A linear map of what holds at a position, for layers that add it, each an equal part: at their resolution."""

    resolution: int = 1  # 1 at full resolution, 2 after one stride of two, ...

    def __init__(self, num_in: int, num_features: int, *layers: Layer):
        super().__init__(num_in, num_features, bias=False)
        self.layers = layers  # in a tuple: not its children


Features = dict[PositionLinear, Tensor]  # what layers take of the context, by the linear map that made it


class ContextProjection(PositionLinear):
    """What one layer takes of the context (V of section 2.3, arXiv:1606.05328); a bias at each position."""


def projection(spec: ContextSpec, num_features: int, *layers: Layer) -> ContextProjection | None:
    """The projection of layers that add it (none: the wiring does), or None for a model that is not conditioned."""
    return ContextProjection(CONTEXT_FEATURES, num_features, *layers) if spec.has_features else None


def added_of(context: Features) -> dict[Layer, Tensor]:
    """What each layer adds of the context."""
    parts = ((linear.layers, value.chunk(max(len(linear.layers), 1), -1)) for linear, value in context.items())
    return {layer: part for layers, values in parts for layer, part in zip(layers, values, strict=False)}


def scaled_image(x_BCHW: Tensor, spec: ImageSpec, dtype: torch.dtype) -> Tensor:
    """Levels to a network's inputs: on [-1, 1], channel-last, with a channel of ones."""
    return F.pad(spec.scaled(x_BCHW.permute(0, 2, 3, 1), dtype), (0, 1), value=1.0)
