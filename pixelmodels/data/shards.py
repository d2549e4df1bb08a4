"""Parquet shards: columns `image` (binary, uint8 levels, row-major H,W,C), `label` (int32, null: none) and `key` (string).

Where a data set has a vector for each image there is a column `vector` (float32, a list of fixed size, null: none) too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pixelmodels.data.quantization import UInt8
from pixelmodels.errors import listed

Float32 = npt.NDArray[np.float32]

ROWS_PER_GROUP = 512  # of a Parquet file: what a reader has to decompress at a time
IMAGES_PER_DRAW = 64  # drawing takes some 40 bytes for each sub-pixel


def encode_shard(
    images_NHWC: UInt8, labels: Sequence[int | None], keys: Sequence[str], levels: int, vectors_NV: Float32 | None = None
) -> bytes:
    """One Parquet file; its schema metadata gives height, width, channels, levels and the layout. The same rows give the same bytes."""
    num, size = len(images_NHWC), math.prod(images_NHWC.shape[1:])
    metadata = {
        **dict(zip(("height", "width", "channels", "levels"), map(str, (*images_NHWC.shape[1:], levels)), strict=True)),
        "layout": "image: uint8, row-major (height, width, channels), values 0..levels-1",
    }
    schema = pa.schema([pa.field("image", pa.binary(), False), ("label", pa.int32()), pa.field("key", pa.string(), False)], metadata)
    buffers = [None, *map(pa.py_buffer, (np.arange(num + 1, dtype=np.int32) * size, np.ascontiguousarray(images_NHWC)))]
    columns = [pa.Array.from_buffers(pa.binary(), num, buffers), pa.array(labels, pa.int32()), pa.array(keys, pa.string())]
    if vectors_NV is not None:
        length = vectors_NV.shape[1]
        schema = schema.append(pa.field("vector", pa.list_(pa.float32(), length))).with_metadata({**metadata, "vector_size": str(length)})
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors_NV.astype(np.float32).ravel()), length))
    stream = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema),
        stream,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=["label"],  # images and keys are all different
        write_statistics=["label", "key"],
    )
    return stream.getvalue()


def read_parquet(source: bytes | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns (all, unless given) of a Parquet file; raises `ValueError` where one of them is not there.

    It is read by the thread that asks for it, and is let go of by it. Arrow's `read_table` reads by threads of its own, which may still
    hold bytes of Python's when Python ends, and then abort the process.
    """
    is_held = isinstance(source, bytes)
    with pq.ParquetFile(pa.BufferReader(source) if is_held else source, pre_buffer=not is_held) as file:
        table = file.read(columns, use_threads=False)
    if missing := set(columns or ()).difference(table.column_names):
        raise ValueError(f"it has no column {listed(sorted(missing))}")
    return table


def columns_of(vector_size: int, *others: str) -> list[str]:
    """Columns that hold the images of a data set with vectors of a length (0: none), and `others`."""
    return ["image", "label", *others, *(["vector"] if vector_size else [])]


def decode_shard(
    data: bytes, shape_CHW: tuple[int, int, int], vector_size: int = 0
) -> tuple[UInt8, npt.NDArray[np.int32], Float32 | None, list[str]]:
    """Images N,C,H,W, labels (-1: none), vectors N,V (None: of length 0) and keys of one Parquet file."""
    table = read_parquet(data, columns_of(vector_size, "key"))
    vectors_NV = decode_vectors(table["vector"], vector_size) if vector_size else None
    return decode_rows(table["image"], shape_CHW), decode_labels(table["label"]), vectors_NV, table["key"].to_pylist()


def decode_rows(images: pa.Array | pa.ChunkedArray | npt.NDArray[np.object_] | Sequence[bytes], shape_CHW: tuple[int, int, int]) -> UInt8:
    """A column of `image` values as an array N,C,H,W of its own.

    Args: `images` as pyarrow, numpy or a list gives them; `shape_CHW` is (channels, height, width), as `ImageSpec.shape`.
    Raises `ValueError` when an image has another number of bytes.
    """
    channels, height, width = shape_CHW
    size = channels * height * width
    column = images if isinstance(images, pa.Array | pa.ChunkedArray) else pa.array(images, pa.binary())
    for length in pc.binary_length(column).unique().to_pylist():
        if length != size:
            raise ValueError(f"an image of {length} bytes, where {height} x {width} x {channels} = {size} were expected")
    images_NCHW = np.empty((len(column), *shape_CHW), np.uint8)
    stop = 0
    for chunk in _chunks(column):
        start, stop = stop, stop + len(chunk)
        fixed = chunk.cast(pa.binary(size))
        flat = np.frombuffer(fixed.buffers()[1], np.uint8, len(fixed) * size, fixed.offset * size)
        images_NCHW[start:stop] = flat.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return images_NCHW


def decode_labels(labels: pa.Array | pa.ChunkedArray | npt.ArrayLike) -> npt.NDArray[np.int32]:
    """A column of `label` values as int32, with -1 for an image that has none."""
    # pandas and numpy hold a column with nulls as floating-point numbers with NaN.
    column = labels if isinstance(labels, pa.Array | pa.ChunkedArray) else pa.array(np.asarray(labels), from_pandas=True)
    return pc.fill_null(column.cast(pa.int32()), -1).to_numpy(zero_copy_only=False).astype(np.int32)


def decode_vectors(vectors: pa.Array | pa.ChunkedArray, vector_size: int) -> Float32:
    """A column of `vector` values as float32 N,V, with NaN for an image that has none; `ValueError` for another length."""
    rows_NV = np.full((len(vectors), vector_size), np.nan, np.float32)
    start = 0
    for chunk in _chunks(vectors):
        has_vector = start + np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
        values = chunk.flatten()  # without those of nulls
        if len(values) != len(has_vector) * vector_size:
            raise ValueError(f"vectors of {len(values)} values in all, where {len(has_vector)} x {vector_size} were expected")
        rows_NV[has_vector] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False).reshape(-1, vector_size)
        start += len(chunk)
    return rows_NV


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return [chunk for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column]) if len(chunk)]
