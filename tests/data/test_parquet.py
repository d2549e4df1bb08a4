"""Parquet and Arrow files with a column of images, as several libraries write them, and what is said of bad ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from pixelmodels.data import DatasetConfig
from pixelmodels.data.records import pieces
from pixelmodels.data.sources import open_source
from pixelmodels.errors import UserError
from tests.data.reading import check_pictures, picture, png, read_all


def table(numbers: range, names: tuple[str, ...] = (), **columns: Any) -> pa.Table:
    """Images as Hugging Face's hub has them: a struct, and labels whose names the schema's metadata tell."""
    images = pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in numbers], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    made = pa.table({"image": images, "label": pa.array([i % 3 for i in numbers]), **columns})
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "int64"}}
    if names:
        features["label"] = {"_type": "ClassLabel", "names": list(names)}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def plain(numbers: range, **columns: Any) -> pa.Table:
    return pa.table({"image": [png(i) for i in numbers], **columns})


def write(folder: Path, name: str, made: pa.Table, **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, **options)
    return path


def test_files_as_the_hub_has_them(tmp_path: Path) -> None:
    write(tmp_path, "data/train-00000-of-00002.parquet", table(range(0, 7), ("ant", "bee", "cat")), row_group_size=3)
    write(tmp_path, "data/train-00001-of-00002.parquet", table(range(7, 12), ("ant", "bee", "cat")))
    write(tmp_path, "data/test-00000-of-00001.parquet", table(range(12, 16), ("ant", "bee", "cat")))
    (tmp_path / "README.md").write_text("about")
    found, names = read_all("parquet", tmp_path)
    assert names == ("ant", "bee", "cat")
    check_pictures(found, [*range(12, 16), *range(12)])
    assert [one.split for one in found] == ["test"] * 4 + ["train"] * 12
    assert [one.label for one in found] == [names[i % 3] for i in [*range(12, 16), *range(12)]]
    assert found[4].key == "data/train-00000-of-00002.parquet/0000000"
    assert found[-1].key == "data/train-00001-of-00002.parquet/0000004"
    without, none = read_all("parquet", tmp_path, labels=False, splits="hash")
    assert none == () and {(one.split, one.label) for one in without} == {(None, None)}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("train/0.parquet", "test/0.parquet", "valid/0.parquet"), ("test", "train", "validation")),
        (("split=train/0.parquet", "split=validation/0.parquet"), ("train", "validation")),
        (("x/Train.parquet", "x/TESTING.parquet"), ("test", "train")),
        (("imagenet-train-0.parquet", "imagenet-val-0.parquet"), ("train", "validation")),
        (("cifar/train2017/0.parquet", "cifar/val2017/0.parquet"), ("train", "validation")),
        (("a.parquet", "b.parquet"), (None, None)),
        (("train-0.parquet", "train-1.parquet"), (None, None)),  # as without splits: others are taken from train by hash
        (("test-data/train-0.parquet", "test-data/dev-0.parquet"), ("validation", "train")),
    ],
)
def test_splits_are_what_names_of_files_and_folders_say(files: tuple[str, ...], splits: tuple[str | None, ...], tmp_path: Path) -> None:
    for i, name in enumerate(files):
        write(tmp_path, name, plain(range(i, i + 1)))
    assert tuple(one.split for one in read_all("parquet", tmp_path)[0]) == splits


@pytest.mark.parametrize("name", ["extra-0.parquet", "train-test-0.parquet"])
@pytest.mark.parametrize("others", [("test", "train"), ("train",), ("test",)])
def test_a_file_of_no_split_beside_splits_is_told(others: tuple[str, ...], name: str, tmp_path: Path) -> None:
    for file in (*(f"{split}-0.parquet" for split in others), name):
        write(tmp_path, file, plain(range(1)))
    have = rf"of their own \({', '.join(others)}\), but the name of '{name}' says none, or several; .*--splits hash"
    with pytest.raises(UserError, match=have):
        read_all("parquet", tmp_path)
    assert len(read_all("parquet", tmp_path, splits="hash")[0]) == len(others) + 1


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array(["dog", "cat", "10", "dog"]), ("10", "cat", "dog")),
        (pa.array(["10", "9", "1", "9"], pa.large_string()), ("1", "9", "10")),
        (pa.array(["b", "a", "b", "c"]).dictionary_encode(), ("a", "b", "c")),
        (pa.array([3, 1, 0, 1], pa.uint8()), ("0", "1", "2", "3")),
        (pa.array([2.0, 0.0, float("nan"), None]), ("0", "1", "2")),
        (pa.array([True, False, True, None]), ("0", "1")),
        (pa.array([1, -1, None, 0]), ("0", "1")),
        (pa.array([None, None, None, None], pa.null()), ()),
        (pa.array(["same", "same", None, ""]), ()),  # one class alone tells nothing, unless it is asked for
    ],
)
def test_labels_of_every_kind(labels: pa.Array, names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", plain(range(4), label=labels))
    found, told = read_all("parquet", tmp_path)
    assert told == names and len(found) == 4 and not any(one.reason for one in found)
    values = labels.to_pylist()
    texts = [str(int(value)) if isinstance(value, float | bool) and value == value else str(value) for value in values]
    if names:
        assert [one.label for one in found] == [text if text in names else None for text in texts]
    if names or "same" in values:
        assert read_all("parquet", tmp_path, labels=True)[1] == (names or ("same",))
    else:
        with pytest.raises(UserError, match=r"has a label \(also there: 'label'\); name where they are with --label-column, or leave"):
            read_all("parquet", tmp_path, labels=True)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, 10**7], "label 10000000 .* is not one of a class"),
        ([0, 1, -7], "label -7 .* is not one of"),
        (["a", "b", "zebra"], "class of .* 'zebra' unknown; have a, b"),
    ],
)
def test_labels_that_are_no_classes_are_told(labels: list[Any], told: str, tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", plain(range(3), label=labels))
    if isinstance(labels[0], str):
        (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=told):
        read_all("parquet", tmp_path)


def test_a_damaged_label_puts_its_image_aside(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", table(range(4), ("ant", "bee")))  # label 2 is none of these
    write(tmp_path, "b.parquet", plain(range(2), label=[0.5, 1.0]))
    with pytest.raises(UserError, match=r"'a.parquet' and 'b.parquet' .* other names of classes"):
        read_all("parquet", tmp_path)
    assert [one.reason for one in read_all("parquet", tmp_path / "a.parquet")[0]] == ["", "", "its label 2 is not one of 2 classes", ""]
    found, _ = read_all("parquet", tmp_path / "b.parquet")
    assert [one.key for one in found] == ["b.parquet/0000000", "b.parquet/0000001"]  # a path may be the file itself
    assert "'0.5' is neither a whole number nor a text" in found[0].reason and found[1].reason == ""


def test_classes_are_named_by_a_file_beside(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", plain(range(3), label=[2, 0, 2]))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n\n")
    found, names = read_all("parquet", tmp_path)
    assert names == ("ant", "bee", "cat") and [one.label for one in found] == ["cat", "ant", "cat"]
    source = open_source(DatasetConfig(source="parquet", path=str(tmp_path)))
    assert source.arrange({"[null, 0]": "k", "[null, 2]": "l"}).news == {"label_names": ["ant", "bee", "cat"]}  # type: ignore[attr-defined]


def test_labels_in_the_names_of_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("label=dog/split=train/0.parquet", "label=cat/split=train/0.parquet", "label=cat/split=test/0.parquet")):
        write(tmp_path, name, plain(range(i, i + 1)))
    found, names = read_all("parquet", tmp_path)
    assert names == ("cat", "dog")
    assert [(one.split, one.label) for one in found] == [("test", "cat"), ("train", "cat"), ("train", "dog")]


@pytest.mark.parametrize("name", ["image", "IMG", "jpg", "png", "bytes", "image.bytes", "whatever"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct({"path": pa.string(), "bytes": pa.large_binary()})])
def test_the_column_of_images_is_found(name: str, kind: pa.DataType, tmp_path: Path) -> None:
    images = [{"bytes": png(i), "path": None} if pa.types.is_struct(kind) else png(i) for i in range(3)]
    write(tmp_path, "a.parquet", pa.table({"id": ["x", "y", "z"], name: pa.array(images, kind), "caption": ["c"] * 3}))
    check_pictures(read_all("parquet", tmp_path)[0], [0, 1, 2])


def test_columns_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", pa.table({"left": [png(0), png(1)], "right": [png(2), png(3)], "kind": ["u", "v"], "label": [5, 6]}))
    with pytest.raises(UserError, match=r"surely of images; have left \(binary\), right \(binary\), kind \(string\), .*--image-column"):
        read_all("parquet", tmp_path)
    found, names = read_all("parquet", tmp_path, image_column="right", label_column="kind")
    check_pictures(found, [2, 3])
    assert names == ("u", "v")
    for options, told in (
        ({"image_column": "middle"}, "has no column 'middle'; have left"),
        ({"image_column": "kind"}, "column 'kind' of .* is of type string, which holds no images"),
        ({"image_column": "left", "label_column": "sort"}, "has no column 'sort'; have left"),
        ({"image_column": "left", "label_column": "right"}, "has labels of type binary in column 'right'"),
    ):
        with pytest.raises(UserError, match=told):
            read_all("parquet", tmp_path, **options)
    with pytest.raises(UserError, match="-column 'x' has no meaning for source 'folder'; it is for parquet, huggingface, webdataset"):
        open_source(DatasetConfig(source="folder", path="x", image_column="x"))
    with pytest.raises(UserError, match="label column 'kind' has no meaning without labels"):
        open_source(DatasetConfig(source="parquet", path="x", label_column="kind", labels=False))


def test_what_is_no_image_is_put_aside(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {"bytes": png(0), "path": "a"},
        None,
        {"bytes": None, "path": "far/b.png"},
        {"bytes": None, "path": None},
        {"bytes": b"", "path": "c"},
    ]
    rows += [{"bytes": png(5)[:-40], "path": "d"}, {"bytes": bytes(8 * 200 + 1), "path": "e"}, {"bytes": png(7), "path": "f"}]
    write(tmp_path, "a.parquet", pa.table({"image": pa.array(rows, kind)}), row_group_size=3)
    found, _ = read_all("parquet", tmp_path, max_pixels=200)
    assert len(found) == 8
    check_pictures([found[0], found[7]], [0, 7])
    reasons = [one.reason for one in found[1:7]]
    assert reasons[:3] == ["null", "only a path ('far/b.png'), and no bytes of an image", "null"]
    assert reasons[3] == "an empty file" and "truncated" in reasons[4] and reasons[5] == "1601 bytes are too many for an image"


PIXELS = np.stack([picture(i) for i in range(3)])


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (pa.array([one.tobytes() for one in PIXELS], pa.binary(48)), {"size": (4, 4), "channels": 3}),
        (pa.array([one.ravel().tolist() for one in PIXELS], pa.list_(pa.uint8())), {"size": (4, 4), "channels": 3}),
        (pa.array([one.ravel().tolist() for one in PIXELS], pa.list_(pa.uint8(), 48)), {"size": (4, 4), "channels": 3}),
        (pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))), {"size": (4, 4), "channels": 3}),
        (pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 4), 4)), {}),
        (pa.array(PIXELS.transpose(0, 3, 1, 2).tolist(), pa.list_(pa.list_(pa.list_(pa.uint8(), 4), 4), 3)), {}),
    ],
)
def test_raw_pixels(column: pa.Array, options: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", pa.table({"pixels": column}))
    check_pictures(read_all("parquet", tmp_path, **options)[0], [0, 1, 2])
    if options:
        with pytest.raises(UserError, match=r"column 'pixels' of .* holds raw pixels .*; give --size HEIGHT WIDTH and --channels 1 or 3"):
            read_all("parquet", tmp_path)


def test_raw_pixels_that_are_no_image(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", pa.table({"pixels": pa.array([[1, 2, 3, 4], [1, 2, 3], [1, None, 3, 4], None], pa.list_(pa.uint8()))}))
    found, _ = read_all("parquet", tmp_path, size=(2, 2), channels=1)
    assert [one.reason for one in found] == ["", "3 values are no image of 2 x 2 pixels and 1 channels", "pixels that are null", "null"]
    write(tmp_path, "a.parquet", pa.table({"pixels": pa.array([bytes(5)], pa.binary(5))}))
    with pytest.raises(UserError, match=r"holds raw pixels \(fixed_size_binary\[5\]\) that are no images shaped \(2, 2, 1\)"):
        read_all("parquet", tmp_path, size=(2, 2), channels=1)
    write(tmp_path, "a.parquet", pa.table({"pixels": pa.array([[1, 2, 3, 4]], pa.list_(pa.int64()))}))
    with pytest.raises(UserError, match=r"no column that is surely of images; have pixels \(list<\w+: int64>\)"):
        read_all("parquet", tmp_path, size=(2, 2), channels=1)


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.uint16(), pa.int8()])
def test_pixels_as_pandas_writes_them(kind: pa.DataType, tmp_path: Path) -> None:
    """Lists of whole numbers of any type, where they are named."""
    pixels = [picture(i) // 2 for i in range(3)]
    column = pa.array([one.ravel().tolist() for one in pixels], pa.list_(kind))
    path = write(tmp_path, "a.parquet", pa.table({"image": column, "digit": [0, 1, 2]}))
    options: dict[str, Any] = {"image_column": "image", "size": (4, 4), "channels": 3}
    found, names = read_all("parquet", path, label_column="digit", **options)
    assert names == ("0", "1", "2")
    np.testing.assert_array_equal([one.pixels_HWC for one in found], pixels)
    nested = write(
        tmp_path, "b.parquet", pa.table({"image": pa.array([one.tolist() for one in pixels], pa.list_(pa.list_(pa.list_(kind))))})
    )
    np.testing.assert_array_equal([one.pixels_HWC for one in read_all("parquet", nested, **options)[0]], pixels)


def test_whole_numbers_that_are_no_pixels(tmp_path: Path) -> None:
    rows = [[0, 255, 3, 4], [0, 1, 2, 256], [-1, 0, 0, 0], [1, None, 3, 4], [1, 2, 3]]
    path = write(tmp_path, "a.parquet", pa.table({"boxes": pa.array(rows, pa.list_(pa.int64()))}))
    found, _ = read_all("parquet", path, image_column="boxes", size=(2, 2), channels=1)
    assert [one.reason for one in found] == [
        "",
        "values from 0 to 256, and pixels are 0..255",
        "values from -1 to 0, and pixels are 0..255",
        "pixels that are null",
        "3 values are no image of 2 x 2 pixels and 1 channels",
    ]
    with pytest.raises(UserError, match=r"holds raw pixels .*; give --size HEIGHT WIDTH and --channels 1 or 3"):
        read_all("parquet", path, image_column="boxes")


# --- Arrow ---


def write_arrow(path: Path, made: pa.Table, form: str, rows: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(str(path), made.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(made, max_chunksize=rows)
    return path


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"use_legacy_format": True}])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_arrow_streams_and_files(form: str, options: dict[str, Any], rows: int, tmp_path: Path) -> None:
    made = table(range(10), ("ant", "bee", "cat"), other=pa.array(["x", "y"] * 5).dictionary_encode())
    write_arrow(tmp_path / "train.arrow", made, form, rows, **options)
    write_arrow(tmp_path / "test.arrow", made.slice(3, 2), form, rows, **options)
    found, names = read_all("parquet", tmp_path)
    check_pictures(found, [3, 4, *range(10)])
    assert names == ("ant", "bee", "cat") and [one.label for one in found[2:]] == [names[i % 3] for i in range(10)]
    assert found[0].split == "test" and found[2].split == "train"


@pytest.mark.parametrize("form", ["file", "stream"])
def test_labels_whose_dictionaries_come_in_pieces(form: str, tmp_path: Path) -> None:
    """A batch of a stream may replace the dictionary; one of a file may add to it. Units begin in the middle of both."""
    count = 2 * 256 + 40
    labels = [f"kind {i // 100}" for i in range(count)]
    made = plain(range(count), label=pa.chunked_array([pa.array(labels[i : i + 64]).dictionary_encode() for i in range(0, count, 64)]))
    if form == "file":
        made = made.unify_dictionaries()
    write_arrow(tmp_path / "a.arrow", made, form, 64, emit_dictionary_deltas=form == "file")
    source = open_source(DatasetConfig(source="parquet", path=str(tmp_path)))
    assert len(source.units(source.listing())) == 3  # type: ignore[attr-defined]
    found, names = read_all("parquet", tmp_path)
    assert [one.label for one in found] == labels and len(names) == 6
    check_pictures(found, list(range(count)))


@pytest.mark.parametrize("name", ["a.feather", "a.ipc"])
def test_feather(name: str, tmp_path: Path) -> None:
    pyarrow.feather.write_feather(plain(range(5), label=["a", "b", "a", "b", "a"]), str(tmp_path / name))
    found, names = read_all("parquet", tmp_path)
    check_pictures(found, list(range(5)))
    assert names == ("a", "b")
    pyarrow.feather.write_feather(pa.table({"image": [png(0)]}), str(tmp_path / name), version=1)
    with pytest.raises(UserError, match=r"no whole Parquet or Arrow file .Feather of version 1"):
        read_all("parquet", tmp_path)


def messages(made: pa.Table) -> list[bytes]:
    """The encapsulated messages of a stream, made of pieces that Arrow's own writer gives: schema, then batches."""
    return [bytes(made.schema.serialize()), *(bytes(batch.serialize()) for batch in made.to_batches(max_chunksize=3))]


def test_a_stream_byte_by_byte_and_each_way_to_cut_it_off(tmp_path: Path) -> None:
    made = plain(range(6))
    end = struct.pack("<Ii", 0xFFFFFFFF, 0)
    parts = messages(made)
    path = tmp_path / "a.arrow"
    path.write_bytes(b"".join(parts) + end)
    check_pictures(read_all("parquet", tmp_path)[0], list(range(6)))
    path.write_bytes(b"".join(parts) + bytes(4))  # the end as writers before 0.15 marked it
    check_pictures(read_all("parquet", tmp_path)[0], list(range(6)))
    whole = b"".join(parts) + end
    for length in [
        0,
        1,
        3,
        4,
        7,
        8,
        100,
        len(parts[0]),
        len(parts[0]) + 5,
        len(parts[0]) + 50,
        len(whole) - 300,
        len(whole) - 8,
        len(whole) - 1,
    ]:
        path.write_bytes(whole[:length])
        with pytest.raises(
            UserError, match=r"^'.*a\.arrow' is no whole Parquet or Arrow file \(.*\); get it again, or take it out of the folder$"
        ):
            read_all("parquet", tmp_path)
    path.write_bytes(b"".join(parts[1:]) + end)
    with pytest.raises(UserError, match="it does not begin with a schema"):
        read_all("parquet", tmp_path)
    path.write_bytes(parts[0] + end)
    with pytest.raises(UserError, match="hold no rows"):
        read_all("parquet", tmp_path)


def test_damaged_streams_are_one_line_and_never_end_the_process(tmp_path: Path) -> None:
    """Bytes of the metadata and of the offsets changed, one at a time: a `UserError`, images put aside, or whole images."""
    whole = bytearray(b"".join(messages(plain(range(3), label=["a", "b", "c"]))) + struct.pack("<Ii", 0xFFFFFFFF, 0))
    path, rng, told = tmp_path / "a.arrow", np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_all("parquet", tmp_path)
        except UserError as error:
            told += 1
            assert "\n" not in str(error)
    assert told > 10


# --- units ---


@pytest.mark.parametrize(
    ("blocks", "units"),
    [
        ([], []),
        ([0, 0], []),
        ([10, 20], [(0, 2, 0, 30)]),
        ([100] * 5, [(0, 3, 0, 300), (3, 5, 0, 200)]),
        ([256, 1], [(0, 1, 0, 256), (1, 2, 0, 1)]),
        ([5, 4097, 7], [(0, 1, 0, 5), (1, 2, 0, 2048), (1, 2, 2048, 2048), (1, 2, 4096, 1), (2, 3, 0, 7)]),
    ],
)
def test_units(blocks: list[int], units: list[tuple[int, int, int, int]]) -> None:
    assert list(pieces(blocks)) == units


def test_very_large_blocks_are_read_in_eight_pieces() -> None:
    units = list(pieces([1_000_000]))
    assert len(units) == 8 and sum(rows for *_, rows in units) == 1_000_000


@pytest.mark.parametrize("form", ["parquet", "stream"])
def test_a_piece_of_a_large_row_group_has_its_rows(form: str, tmp_path: Path) -> None:
    """2,500 rows in one group: the second piece begins in the middle of it."""
    count = 2500
    made = pa.table({"image": pa.array([bytes([i % 251, i // 251, 3, 4]) for i in range(count)], pa.binary(4))})
    if form == "parquet":
        write(tmp_path, "a.parquet", made, row_group_size=count)
    else:
        write_arrow(tmp_path / "a.arrow", made, form, count)
    found, _ = read_all("parquet", tmp_path, size=(2, 2), channels=1)
    assert [one.key for one in found] == [f"a.{'parquet' if form == 'parquet' else 'arrow'}/{i:07d}" for i in range(count)]
    assert all(one.pixels_HWC is not None and one.pixels_HWC[0, :, 0].tolist() == [i % 251, i // 251] for i, one in enumerate(found))


# --- bad files ---


def test_bad_files_are_told_in_one_line(tmp_path: Path) -> None:
    def told(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match) as caught:
            read_all("parquet", tmp_path, **options)
        assert "\n" not in str(caught.value)

    (tmp_path / "README.md").write_text("x")
    told(r"has no Parquet or Arrow file \(1 other files, such as 'README.md'\); give a folder with files .parquet")
    path = tmp_path / "a.parquet"
    for content in (b"", b"x", b"PAR1", b"no parquet at all", b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(content)
        told(rf"'{path}' is no whole Parquet or Arrow file \(.*\); get it again, or take it out of the folder|'{path}' cannot be read")
    write(tmp_path, "a.parquet", plain(range(20)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    told("is no whole Parquet or Arrow file")
    path.write_bytes(whole[:40] + bytes(200) + whole[240:])
    told("is no whole Parquet or Arrow file|cannot be read")
    write(tmp_path, "a.parquet", plain(range(0)))
    told("hold no rows|no column that is surely of images")
    write(tmp_path, "a.parquet", pa.table({"x": [1], "y": ["z"]}))
    told(r"has no column that is surely of images; have x \(int64\), y \(string\)")
    write(tmp_path, "a.parquet", plain(range(2)))
    write(tmp_path, "b.parquet", pa.table({"img": [png(1)]}))
    told("'a.parquet' and 'b.parquet' of .* have different columns .images in columns 'image' and 'img'")
    write(tmp_path, "b.parquet", pa.Table.from_arrays([pa.array([png(1)]), pa.array([1]), pa.array([2])], ["image", "x", "x"]))
    told("has several columns 'x'")
    write(tmp_path, "b.parquet", plain(range(2), label=[0, 1]))
    told("labels in one of them only")
    assert len(read_all("parquet", tmp_path, labels=False)[0]) == 4
    (tmp_path / "b.parquet").unlink()
    write_arrow(tmp_path / "b.arrow", plain(range(2)), "file", 9)
    told("holds Parquet and Arrow files, which may be the same images twice")
    (tmp_path / "state.json").write_text("{}")
    told("save_to_disk wrote; give --source huggingface")
    (tmp_path / "x.csv").write_text("x")
    with pytest.raises(UserError, match=r"x.csv' has no Parquet or Arrow file \(1 other files, such as 'x.csv'\)"):
        read_all("parquet", tmp_path / "x.csv")
    with pytest.raises(UserError, match="'/no/such/place' does not exist"):
        read_all("parquet", "/no/such/place")
    with pytest.raises(UserError, match="source 'parquet' needs the folder with its files; give --path"):
        open_source(DatasetConfig(source="parquet"))


def test_test_images_may_have_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "train.parquet", plain(range(4), label=[0, 1, 2, 0]))
    write(tmp_path, "test.parquet", plain(range(4, 6)))
    found, names = read_all("parquet", tmp_path)
    assert names == ("0", "1", "2") and [one.label for one in found] == [None, None, "0", "1", "2", "0"]


def test_what_is_not_finished_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "part-0.parquet", plain(range(2)))
    write(tmp_path, "_temporary/0/part-1.parquet", plain(range(2)))
    write(tmp_path, ".part-2.parquet", plain(range(2)))
    (tmp_path / "_SUCCESS").write_bytes(b"")
    source = open_source(DatasetConfig(source="parquet", path=str(tmp_path)))
    assert source.listing().num_hidden == 3  # type: ignore[union-attr]
    assert len(read_all("parquet", tmp_path)[0]) == 2


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_files_whose_numbers_say_that_others_are_missing_are_told(ending: str, tmp_path: Path) -> None:
    for number in (0, 2, 3):
        made = table(range(3))
        path = tmp_path / f"train-{number:05d}-of-00005.{ending}"
        pq.write_table(made, path) if ending == "parquet" else pa.feather.write_feather(made, path)
    with pytest.raises(UserError, match=r"2 of the 5 files '.*train-\*-of-00005' are missing \(number 1, say\); get them too"):
        read_all("parquet", tmp_path)


def test_splits_without_train_are_told(tmp_path: Path) -> None:
    for name in ("validation-0.parquet", "test-0.parquet"):
        write(tmp_path, name, table(range(3)))
    with pytest.raises(UserError, match=r"splits of their own \(test, validation\), and none is train; .* or give --splits hash"):
        read_all("parquet", tmp_path)
    found, _ = read_all("parquet", tmp_path, splits="hash")
    assert {one.split for one in found} == {None}


def test_labels_of_folders_are_unpacked_as_hive_packs_them(tmp_path: Path) -> None:
    for number, label in enumerate(("hot%20dog", "a%2Fb", "__HIVE_DEFAULT_PARTITION__")):
        write(tmp_path, f"label={label}/0.parquet", plain(range(number, number + 1)))
    found, names = read_all("parquet", tmp_path, labels=True)
    assert names == ("a/b", "hot dog") and {one.key.split("/")[0][6:]: one.label for one in found} == {
        "hot%20dog": "hot dog",
        "a%2Fb": "a/b",
        "__HIVE_DEFAULT_PARTITION__": None,
    }


def test_texts_without_number_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelmodels.data.records.LARGEST_CLASS", 3)
    write(tmp_path, "a.parquet", plain(range(5), label=[f"a caption {i}" for i in range(5)]))
    with pytest.raises(UserError, match=r"labels of '.*' are 5 different texts \('a caption 0', say\), too many for classes; name another"):
        read_all("parquet", tmp_path)


def test_a_unit_of_an_arrow_file_reads_its_own_batches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plain(range(40))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as stream, pa.ipc.new_stream(stream, made.schema) as writer:
        for batch in made.to_batches(max_chunksize=4):
            writer.write_batch(batch)
    monkeypatch.setattr("pixelmodels.data.records.ROWS_PER_UNIT", 4)
    source = open_source(DatasetConfig(source="parquet", path=str(tmp_path)))
    units = source.units(source.listing())  # type: ignore[union-attr,arg-type]
    monkeypatch.setattr("pixelmodels.data.arrow_files.outline", None)  # all messages are looked at once, before
    assert len(units) == 10 and [one.key for unit in units for one in source.read(unit)][-1] == "a.arrow/0000039"  # type: ignore[union-attr,arg-type]


def remarks(path: Path, **options: Any) -> tuple[str, ...]:
    source = open_source(DatasetConfig(source="parquet", path=str(path), **options))
    images = [image for unit in source.units(source.listing()) for image in source.read(unit)]  # type: ignore[union-attr]
    return source.arrange({image.group: image.key for image in images}).remarks  # type: ignore[union-attr]


def test_columns_that_are_not_taken_are_told(tmp_path: Path) -> None:
    end = "--image-column and --label-column name others"
    pictures = [png(i) for i in range(4)]
    made = pa.table({"photo": pictures, "thumb": pictures, "species": ["a", "b", "a", "b"], "void": pa.nulls(4, pa.int64())})
    path = write(tmp_path, "a.parquet", made)
    assert remarks(path) == (f"images are taken from column 'photo', without labels (also there: 'thumb', 'species', 'void'); {end}",)
    assert remarks(path, label_column="species") == () == remarks(path, labels=False)
    with pytest.raises(UserError, match=r"no image of .* has a label in 'void' \(also there: 'thumb', 'species', 'void'\)"):
        remarks(path, label_column="void")
    assert remarks(write(tmp_path, "b.parquet", plain(range(4)))) == (
        f"images are taken from column 'image', without labels (nothing else is there); {end}",
    )
    same = write(tmp_path, "c.parquet", plain(range(4), label=["x"] * 4))
    assert remarks(same) == ("no labels are taken: all are 'x'; --labels True takes them",)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"y": ["a", "b", "b"]}, ("a", "b")),
        ({"Y": [0, 1, 1]}, ("0", "1")),
        ({"y": [0, 1, 2], "class": ["u", "v", "u"]}, ("u", "v")),  # the usual names come first
        ({"x": [5, 6, 7], "y": [0, 1, 2]}, ()),  # a place
        ({"y": [0.5, 1.0, 2.0]}, ()),  # what something is worth
    ],
)
def test_y_is_a_label_where_it_can_be_one(columns: dict[str, Any], names: tuple[str, ...], tmp_path: Path) -> None:
    assert read_all("parquet", write(tmp_path, "a.parquet", plain(range(3), **columns)))[1] == names


def test_what_was_noted_before_y_was_a_label_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "a.parquet", plain(range(3), y=["a", "b", "b"]))
    every = ({}, {"labels": True}, {"labels": False}, {"label_column": "y"})
    sources = [open_source(DatasetConfig(source="parquet", path=str(path), **options)) for options in every]  # type: ignore[arg-type]
    now = [source.listing().digest for source in sources]  # type: ignore[union-attr]
    monkeypatch.setattr("pixelmodels.data.arrow_files.ArrowSource.newer_labels", ())
    before = [source.listing().digest for source in sources]  # type: ignore[union-attr]
    assert [one == other for one, other in zip(now, before, strict=True)] == [False, False, True, True]
