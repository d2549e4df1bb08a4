"""Files of known sets, byte by byte from the formats' descriptions: small, with images of noise."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def noise(count: int, *shape: int, seed: int = 0, levels: int = 256) -> Bytes:
    return np.random.default_rng(seed).integers(0, levels, (count, *shape)).astype(np.uint8)


# --- IDX ---


def idx(values: Bytes) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def write_emnist(folder: Path, name: str, labels: Sequence[int], packed: bool = True) -> dict[str, Bytes]:
    """A set of EMNIST, whose images are 5 rows x 3 columns as one sees them; those are returned, N,H,W, by split."""
    made = {}
    for split, seed in (("train", 1), ("test", 2)):
        made[split] = noise(len(labels), 5, 3, seed=seed)
        for kind, values in (("images-idx3", made[split].transpose(0, 2, 1)), ("labels-idx1", np.array(labels, np.uint8))):
            data = idx(np.ascontiguousarray(values))
            path = folder / f"emnist-{name}-{split}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return made


# --- pickles as Python 2 wrote them, at protocol 2: the opcodes of pickletools ---


def short_string(text: bytes) -> bytes:
    return b"U" + struct.pack("<B", len(text)) + text


def string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + struct.pack("<B", value)
    return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)


def python2(value: Any) -> bytes:
    if isinstance(value, bytes):
        return short_string(value) if len(value) < 256 else string(value)
    if isinstance(value, int):
        return number(value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}q\x01(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\x09U\x01bq\x0a\x87Rq\x0b"
    dtype = b"cnumpy\ndtype\nq\x0cU\x02u1q\x0dK\x00K\x01\x87Rq\x0e(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(map(number, value.shape)) + {1: b"\x85", 2: b"\x86", 3: b"\x87"}[value.ndim]
    return made + b"(K\x01" + shape + dtype + b"\x89" + string(value.tobytes()) + b"tb"


def python2_pickle(value: Any) -> bytes:
    return b"\x80\x02" + python2(value) + b"."


# --- CIFAR ---


def write_cifar100(folder: Path, form: str) -> dict[str, Bytes]:
    """CIFAR-100, `binary` or `python`: image i is of the coarse class i mod 20 and the fine class 7i mod 100; images N,H,W,C by split."""
    made = {"train": noise(12, 32, 32, 3, seed=3), "test": noise(5, 32, 32, 3, seed=4)}
    names = {"fine": [f"fine_{i:02d}" for i in range(100)], "coarse": [f"coarse_{i:02d}" for i in range(20)]}
    for split, images_NHWC in made.items():
        rows_ND = images_NHWC.transpose(0, 3, 1, 2).reshape(len(images_NHWC), -1)
        coarse, fine = [i % 20 for i in range(len(rows_ND))], [7 * i % 100 for i in range(len(rows_ND))]
        if form == "binary":
            records = b"".join(bytes([one, other]) + row.tobytes() for one, other, row in zip(coarse, fine, rows_ND, strict=True))
            (folder / f"{split}.bin").write_bytes(records)
        else:
            files = [f"picture_s_{i:06d}.png".encode() for i in range(len(rows_ND))]
            batch = {b"filenames": files, b"batch_label": b"batch 1 of 1", b"fine_labels": fine, b"coarse_labels": coarse, b"data": rows_ND}
            (folder / split).write_bytes(python2_pickle(batch))
    if form == "binary":
        for kind, texts in names.items():
            (folder / f"{kind}_label_names.txt").write_text("\n".join(texts) + "\n\n")
    else:
        meta = {f"{kind}_label_names".encode(): [text.encode() for text in texts] for kind, texts in names.items()}
        (folder / "meta").write_bytes(python2_pickle(meta))
    return made


def write_cifar10_python(folder: Path, images_NHWC: dict[str, Bytes], labels: dict[str, list[int]], names: Sequence[str]) -> None:
    rows = {split: images.transpose(0, 3, 1, 2).reshape(len(images), -1) for split, images in images_NHWC.items()}
    size = len(rows["train"]) // 5
    for i in range(5):
        part = slice(i * size, (i + 1) * size)
        batch = {b"batch_label": f"training batch {i + 1} of 5".encode(), b"labels": labels["train"][part], b"data": rows["train"][part]}
        (folder / f"data_batch_{i + 1}").write_bytes(python2_pickle(batch))
    (folder / "test_batch").write_bytes(python2_pickle({b"labels": labels["test"], b"data": rows["test"]}))
    meta = {b"num_cases_per_batch": 10000, b"label_names": [name.encode() for name in names], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))


# --- MATLAB, level 5 ---


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(name: str, values: npt.NDArray[Any], stored: int, of_class: int) -> bytes:
    """An array, its first dimension running fastest; `stored` is the type of its values, `of_class` that of the matrix."""
    dimensions = values.shape if values.ndim > 1 else (len(values), 1)
    short_name = struct.pack("<2H", 1, len(name)) + name.encode().ljust(4, b"\0") if len(name) <= 4 else element(1, name.encode())
    inner = element(6, struct.pack("<2I", of_class, 0)) + element(5, struct.pack(f"<{len(dimensions)}i", *dimensions)) + short_name
    return element(14, inner + element(stored, values.tobytes(order="F")))


def matlab_file(*matrices: bytes, compress: bool = True) -> bytes:
    packed = [zlib.compress(one) for one in matrices]
    written = [struct.pack("<2I", 15, len(one)) + one for one in packed] if compress else matrices
    return b"MATLAB 5.0 MAT-file, made by a test".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(written)


def write_svhn(folder: Path, *, extra: bool = False, compress: bool = True) -> dict[str, Bytes]:
    """SVHN's files: image i has the label i mod 10 + 1; images N,H,W,C by part."""
    made = {"train": noise(11, 32, 32, 3, seed=5), "test": noise(4, 32, 32, 3, seed=6)} | (
        {"extra": noise(3, 32, 32, 3, seed=7)} if extra else {}
    )
    for part, images_NHWC in made.items():
        labels_N = np.array([i % 10 + 1 for i in range(len(images_NHWC))], np.uint8)
        matrices = matrix("X", images_NHWC.transpose(1, 2, 3, 0), 2, 9), matrix("y", labels_N, 2, 6)
        (folder / f"{part}_32x32.mat").write_bytes(matlab_file(*matrices, compress=compress))
    return made
