"""What the images of a block are conditioned on, in front of their pixels: whatever the model is given, the decoder needs, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixelmodels.compression.range_coding import RangeDecoder, RangeEncoder
from pixelmodels.errors import UserError
from pixelmodels.models import Context, ContextSpec
from pixelmodels.models.context import ABSENT, check_context

KINDS = ("label_B", "vector_BV", "image_BCHW", "small_BCHW")  # in the order in which they are written; one bit each in a file
MOST_CLASSES = 2**16  # whose numbers are coded as symbols


def kinds_of(context: Context | None) -> int:
    """The kinds that a context gives: a bit for each."""
    return sum(1 << bit for bit, name in enumerate(KINDS) if getattr(context, name, None) is not None)


def most_kinds(spec: ContextSpec) -> int:
    """The kinds that a model can be given."""
    return sum(1 << bit for bit, asked in enumerate((spec.num_classes, spec.vector_size, spec.image, spec.small)) if asked)


def checked(context: Context | None, spec: ContextSpec, num: int) -> Context | None:
    """The context of `num` images in the types that it comes back in; raises `UserError` for what does not fit or cannot be stored."""
    check_context(context, spec, num)
    if context is None or not kinds_of(context):
        return None
    if spec.num_classes >= MOST_CLASSES and context.label_B is not None:
        raise UserError(f"labels of {spec.num_classes} classes cannot be stored; leave the labels out")
    vector_BV = context.vector_BV
    if vector_BV is not None:
        stored_BV = vector_BV.float()
        if not torch.equal(stored_BV.to(vector_BV.dtype).nan_to_num(), vector_BV.nan_to_num()):
            raise UserError("a vector has numbers that are no float32, in which they are stored; round them")
        vector_BV = torch.where(stored_BV.isnan(), torch.nan, stored_BV) + 0.0  # one NaN, one zero
    levels = (None if value is None else value.long() for value in (context.image_BCHW, context.small_BCHW))
    return Context(None if context.label_B is None else context.label_B.long(), vector_BV, *levels)


def write(context: Context | None, spec: ContextSpec, encoder: RangeEncoder) -> None:
    """Code a context that was `checked`: labels and levels as equally likely symbols, numbers of vectors as their bytes."""
    for name in KINDS:
        value = getattr(context, name, None)
        if value is not None:
            symbols, num = _symbols(value), _num_symbols(name, spec)
            encoder.put_uniform(symbols, num)


def read(kinds: int, spec: ContextSpec, num_images: int, decoder: RangeDecoder) -> Context | None:
    """The context of a block's images; raises what the decoder raises, and `UserError` for values that a context cannot have."""
    found: dict[str, Tensor] = {}
    for bit, name in enumerate(KINDS):
        if kinds >> bit & 1:
            shape = _shape(name, spec, num_images)
            count = int(np.prod(shape)) * (4 if name == "vector_BV" else 1)
            symbols = decoder.take_uniform(count, _num_symbols(name, spec))
            found[name] = _value(name, symbols, shape)
    context = Context(**found) if found else None
    check_context(context, spec, num_images)
    return context


def _num_symbols(name: str, spec: ContextSpec) -> int:
    if name == "label_B":
        return spec.num_classes + 1  # and none
    if name == "vector_BV":
        return 256
    image = spec.image if name == "image_BCHW" else spec.small
    assert image is not None
    return image.levels + 1


def _shape(name: str, spec: ContextSpec, num_images: int) -> tuple[int, ...]:
    image = spec.image if name == "image_BCHW" else spec.small
    if name == "label_B":
        return (num_images,)
    if name == "vector_BV":
        return num_images, spec.vector_size
    assert image is not None
    return num_images, *image.shape


def _symbols(value: Tensor) -> npt.NDArray[Any]:
    array = value.cpu().numpy()
    if value.is_floating_point():
        return np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8)
    return array.reshape(-1) - ABSENT


def _value(name: str, symbols: npt.NDArray[Any], shape: tuple[int, ...]) -> Tensor:
    if name == "vector_BV":
        return torch.from_numpy(symbols.astype(np.uint8).view("<f4").astype(np.float32).reshape(shape))
    return torch.from_numpy(symbols.astype(np.int64).reshape(shape) + ABSENT)
