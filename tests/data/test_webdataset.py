"""Tar shards that `webdataset` and `tarfile` write and that are made byte by byte, and what is said of bad ones."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixelmodels.data import DatasetConfig
from pixelmodels.data.sources import open_source
from pixelmodels.errors import UserError
from tests.data.reading import check_pictures, picture, png, read_all

Members = list[tuple[str, bytes]]


def header(name: str, size: int, kind: bytes = b"0", link: str = "") -> bytes:
    """A header of POSIX's ustar: fields of fixed width, numbers in octal, the checksum with blanks in its own place."""
    fields = [name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", f"{size:011o}\0".encode(), b"00000000000\0"]
    fields += [b" " * 8, kind, link.encode().ljust(100, b"\0"), b"ustar\x0000", bytes(32), bytes(32), b"0000000\0", b"0000000\0"]
    data = b"".join(fields).ljust(512, b"\0")
    return data[:148] + f"{sum(data):06o}\0 ".encode() + data[156:]


def member(name: str, data: bytes, kind: bytes = b"0", link: str = "") -> bytes:
    return header(name, len(data), kind, link) + data + bytes(-len(data) % 512)


END = bytes(1024)


def shard(path: Path, members: Members, end: bytes = END) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(member(name, content) for name, content in members) + end
    path.write_bytes(gzip.compress(data) if path.name.endswith("gz") else data)
    return path


def samples(numbers: range, label: Callable[[int], Members] = lambda i: [("cls", str(i % 3).encode())]) -> Members:
    return [(f"{i:06d}.{ending}", data) for i in numbers for ending, data in [("png", png(i)), *label(i)]]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_shards_byte_by_byte(ending: str, tmp_path: Path) -> None:
    shard(tmp_path / f"train-000000.{ending}", samples(range(5)))
    shard(tmp_path / f"train-000001.{ending}", samples(range(5, 8)))
    shard(tmp_path / f"val-000000.{ending}", samples(range(8, 10)))
    found, names = read_all("webdataset", tmp_path)
    check_pictures(found, list(range(10)))
    assert names == ("0", "1", "2") and [one.label for one in found] == [str(i % 3) for i in range(10)]
    assert [one.split for one in found] == ["train"] * 8 + ["validation"] * 2
    assert found[5].key == f"train-000001.{ending}/000005"
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    found, names = read_all("webdataset", tmp_path)
    assert names == ("ant", "bee", "cat") and [one.label for one in found] == [names[i % 3] for i in range(10)]
    assert read_all("webdataset", tmp_path, labels=False)[1] == ()
    one, _ = read_all("webdataset", tmp_path / f"train-000001.{ending}")
    check_pictures(one, [5, 6, 7])


@pytest.mark.parametrize("compress", [False, True])
def test_shards_that_the_library_writes(compress: bool, tmp_path: Path) -> None:
    import webdataset

    pattern = str(tmp_path / f"train-%06d.tar{'.gz' if compress else ''}")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for i in range(10):
            writer.write(
                {"__key__": f"part/{i:04d}", "png": picture(i), "json": {"label": i % 2, "id": i}, "txt": "a caption", "npy": picture(i)}
            )
    assert len(list(tmp_path.iterdir())) == 3
    found, names = read_all("webdataset", tmp_path)
    check_pictures(found, list(range(10)))
    assert names == ("0", "1") and [one.label for one in found] == [str(i % 2) for i in range(10)]
    assert found[4].key.endswith("/part/0004")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_every_length_and_kind(form: int, tmp_path: Path) -> None:
    bases = [
        "./a",
        "b/c/d",
        "x y",
        "x" * 120 if form != tarfile.USTAR_FORMAT else "x",
        "ü" if form != tarfile.USTAR_FORMAT else "u",
        "with.dots/e",
    ]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for number, base in enumerate(bases):
            info = tarfile.TarInfo(f"{base}.PNG")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
    found, _ = read_all("webdataset", tmp_path)
    check_pictures(found, list(range(len(bases))))
    assert [one.key for one in found] == [f"a.tar/{base}" for base in bases]


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (lambda i: [("cls", b" 7\n" if i else b"-1")], ("0", "1", "2", "3", "4", "5", "6", "7")),
        (lambda i: [("cls", b"dog" if i else b"cat")], ("cat", "dog")),
        (lambda i: [("cls", b"010" if i else b"007")], ("007", "010")),  # names, as of folders: 7 would be another class
        (lambda i: [("json", json.dumps({"id": 9, "class_name": "dog" if i else "cat"}).encode())], ("cat", "dog")),
        (lambda i: [("json", json.dumps({"label": i % 2}).encode()), ("cls", b"%d" % (i % 3))], ("0", "1", "2")),  # .cls comes first
        (lambda i: [("txt", b"%d" % i)], ()),
        (lambda i: [("cls.pyd", pickle.dumps(i)), ("pkl", pickle.dumps(i))], ()),
        (lambda i: [("json", b"[1, 2]")], ()),
        (lambda i: [("json", b'{"labels": [{"box": 1}], "category": %d}' % (i % 2))], ("0", "1")),
    ],
)
def test_labels(label: Callable[[int], Members], names: tuple[str, ...], tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", samples(range(4), label))
    found, told = read_all("webdataset", tmp_path)
    assert told == names
    check_pictures(found, list(range(4)))


def test_labels_that_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", samples(range(4), lambda i: [("txt", b"t%d" % i), ("cls", b"0"), ("json", b'{"sort": "s%d"}' % (i % 2))]))
    assert read_all("webdataset", tmp_path, label_column="txt")[1] == ("t0", "t1", "t2", "t3")
    assert read_all("webdataset", tmp_path, label_column="sort")[1] == ("s0", "s1")
    shard(tmp_path / "b.tar", samples(range(2), lambda i: [("json", b'{"boxes": "x"}' if i else b'{"boxes": [1]}')]))
    assert "'[1]' is neither" in read_all("webdataset", tmp_path, label_column="boxes")[0][4].reason
    with pytest.raises(UserError, match=r"no image of .* has a label"):
        read_all("webdataset", tmp_path, label_column="other", labels=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (("cls", b"\xff\xfe"), "its label is no text"),
        (("cls", bytes(5000)), "5000 bytes are too many"),
        (("json", b"{"), "its .json is no JSON"),
        (("json", b"[" * 100_000), "its .json is no JSON"),
        (("json", b'{"label": 0.5}'), "its label '0.5' is neither a whole number nor a text (--labels False leaves labels out)"),
    ],
)
def test_a_damaged_label_puts_its_image_aside(content: tuple[str, bytes], reason: str, tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", samples(range(3), lambda i: [content] if i == 1 else [("cls", b"%d" % i)]))
    found, _ = read_all("webdataset", tmp_path)
    assert [one.reason for one in found] == ["", reason, ""]
    check_pictures(read_all("webdataset", tmp_path, labels=False)[0], [0, 1, 2])


def test_which_member_is_the_image(tmp_path: Path) -> None:
    members = [("a.jpg.txt", b"no"), ("a.depth.png", png(8)), ("a.png", png(0)), ("b.input.png", png(1)), ("b.cls", b"1")]
    shard(tmp_path / "a.tar", members)
    check_pictures(read_all("webdataset", tmp_path)[0], [0, 1])
    found, _ = read_all("webdataset", tmp_path, image_column="depth.png")
    check_pictures(found[:1], [8])
    assert found[1].reason == "no image among its members (input.png, cls)"
    for pair in ("jpg", "png"), ("left.png", "right.png"):
        shard(tmp_path / "a.tar", [(f"a.{ending}", png(3)) for ending in pair])
        told = rf"sample 'a' of '.*a.tar' has several images \({pair[0]}, {pair[1]}\); say which with --image-column"
        with pytest.raises(UserError, match=told):
            read_all("webdataset", tmp_path)
        check_pictures(read_all("webdataset", tmp_path, image_column=pair[1])[0], [3])
    shard(tmp_path / "a.tar", [(f"a.{i}.png", png(3)) for i in range(1000)])
    with pytest.raises(UserError, match="has several images"):
        read_all("webdataset", tmp_path)


def test_what_is_no_image_is_put_aside_and_named(tmp_path: Path) -> None:
    data = b"".join(
        [
            member("ok.png", png(0)),
            member("README", b"text"),
            member("link.png", b"", b"2", "/etc/passwd"),
            member("hard.png", b"", b"1", "ok.png"),
            member("device.png", b"", b"3"),
            member("folder.png/", b"", b"5"),
            member("._ok.png", b"Mac OS X"),
            member("empty.png", b""),
            member("cut.png", png(1)[:-40]),
            member("large.png", bytes(8 * 200 + 1)),
            member("label.cls", b"1"),
            member("twice.png", png(2)),
            member("twice.png", png(3)),
            member("ok.cls", b"2"),  # out of order
        ]
    )
    (tmp_path / "a.tar").write_bytes(data + END)
    found, _ = read_all("webdataset", tmp_path, max_pixels=200)
    reasons = {one.key.removeprefix("a.tar/"): one.reason for one in found}
    link = "a link, a device or the like, and no file"
    assert reasons.pop("empty") and "truncated" in reasons.pop("cut")
    assert reasons == {
        "ok": "",
        "README": "no image among its members (none with an ending)",
        **dict.fromkeys(("link", "hard", "device"), link),
        "large": "1601 bytes are too many",
        "label": "no image among its members (cls)",
        "twice": "two of its members are called '.png'",
        "ok#10": "its members do not follow one another, or two samples have its name",
    }


def test_shards_that_are_not_whole_are_told(tmp_path: Path) -> None:
    def told(data: bytes, match: str) -> None:
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(UserError, match=rf"^'.*a\.tar' is no whole tar shard \(.*{match}.*\); get it again, or take it out"):
            read_all("webdataset", tmp_path)

    whole = b"".join(member(name, data) for name, data in samples(range(4)))
    first = len(member("000000.png", png(0)))
    told(b"", "")
    told(b"no tar at all", "")
    told(whole, "cut off")  # in which the end mark lacks
    for length in (100, 512, 600, first, first + 100, first + 512, len(whole) - 100):
        told(whole[:length], "")
    told(whole[:first] + b"\xff" * 512 + whole[first + 512 :] + END, "")
    told(whole + END + whole + END, "goes on after its end mark")
    packed = gzip.compress(whole + END)
    told(packed[:-200], "")
    told(packed[: len(packed) // 2], "")
    told(packed[:-8] + bytes(8), "")
    told(member("long.png", b"x" * ((1 << 20) + 1), b"L") + END, "a header of 1048577 bytes")
    told(member("pax", b"x" * ((1 << 20) + 1), b"x") + END, "a header of 1048577 bytes")
    negative = bytearray(header("a.png", 0))
    negative[124:136] = (b"\xff" * 11) + b"\x00"  # -256, in base 256
    negative[148:156] = f"{sum(negative[:148]) + 8 * 32 + sum(negative[156:]):06o}\0 ".encode()
    told(bytes(negative) + END, "a header of -256 bytes")
    (tmp_path / "a.tar").write_bytes(END)
    assert read_all("webdataset", tmp_path)[0] == []


def test_damaged_shards_are_one_line(tmp_path: Path) -> None:
    """Bytes of headers changed, one at a time: one line, or each sample is there or put aside."""
    whole = b"".join(member(name, data) for name, data in samples(range(3))) + END
    rng = np.random.default_rng(0)
    for place in rng.choice(512, 200, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "a.tar").write_bytes(damaged)
        try:
            found, _ = read_all("webdataset", tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert len(found) >= 3


def test_folders_without_shards_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match=r"has no tar shard \(1 other files, such as 'x.txt'\); give a folder with files .tar, .tar.gz"):
        read_all("webdataset", tmp_path)
    shard(tmp_path / "a.tar", samples(range(2)))
    (tmp_path / "b.tar.zst").write_bytes(b"x")
    with pytest.raises(UserError, match=r"b.tar.zst' is packed in a way that is not read; give it as .tar or .tar.gz"):
        read_all("webdataset", tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A member of 64 MiB in a few kilobytes of gzip is passed over."""
    options: dict[str, Any] = {"max_pixels": 1000}
    shard(tmp_path / "a.tar.gz", [("bomb.png", bytes(64 << 20)), *samples(range(1))])
    assert (tmp_path / "a.tar.gz").stat().st_size < 200_000
    found, _ = read_all("webdataset", tmp_path, **options)
    assert found[0].reason == "67108864 bytes are too many"
    check_pictures(found[1:], [0])


def test_a_label_that_nothing_has_is_told(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", samples(range(3), lambda i: [("cls", b"0"), ("json", b'{"species": "s%d", "id": 1}' % i)]))
    with pytest.raises(UserError, match=r"no image of .* has a label in 'specis' \(also there: 'cls', 'species', 'id'\); name where"):
        read_all("webdataset", tmp_path, label_column="specis")


def remarks(path: Path, **options: Any) -> tuple[str, ...]:
    source = open_source(DatasetConfig(source="webdataset", path=str(path), **options))
    images = [image for unit in source.units(source.listing()) for image in source.read(unit)]  # type: ignore[union-attr]
    return source.arrange({image.group: image.key for image in images}).remarks  # type: ignore[union-attr]


def test_labels_that_are_not_taken_are_told(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", samples(range(3), lambda i: [("txt", b"x"), ("json", b'{"caption": "same", "id": %d}' % i)]))
    end = "--image-column and --label-column name others"
    assert remarks(tmp_path) == (f"images are taken from members '.png', without labels (also there: 'txt', 'caption', 'id'); {end}",)
    assert remarks(tmp_path, label_column="caption") == ("no labels are taken: all are 'same'; --labels True takes them",)
    assert (
        remarks(tmp_path, label_column="caption", labels=True)
        == ()
        == remarks(tmp_path, label_column="id")
        == remarks(tmp_path, labels=False)
    )
    shard(tmp_path / "a.tar", [(f"photos/{name}/1.png", png(i)) for i, name in enumerate("ab")])
    assert remarks(tmp_path) == (f"images are taken from members '.png', without labels (nothing else is there); {end}",)
    shard(tmp_path / "a.tar", [("0.txt", b"no image"), ("1.png", png(1)), ("1.txt", b"one")])
    assert remarks(tmp_path) == (f"images are taken from members '.png', without labels (also there: 'txt'); {end}",)
