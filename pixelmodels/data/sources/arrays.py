"""Images in NumPy's arrays: one `.npz` or `.npy` file, or a folder of them. Keys are `<array>/0000000`.

- **Images** are arrays N,H,W or N,H,W,C or N,C,H,W, with C of 1 or 3, which one is told by that size. Whole numbers 0..255 of any type
  are taken as they are; where no image has more than 1, and for bool, there are two levels. Floats of 0..1 become the nearest of 256
  levels, round(255 x). Anything else is refused: what it should be is not guessed.
- **Names** say what an array is: images (`x`, `images`, `data`, ...; an array that is alone in its file), or labels (`y`, `labels`,
  `targets`, ...), and of which split (`x_train`, `val_images`, `test.npy`). In a folder the name of the file counts, too. What is left
  of the names tells sets apart, so that `kmnist-train-imgs.npz` goes with `kmnist-train-labels.npz`; numbers are parts of one set.
- **Labels** are one whole number or one text for each image. Numbers count classes from 0, or from 1 where that is the smallest; texts
  are sorted.

Arrays of objects would have to be unpickled, and are refused. Arrays of images are read a piece at a time.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pixelmodels.data.block import Block
from pixelmodels.data.config import DatasetConfig
from pixelmodels.data.folder_names import SPLIT_WORDS
from pixelmodels.data.npy import FAILURES, ArrayHead, array_names, open_array
from pixelmodels.data.packed import Contents, PackedSource, Part
from pixelmodels.data.recognition import instead
from pixelmodels.errors import UserError, unknown
from pixelmodels.storage import Storage

_IMAGES = {"x", "image", "images", "img", "imgs", "data", "pixels", "samples"}
_LABELS = {"y", "label", "labels", "target", "targets", "class"}
_NAMES = {"name", "names"}  # a word of arrays that are left alone: they tell what classes are called
_ENDINGS = (".npz", ".npy")
_CHANNELS = (1, 3)
_MOST_FILES = 1000
_MOST_LABEL_BYTES = 1024  # of one label
_ALWAYS_CLASSES = 1000  # up to here a number is the number of a class, however few of them there are
_UNNAMED = "unnamed"  # the set of arrays whose names say nothing more


@dataclass(frozen=True)
class _Array:
    """An array, and what its names say of it."""

    file: str
    name: str | None  # in an archive; None: the file is one array
    head: ArrayHead
    split: str | None
    is_labels: bool | None  # None: it is neither images nor labels
    set_name: str  # what is left of the names
    numbers: tuple[str, ...]  # of a part of a set

    @property
    def called(self) -> str:
        """How messages name it."""
        return f"'{self.name}' in '{self.file}'" if self.name else f"'{self.file}'"


class Arrays(PackedSource):
    """Source `arrays`. Variant: the name of a set, where the names in a folder tell several."""

    name = "arrays"
    about = "whoever made it, with numpy.savez or numpy.save"
    variants = ("the name of a set",)

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(replace(config, variant=None))
        self.variant = config.variant
        self.must_have_labels = config.labels is True
        self.class_names: tuple[str, ...] = ()  # known once all labels were read
        self.file: str | None = None  # where the path is one
        if str(config.path).lower().endswith(_ENDINGS) and self.storage.is_file(""):
            folder, _, self.file = self.storage.root.rpartition("/")
            self.storage = Storage(folder or "/")

    def parts(self) -> list[Part]:
        return list(self._chosen)

    def look(self, part: Part) -> Contents:
        images, labels = self._chosen[part]
        largest = 0
        with self.block(part) as block:
            # Names are part of the content: they say which split it is.
            digest = hashlib.sha256(f"{part.name}\0{part.split}\0{images.head.dtype.str}\0{block.axes}\0{block.sizes}\0".encode())
            for piece in self.pieces(part, block):
                if piece:
                    largest = max(largest, self._largest(images, np.frombuffer(piece, block.dtype)))
                digest.update(piece)
        found = self._labels(labels, block.count) if labels is not None else None
        digest.update(repr(found).encode())
        return Contents(block.count, block.shape_HWC, found, digest.hexdigest(), largest)

    def settled(self, found: list[Contents]) -> list[Contents]:
        used = {label for contents in found for label in contents.labels or () if label is not None}
        if self.must_have_labels and not used:
            raise UserError(f"'{self._where}' has no array of labels; name one y, labels or targets, or leave --labels out")
        numbers = {label for label in used if isinstance(label, int)}
        if numbers and len(numbers) != len(used):
            raise UserError(f"labels in '{self._where}' are numbers and texts; save one kind, or give --labels False")
        classes: list[int] | list[str] = sorted(str(label) for label in used)
        if numbers:
            lowest, last = min(numbers), max(numbers)
            if lowest < 0 or last >= max(_ALWAYS_CLASSES, 2 * len(numbers)):
                reason = f"labels in '{self._where}' are {lowest} to {last}, {len(numbers)} different ones: they number no classes"
                raise UserError(f"{reason}; number them from 0, or give --labels False")
            classes = list(range(1 if lowest == 1 else 0, last + 1))
        places = {label: place for place, label in enumerate(classes)}
        self.class_names = tuple(map(str, classes))
        return [replace(one, labels=one.labels and [None if label is None else places[label] for label in one.labels]) for one in found]

    def label_names(self, used: set[int]) -> tuple[str, ...]:
        return self.class_names

    def remarks(self, label_names: Sequence[str]) -> tuple[str, ...]:
        if label_names or not self.with_labels:
            return ()
        images = [array for array, _ in self._chosen.values()]
        others = [array.called for array in self._arrays if array not in images]
        beside = f"also there: {', '.join(others[:5])}" if others else "nothing else is there"
        return (f"images are taken from {images[0].called}, without labels ({beside}); call them y, labels or targets to have them",)

    def levels(self, found: list[Contents]) -> int:
        return 2 if max(contents.largest for contents in found) <= 1 else 256

    @contextmanager
    def block(self, part: Part) -> Iterator[Block]:
        images = self._chosen[part][0]
        axes, dtype = self._axes(images), images.head.dtype
        with self._open(images.file, images.name) as (stream, head):
            if head != images.head:
                raise UserError(f"'{self.storage.uri(images.file)}' changed while it was read; run the same command again")
            kind, is_packed = np.dtype(np.uint8) if dtype.kind == "b" else dtype, images.name is not None
            block = Block(stream, head.shape[0], head.shape[1:], axes, kind, is_packed=is_packed)
            self.check_size(images.file, block)
            yield block

    def bad(self, file: str, reason: str) -> UserError:
        return UserError(f"'{self.storage.uri(file)}' will not do ({reason})")

    def _axes(self, images: _Array) -> str:
        """The axes of each image of an array; raises `UserError` for what are no images."""
        shape, dtype = images.head.shape, images.head.dtype
        called = f"{images.called} is {dtype} shaped {shape}"
        if dtype.kind not in "uibf":
            raise self.bad(images.file, f"{called}; save whole numbers 0..255 (uint8), bool, or floats of 0..1")
        if images.head.is_fortran:
            raise self.bad(images.file, f"{called}, in Fortran's order; save numpy.ascontiguousarray of it")
        if len(shape) == 3 and shape[2] not in _CHANNELS:
            return "HW"
        choices = [axes for axes, place in (("HWC", 3), ("CHW", 1)) if len(shape) == 4 and shape[place] in _CHANNELS]
        if len(choices) == 1:
            return choices[0]
        unclear = len(shape) == 3 or len(choices) == 2
        reason = "which may be read in two ways" if unclear else "which are no images"
        raise self.bad(images.file, f"{called}, {reason}; save it as images x rows x columns x channels, with 1 or 3 channels")

    def _largest(self, images: _Array, values: npt.NDArray[Any]) -> int:
        """An upper bound of the pixels of some values; raises `UserError` for those that stand for none."""
        kind, low, high = images.head.dtype.kind, values.min(), values.max()
        most = {"f": 1, "b": 1}.get(kind, 255)
        if not (low >= 0 and high <= most):  # also where one is not a number
            taken = "floats are taken where they are 0..1" if kind == "f" else f"pixels are 0..{most}"
            remedy = "save numpy.round(x).astype(numpy.uint8) of 0..255" if kind == "f" and low >= 0 else "save uint8"
            raise self.bad(images.file, f"{images.called} has values from {low} to {high}, and {taken}; {remedy}")
        return 255 if kind == "f" else int(high)

    def _labels(self, labels: _Array, count: int) -> list[int | str | None]:
        head = labels.head
        called = f"{labels.called} is {head.dtype} shaped {head.shape}"
        if head.shape not in ((count,), (count, 1)):
            raise self.bad(labels.file, f"{called}, for {count} images; save one label for each, or give --labels False")
        if head.dtype.kind not in "uibfUS" or head.dtype.itemsize > _MOST_LABEL_BYTES:
            raise self.bad(labels.file, f"{called}; save labels as whole numbers or texts, or give --labels False")
        with self._open(labels.file, labels.name) as (stream, head):
            values_N = head.values(stream, count * _MOST_LABEL_BYTES).ravel()
        if head.dtype.kind == "f" and not np.all(np.mod(values_N, 1) == 0):
            raise self.bad(labels.file, f"{called}, and some are no whole numbers; save whole numbers, or give --labels False")
        if head.dtype.kind in "US":
            return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values_N.tolist()]
        return [int(value) for value in values_N.tolist()]

    @property
    def _where(self) -> str:
        """The file, or the folder."""
        return self.storage.uri(self.file or "")

    # --- which array is what ---

    @cached_property
    def _arrays(self) -> list[_Array]:
        return [array for file in self._files() for array in self._arrays_of(file)]

    @cached_property
    def _chosen(self) -> dict[Part, tuple[_Array, _Array | None]]:
        """Parts, with their array of images and that of their labels."""
        arrays = self._arrays
        images = [array for array in arrays if array.is_labels is False and self.file in (None, array.file)]
        if not images:
            seen = ", ".join(f"{array.called} {array.head.dtype} {array.head.shape}" for array in arrays[:5]) or "no array"
            remedy = "give .npz or .npy files with an array of images x rows x columns (x channels), called images or x_train, say"
            raise UserError(f"'{self._where}' holds no images ({seen}); {remedy}{instead(self.storage, self.name)}")
        sets = sorted({array.set_name for array in images})
        if self.variant is not None and self.variant not in sets:
            raise unknown(f"set of '{self._where}'", self.variant, sets)
        if len(sets) > 1 and self.variant is None:
            raise UserError(f"'{self._where}' holds several sets of images ({', '.join(sets)}); give --variant NAME")
        images = [array for array in images if self.variant in (None, array.set_name)]
        kinds = {array.head.dtype.kind == "b" for array in images}
        if len(kinds) > 1:
            raise UserError(f"arrays in '{self._where}' are of bool and of numbers; save one kind")
        twice = [key for key, count in Counter((array.split, array.set_name, array.numbers) for array in images).items() if count > 1]
        if twice:
            both = " and ".join(array.called for array in images if (array.split, array.set_name, array.numbers) == twice[0])
            raise UserError(f"in '{self._where}' {both} are images of the same split; keep one of them, or number them")
        names = _part_names(images)
        return {
            Part(name, array.split, array.file, labels.file if labels else None): (array, labels)
            for name, array in sorted(zip(names, images, strict=True), key=lambda pair: pair[0])
            for labels in [self._labels_for(array, arrays) if self.with_labels else None]
        }

    def _labels_for(self, images: _Array, arrays: list[_Array]) -> _Array | None:
        """The labels of an array of images: those in its file, or else those whose names say the same; none where there are none."""
        for is_same in (
            lambda one: one.file == images.file and one.set_name == images.set_name,
            lambda one: one.file == images.file,
            lambda one: one.set_name == images.set_name,
        ):
            found = [
                array
                for array in arrays
                if array.is_labels and array.split == images.split and array.numbers == images.numbers and is_same(array)
            ]
            if len(found) > 1:
                several = ", ".join(array.called for array in found)
                raise UserError(f"in '{self.storage.root}' several arrays are labels of {images.called} ({several}); keep one of them")
            if found:
                return found[0]
        return None

    def _files(self) -> list[str]:
        with self.reading(""):
            names = self.storage.list() if self.storage.exists() else []
        files = [name for name in names if name.lower().endswith(_ENDINGS) and not name.startswith(".")]
        if len(files) > _MOST_FILES:
            number = f"'{self.storage.root}' holds {len(files)} arrays, more than {_MOST_FILES}"
            raise UserError(f"{number}; stack the images of many files into one array (numpy.stack, numpy.save)")
        if self.file is not None:  # others count where they may hold its labels
            files = [name for name in files if name == self.file or _Words.of(name).is_labels]
        return files

    def _arrays_of(self, file: str) -> list[_Array]:
        stem, is_archive = posixpath.splitext(file)[0], file.lower().endswith(".npz")
        names: list[str | None] = [None]
        if is_archive:
            with self.open(file) as raw, self._telling(file):
                names = [*array_names(raw)]
        arrays = []
        for name in names:
            if name is not None and _NAMES & set(_words_of(name)):
                continue
            with self._open(file, name) as (_, head):
                pass
            words = _Words.of(stem).and_of(name)
            is_labels = words.is_labels
            if is_labels is None and len(head.shape) >= 3:
                is_labels = False
            elif is_labels is None and name is not None and re.fullmatch(r"arr_\d+", name) and len(names) > 1:
                is_labels = True  # numpy.savez(file, images, labels)
            arrays.append(_Array(file, name, head, words.split, is_labels, "-".join(words.rest) or _UNNAMED, words.numbers))
        return arrays

    @contextmanager
    def _open(self, file: str, name: str | None) -> Iterator[tuple[IO[bytes], ArrayHead]]:
        with self.open(file) as raw, self._telling(file), open_array(raw, name) as (stream, head):
            yield stream, head

    @contextmanager
    def _telling(self, file: str) -> Iterator[None]:
        """Tell in one line what is wrong with a file."""
        try:
            yield
        except FAILURES as error:
            raise self.bad(file, f"{error}; save it again, with numpy.save or numpy.savez") from error


@dataclass(frozen=True)
class _Words:
    """What the words of a name say."""

    split: str | None = None
    is_labels: bool | None = None
    rest: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    @staticmethod
    def of(name: str) -> _Words:
        text = re.sub(r"\.(npz|npy)$|^arr_\d+$", "", name, flags=re.IGNORECASE)
        words = _words_of(text)
        kinds = {word in _LABELS for word in words if word in _LABELS | _IMAGES}
        rest = [word for word in words if word not in SPLIT_WORDS and word not in _LABELS | _IMAGES]
        return _Words(
            split=next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None),
            is_labels=max(kinds, default=None),
            rest=tuple(word for word in rest if not word.isdecimal()),
            numbers=tuple(word for word in rest if word.isdecimal()),
        )

    def and_of(self, name: str | None) -> _Words:
        """With what the name of an array in the file says, which counts first."""
        inner = _Words.of(name or "")
        is_labels = self.is_labels if inner.is_labels is None and not inner.rest else inner.is_labels
        return _Words(inner.split or self.split, is_labels, (*self.rest, *inner.rest), (*self.numbers, *inner.numbers))


def _words_of(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]


def _part_names(images: list[_Array]) -> list[str]:
    """A name for each array, that holds no slash; that of the file is left out where there is one file."""
    inside = [(array.name or posixpath.splitext(array.file)[0]).replace("/", ".") for array in images]
    if len({array.file for array in images}) == 1:
        return inside
    return [f"{posixpath.splitext(array.file)[0]}.{name}" if array.name else name for array, name in zip(images, inside, strict=True)]
