from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelmodels.data.shards import decode_labels, decode_rows, decode_shard, decode_vectors, encode_shard, read_parquet


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 1000))
def test_shards_come_back(num: int, height: int, width: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images_NHWC = rng.integers(0, 256, (num, height, width, channels), dtype=np.uint8)
    labels = [None if rng.random() < 0.3 else int(rng.integers(10)) for _ in range(num)]
    keys = [f"ключ/{i}" for i in range(num)]
    data = encode_shard(images_NHWC, labels, keys, 256)
    images_NCHW, labels_N, vectors_NV, back = decode_shard(data, (channels, height, width))
    np.testing.assert_array_equal(images_NCHW.transpose(0, 2, 3, 1), images_NHWC)
    assert images_NCHW.flags.writeable and images_NCHW.flags.c_contiguous
    assert labels_N.tolist() == [-1 if label is None else label for label in labels] and labels_N.dtype == np.int32
    assert back == keys and vectors_NV is None
    assert encode_shard(images_NHWC, labels, keys, 256) == data


@pytest.mark.parametrize("columns", [None, ["v", "a"], ["b"], ["a"]])
def test_parquet_is_read_as_arrow_reads_it(columns: list[str] | None, tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6.0)), 2)
    table = pa.table({"a": [1, None, 3], "b": ["x", "yy", None], "v": vectors}, metadata={"levels": "4"})
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=2)
    data, expected = (tmp_path / "table.parquet").read_bytes(), pq.read_table(tmp_path / "table.parquet", columns=columns)
    with pa.OSFile(str(tmp_path / "table.parquet")) as stream:
        for found in (read_parquet(data, columns), read_parquet(stream, columns)):
            assert found.equals(expected, check_metadata=True)
    with pytest.raises(ValueError, match="it has no column 'c', 'd'"):
        read_parquet(data, ["d", "a", "c"])


def test_no_other_thread_ever_holds_bytes_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a thread lets go of them at some later time; where that is when Python ends, it aborts the process."""
    data = encode_shard(np.zeros((2, 2, 2, 1), np.uint8), [1, None], ["a", "b"], 4)
    monkeypatch.setattr(pq, "read_table", None)  # reads by threads of its own
    made: list[dict[str, object]] = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read", lambda file, *columns, **how: made.append(how) or read(file, *columns, **how))
    assert decode_shard(data, (1, 2, 2))[3] == ["a", "b"]
    assert made == [{"use_threads": False}]


def test_vectors_come_back_and_other_shards_stay_as_they_were() -> None:
    images_NHWC, labels, keys = np.zeros((3, 2, 2, 1), np.uint8), [None] * 3, ["a", "b", "c"]
    vectors_NV = np.array([[1.5, -2], [0.1, 3], [np.nan, np.nan]], np.float32)
    data = encode_shard(images_NHWC, labels, keys, 4, vectors_NV)
    np.testing.assert_array_equal(decode_shard(data, (1, 2, 2), 2)[2], vectors_NV)
    schema = pq.read_schema(io.BytesIO(data))
    assert schema.field("vector").type == pa.list_(pa.float32(), 2) and schema.metadata[b"vector_size"] == b"2"
    assert b"vector_size" not in pq.read_schema(io.BytesIO(encode_shard(images_NHWC, labels, keys, 4))).metadata


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)])
def test_vectors_decode_from_every_kind_of_list(kind: pa.DataType) -> None:
    rows = [[9, 9], [1, 2], None, [3, 4], [5, 6]]
    column = pa.chunked_array([pa.array(rows[:2], kind).slice(1), pa.array(rows[2:], kind)])
    expected = np.array([[1, 2], [np.nan, np.nan], [3, 4], [5, 6]], np.float32)
    np.testing.assert_array_equal(decode_vectors(column, 2), expected)
    with pytest.raises(ValueError, match="vectors of 2 values in all, where 1 x 3 were expected"):
        decode_vectors(column, 3)


def test_a_shard_is_plain_parquet() -> None:
    images_NHWC = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    file = pq.ParquetFile(io.BytesIO(encode_shard(images_NHWC, [7, None], ["a", "b"], 200)))
    schema = file.schema_arrow
    assert schema.names == ["image", "label", "key"]
    assert schema.types == [pa.binary(), pa.int32(), pa.string()]
    assert {key.decode(): value.decode() for key, value in schema.metadata.items() if key != b"layout"} == {
        "height": "3",
        "width": "4",
        "channels": "3",
        "levels": "200",
    }
    assert file.read().to_pylist() == [
        {"image": bytes(range(36)), "label": 7, "key": "a"},
        {"image": bytes(range(36, 72)), "label": None, "key": "b"},
    ]
    frame = file.read().to_pandas()
    np.testing.assert_array_equal(decode_rows(frame["image"].to_numpy(), (3, 3, 4)), images_NHWC.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(decode_labels(frame["label"].to_numpy()), [7, -1])


def test_rows_decode_from_arrow_numpy_and_lists() -> None:
    rows = [bytes([1, 2, 3, 4, 5, 6]), bytes([7, 8, 9, 10, 11, 12])]
    expected = np.array([[[[1, 3, 5]], [[2, 4, 6]]], [[[7, 9, 11]], [[8, 10, 12]]]], np.uint8)
    for column in (rows, pa.array(rows, pa.binary()), pa.chunked_array([rows[:1], rows[1:]]), np.array(rows, object)):
        np.testing.assert_array_equal(decode_rows(column, (2, 1, 3)), expected)
    assert decode_rows([], (2, 1, 3)).shape == (0, 2, 1, 3)
    with pytest.raises(ValueError, match="6 bytes"):
        decode_rows(rows, (1, 1, 3))
