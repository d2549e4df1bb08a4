"""Parquet shards: columns `image` (binary, uint8 levels, row-major H,W,C), `label` (int32, null: none) and `key` (string).

Where a data set has a vector for each image there is a column `vector` (float32, a list of fixed size, null: none) too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

ROWS_PER_GROUP = 512  # of a Parquet file: what a reader has to decompress at a time


def encode_shard(
    images_NHWC: UInt8, labels: Sequence[int | None], keys: Sequence[str], levels: int, vectors_NV: Float32 | None = None
) -> bytes:
    """One Parquet file; its schema metadata gives height, width, channels, levels and the layout. The same rows give the same bytes."""
    num, height, width, channels = images_NHWC.shape
    metadata = {
        "height": str(height),
        "width": str(width),
        "channels": str(channels),
        "levels": str(levels),
        "layout": "image: uint8, row-major (height, width, channels), values 0..levels-1",
    }
    schema = pa.schema([pa.field("image", pa.binary(), False), ("label", pa.int32()), pa.field("key", pa.string(), False)], metadata)
    rows = np.ascontiguousarray(images_NHWC).reshape(num, -1)
    columns = [pa.array([row.tobytes() for row in rows], pa.binary()), pa.array(labels, pa.int32()), pa.array(keys, pa.string())]
    if vectors_NV is not None:
        size = vectors_NV.shape[1]
        schema = schema.append(pa.field("vector", pa.list_(pa.float32(), size))).with_metadata({**metadata, "vector_size": str(size)})
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors_NV.astype(np.float32).ravel()), size))
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


def columns_of(vector_size: int, *others: str) -> list[str]:
    """Columns that hold the images of a data set with vectors of a length (0: none), and `others`."""
    return ["image", "label", *others, *(["vector"] if vector_size else [])]


def decode_shard(
    data: bytes, shape_CHW: tuple[int, int, int], vector_size: int = 0
) -> tuple[UInt8, npt.NDArray[np.int32], Float32 | None, list[str]]:
    """Images N,C,H,W, labels (-1: none), vectors N,V (None: of length 0) and keys of one Parquet file."""
    table = pq.read_table(pa.BufferReader(data), columns=columns_of(vector_size, "key"))
    vectors_NV = decode_vectors(table["vector"], vector_size) if vector_size else None
    return decode_rows(table["image"], shape_CHW), decode_labels(table["label"]), vectors_NV, table["key"].to_pylist()


def decode_rows(images: pa.Array | pa.ChunkedArray | npt.NDArray[np.object_] | Sequence[bytes], shape_CHW: tuple[int, int, int]) -> UInt8:
    """A column of `image` values as an array N,C,H,W of its own.

    Args: `images` as pyarrow, numpy or a list gives them; `shape_CHW` is (channels, height, width), as `ImageSpec.shape`.
    Raises `ValueError` when an image has another number of bytes.
    """
    channels, height, width = shape_CHW
    size = channels * height * width
    values = images.to_pylist() if isinstance(images, pa.Array | pa.ChunkedArray) else list(images)
    for value in values:
        if len(value) != size:
            raise ValueError(f"an image of {len(value)} bytes, where {height} x {width} x {channels} = {size} were expected")
    flat = np.frombuffer(b"".join(values), np.uint8)
    return flat.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).copy()


def decode_labels(labels: pa.Array | pa.ChunkedArray | npt.ArrayLike) -> npt.NDArray[np.int32]:
    """A column of `label` values as int32, with -1 for an image that has none."""
    values = labels.to_pylist() if isinstance(labels, pa.Array | pa.ChunkedArray) else np.asarray(labels).tolist()
    # pandas and numpy hold a column with nulls as floating-point numbers with NaN.
    return np.asarray([-1 if value is None or value != value else value for value in values], np.int32)


def decode_vectors(vectors: pa.Array | pa.ChunkedArray, vector_size: int) -> Float32:
    """A column of `vector` values as float32 N,V, with NaN for an image that has none; `ValueError` for another length."""
    chunks = vectors.chunks if isinstance(vectors, pa.ChunkedArray) else [vectors]
    rows_NV = np.full((len(vectors), vector_size), np.nan, np.float32)
    start = 0
    for chunk in chunks:
        has_vector = start + np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
        values = chunk.flatten()  # without those of nulls
        if len(values) != len(has_vector) * vector_size:
            raise ValueError(f"vectors of {len(values)} values in all, where {len(has_vector)} x {vector_size} were expected")
        rows_NV[has_vector] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False).reshape(-1, vector_size)
        start += len(chunk)
    return rows_NV
