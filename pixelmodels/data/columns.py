"""The columns of Arrow and Parquet files that hold images and labels, and what is in them.

- **Images** are the bytes of image files (binary, or a struct with a field `bytes`, such as Hugging Face's images), or raw pixels: unsigned
  bytes in lists, in nested lists or in fixed-size binaries, rows after rows, whose shape a schema tells, or the options size and channels;
  where their column is named, lists of whole numbers 0..255 of any type. Raw pixels go on as a PPM or PGM file, which holds just them.
- **Labels** are whole numbers, booleans, texts, or dictionary-encoded ones of these; floats where they are whole.
- What a schema tells beside types is what Hugging Face's libraries write into it: features, with images, shapes and names of classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pixelmodels.data.decoding import BadImage
from pixelmodels.data.records import LABELS, Label, RecordSource
from pixelmodels.errors import UserError

IMAGES = (
    *("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "img_bytes"),
    *("image.bytes", "img.bytes"),  # as writers call the fields of a struct that they flatten
    *("bytes", "data", "content", "pixels"),
)
BYTES_AT_A_TIME = 64 << 20  # of images that are read together
ROWS_AT_A_TIME = 64
_HUGGING_FACE = b"huggingface"  # key of a schema's metadata
_MOST_TOLD = 12  # columns that an error names

Features = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Where the images and labels of a file are."""

    image: str
    label: str | None = None
    class_names: tuple[str, ...] = ()  # as the schema tells them
    shape: tuple[int, ...] | None = None  # of an image's pixels, (height, width, channels); None: the column holds image files
    channels_first: bool = False  # the pixels are stored as (channels, height, width)
    others: tuple[str, ...] = ()  # all columns but that of images

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [self.image] if self.label is None else [self.image, self.label]


def features_of(schema: pa.Schema) -> Features:
    """What Hugging Face's libraries wrote of each column of a schema; empty where it is not theirs."""
    try:
        told = json.loads((schema.metadata or {})[_HUGGING_FACE])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def choose(schema: pa.Schema, features: Features, source: RecordSource, file: str, wants_label: bool = True) -> Columns:
    """The columns of a file, as the options tell them or by their names and types; raises `UserError` where nothing can tell.

    Args: `wants_label`, whether labels are looked for, where they are wanted at all.
    """
    where = f"'{source.storage.uri(file)}'"
    types = {field.name: _storage_type(field.type) for field in schema}
    told = f"{', '.join(f'{name} ({kind})' for name, kind in list(types.items())[:_MOST_TOLD])}{', ...' if len(types) > _MOST_TOLD else ''}"
    image = source.image_column or _image_column(types, features)
    if image is None or image not in types:
        lacks = f"has no column '{source.image_column}'" if source.image_column else "has no column that is surely of images"
        raise UserError(f"{where} {lacks}; have {told or 'none'}: name one with --image-column")
    if len(types) < len(schema):
        twice = next(name for name in types if schema.names.count(name) > 1)
        raise UserError(f"{where} has several columns '{twice}'; give each a name of its own")
    if not _holds_images(types[image]) and not _holds_pixels(types[image]):
        needs = "give one of image files' bytes (binary, or a struct with a field 'bytes'), or of lists of 0..255, with --image-column"
        raise UserError(f"column '{image}' of {where} is of type {types[image]}, which holds no images; {needs}")
    shape, channels_first = _pixels_shape(types[image], features.get(image), source, f"column '{image}' of {where}")
    wants_label &= source.with_labels is not False
    label = None if not wants_label else source.label_column or _label_column(types, features)
    if label is not None and (label not in types or not _holds_labels(types[label])):
        lacks = f"has no column '{label}'" if label not in types else f"has labels of type {types[label]} in column '{label}'"
        raise UserError(f"{where} {lacks}; have {told}: name one of whole numbers or texts with --label-column, or leave it out")
    others = tuple(name for name in types if name != image)
    return Columns(image, label, _class_names(features.get(label or "")), shape, channels_first, others)


def contents(batch: pa.RecordBatch, columns: Columns, most_bytes: int) -> Iterator[tuple[bytes | BadImage, Label]]:
    """Image and label of each row of a batch; an image, or why there is none. Nothing is copied that has more than `most_bytes`."""
    labels = _labels(batch.column(columns.label), columns.class_names) if columns.label is not None else [None] * batch.num_rows
    images = _plain(batch.column(columns.image))
    for data, label in zip(_images(images, columns, most_bytes), labels, strict=True):
        if isinstance(label, BadImage):
            yield label, None
        else:
            yield data, label


def _images(images: pa.Array, columns: Columns, most_bytes: int) -> Iterator[bytes | BadImage]:
    paths = None
    if pa.types.is_struct(images.type):
        paths = images.field("path") if images.type.get_field_index("path") >= 0 else None
        is_there, images = images.is_valid(), _plain(images.field("bytes"))
    else:
        is_there = images.is_valid()
    for row in range(len(images)):
        value = images[row]
        if not is_there[row].as_py():
            yield BadImage("null", "empty")
        elif not value.is_valid:
            path = paths[row].as_py() if paths is not None else None
            only_path = BadImage(f"only a path ('{path}'), and no bytes of an image", "unreadable")
            yield BadImage("null", "empty") if path is None else only_path
        elif columns.shape is not None:
            yield _picture(value, columns)
        elif (size := len(value.as_buffer())) > most_bytes:
            yield BadImage(f"{size} bytes are too many for an image", "too large")
        else:
            yield value.as_py()


def _picture(value: pa.Scalar, columns: Columns) -> bytes | BadImage:
    """Raw pixels as an image file that holds just them."""
    height, width, channels = columns.shape or ()
    if pa.types.is_fixed_size_binary(value.type):
        pixels = np.frombuffer(value.as_buffer(), np.uint8)
    else:
        values = value.values
        while _is_list(values.type):
            if values.null_count:
                return BadImage("pixels that are null")
            values = values.flatten()
        if values.null_count:
            return BadImage("pixels that are null")
        pixels = values.to_numpy()
        if len(pixels) and not 0 <= pixels.min() <= pixels.max() <= 255:
            return BadImage(f"values from {pixels.min()} to {pixels.max()}, and pixels are 0..255")
        pixels = pixels.astype(np.uint8, copy=False)
    if len(pixels) != height * width * channels:
        return BadImage(f"{len(pixels)} values are no image of {height} x {width} pixels and {channels} channels")
    if columns.channels_first:
        pixels = pixels.reshape(channels, height, width).transpose(1, 2, 0)
    return f"P{5 if channels == 1 else 6}\n{width} {height}\n255\n".encode() + pixels.tobytes()


def _labels(column: pa.Array, class_names: Sequence[str]) -> list[Label | BadImage]:
    column = _plain(column)
    values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return [label_of(value, len(class_names)) for value in values.to_pylist()]


def label_of(value: object, num_classes: int = 0) -> Label | BadImage:
    """A label as it is told; None for null, an empty text and -1; or why it is none. Args: `num_classes`, where they are known, or 0."""
    if isinstance(value, float) and not math.isnan(value) and value.is_integer():
        value = int(value)
    if value is None or value in ("", -1) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int) and num_classes and not 0 <= value < num_classes:
        return BadImage(f"its label {value} is not one of {num_classes} classes")
    if isinstance(value, int):
        return int(value)  # of a boolean, too
    if isinstance(value, str):
        return value
    return BadImage(f"its label {str(value)[:40]!r} is neither a whole number nor a text (--labels False leaves labels out)")


def _image_column(types: Mapping[str, pa.DataType], features: Features) -> str | None:
    """The column of images; None where there is none, or several and none has a usual name."""
    able = [name for name, kind in types.items() if _holds_images(kind)]
    are_images = [name for name in able if _feature(features, name).get("_type") == "Image"]
    found = are_images or able
    return _by_name(found, IMAGES) or (found[0] if len(found) == 1 else None)


def _label_column(types: Mapping[str, pa.DataType], features: Features) -> str | None:
    able = [name for name, kind in types.items() if _holds_labels(kind)]
    are_classes = [name for name in able if _feature(features, name).get("_type") == "ClassLabel"]
    usual = _by_name(are_classes, LABELS) or _by_name(able, LABELS) or (are_classes[0] if len(are_classes) == 1 else None)
    if usual is None and not _by_name(able, ("x",)):  # x and y, both numbers, are a place
        return _by_name([name for name in able if not _is_floating(types[name])], ("y",))
    return usual


def _by_name(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Of some names the one that comes first among the usual ones, in any case of letters."""
    places = [(usual.index(name.casefold()), name) for name in names if name.casefold() in usual]
    return min(places)[1] if places else None


def _feature(features: Features, name: str) -> Mapping[str, Any]:
    found = features.get(name)
    return found if isinstance(found, dict) else {}


def _class_names(feature: object) -> tuple[str, ...]:
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _pixels_shape(kind: pa.DataType, feature: object, source: RecordSource, where: str) -> tuple[tuple[int, ...] | None, bool]:
    """Height, width and channels of raw pixels, and whether the channels are stored first; None where images are files."""
    if not _is_list(kind) and not pa.types.is_fixed_size_binary(kind):
        return None, False
    shape = feature.get("shape") if isinstance(feature, dict) else None
    shape = tuple(shape) if isinstance(shape, list) and all(isinstance(side, int) for side in shape) else _list_sizes(kind)
    if len(shape) not in (2, 3):
        if source.size is None or source.channels is None:
            needs = "give --size HEIGHT WIDTH and --channels 1 or 3, which say their shape"
            raise UserError(f"{where} holds raw pixels ({kind}); {needs}")
        shape = (*source.size, source.channels)
    shape = shape if len(shape) == 3 else (*shape, 1)
    channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    shape = (shape[1], shape[2], shape[0]) if channels_first else shape
    if shape[2] not in (1, 3) or min(shape) < 1 or (pa.types.is_fixed_size_binary(kind) and kind.byte_width != math.prod(shape)):
        raise UserError(
            f"{where} holds raw pixels ({kind}) that are no images shaped {shape}; give pixels of 1 or 3 channels, last or first"
        )
    return shape, channels_first


def _list_sizes(kind: pa.DataType) -> tuple[int, ...]:
    """Sizes of nested lists that have one each; empty where some have not."""
    sizes = []
    while _is_list(kind):
        if not pa.types.is_fixed_size_list(kind):
            return ()
        sizes.append(kind.list_size)
        kind = kind.value_type
    return tuple(sizes)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_bytes(kind.field(place).type)
    if _is_list(kind):
        return _holds_pixels(kind) and bool(pa.types.is_uint8(_innermost(kind)))
    return _is_bytes(kind) or bool(pa.types.is_fixed_size_binary(kind))


def _holds_pixels(kind: pa.DataType) -> bool:
    """Whether these are lists of whole numbers: boxes and points are such, too."""
    return _is_list(kind) and bool(pa.types.is_integer(_innermost(kind)))


def _innermost(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _holds_labels(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("is_integer", "is_boolean", "is_string", "is_large_string", "is_string_view", "is_floating", "is_null")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _is_floating(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind.value_type if pa.types.is_dictionary(kind) else kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _storage_type(kind: pa.DataType) -> pa.DataType:
    """A type without what a library calls it."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column
